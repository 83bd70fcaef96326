"""How long an event takes from the call that appends it to a subscriber that waits for it.

Both are in this process, with a connection each, so that one clock measures.
"""

import asyncio
import time
from uuid import UUID

from checks import check_ordered
from figures import Figure, latencies
from treering import AsyncClient, AsyncSubscription, CaughtUp, Event, RecordedEvent

STREAM = "delivery"
PATIENCE_SECONDS = 30.0


async def measure_delivery(
    address: str, rate: float, seconds: float
) -> tuple[dict[str, int], list[Figure]]:
    """Appends one event after the other, at that rate or more slowly, for that long."""
    count = max(2, round(rate * seconds))
    sent: dict[UUID, float] = {}
    acknowledged: dict[str, int] = {}
    async with (
        AsyncClient(address) as appender,
        AsyncClient(address) as follower,
        follower.subscribe(from_head=True) as subscription,
    ):
        async for item in subscription:
            if isinstance(item, CaughtUp):
                break
        receiving = asyncio.create_task(_receive(subscription, count))
        began = time.perf_counter()
        for number in range(count):
            await asyncio.sleep(began + number / rate - time.perf_counter())
            event = Event("Sent", {"number": number})
            sent[event.id] = time.perf_counter()
            appended = await appender.append(STREAM, event)
            acknowledged[str(event.id)] = appended.last_position
        async with asyncio.timeout(PATIENCE_SECONDS):
            received = await receiving
    check_ordered([event for event, _ in received])
    if [event.id for event, _ in received] != list(sent):
        raise RuntimeError("what the subscriber received is not what was appended")
    times = [at - sent[event.id] for event, at in received]
    return acknowledged, latencies("append to subscriber", times)


async def _receive(
    subscription: AsyncSubscription, count: int
) -> list[tuple[RecordedEvent, float]]:
    received: list[tuple[RecordedEvent, float]] = []
    async for event in subscription.events():
        received.append((event, time.perf_counter()))
        if len(received) == count:
            break
    return received
