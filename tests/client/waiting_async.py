"""Waiting for what happens elsewhere, while the event loop goes on."""

import asyncio
import time
from collections.abc import Callable

WAIT_SECONDS = 10.0


async def eventually(condition: Callable[[], bool]) -> None:
    """Returns as soon as the condition holds, and fails if it does not in time."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.01)
