"""Reads of the whole log as bytes, which nobody takes apart: what a server can send."""

import time

from contestants.contestant import Contestant
from meter import Meter


async def measure(client: Contestant, meter: Meter, *, events: int, seconds: float) -> None:
    """Reads the log of so many events again and again."""
    await client.open()
    size = await client.read_wire()
    with meter.measuring() as began:
        while time.perf_counter() < began + seconds:
            before = time.perf_counter()
            if await client.read_wire() != size:
                raise RuntimeError("two reads of one log differ in size")
            meter.latencies.append(time.perf_counter() - before)
    meter.operations = len(meter.latencies) * events
    meter.extra["bytes/event"] = size / events
    await client.close()
