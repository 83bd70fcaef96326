"""Callers that do something again and again for a while, each waiting for its end."""

import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from contestants.contestant import Contestant
from meter import Meter

T = TypeVar("T")


async def again_and_again(
    client: Contestant,
    meter: Meter,
    step: Callable[[T], Coroutine[Any, Any, None]],
    callers: Sequence[T],
    seconds: float,
) -> None:
    """Measures the steps of these callers, side by side. Each makes one before it counts, so that
    connections are made and what is written to is begun."""

    async def caller(each: T) -> None:
        while time.perf_counter() < end:
            await step(each)

    await client.concurrency.all(step(each) for each in callers)
    meter.latencies.clear()
    with meter.measuring() as began:
        end = began + seconds
        await client.concurrency.all(caller(each) for each in callers)
