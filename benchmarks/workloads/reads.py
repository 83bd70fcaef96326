"""Reads that give many events, again and again for a while: of the whole log, of a type, of a
category."""

import time
from typing import Literal

from contestants.contestant import Contestant
from meter import Meter
from workloads.content import RARE_CATEGORY, RARE_TYPE

What = Literal["log", "type", "category"]


async def measure(
    client: Contestant, meter: Meter, *, what: What, events: int, seconds: float
) -> None:
    """Reads, and checks each time that so many events came."""
    await client.open()
    await _read(client, what)
    with meter.measuring() as began:
        while time.perf_counter() < began + seconds:
            before = time.perf_counter()
            count = await _read(client, what)
            meter.latencies.append(time.perf_counter() - before)
            if count != events:
                raise RuntimeError(f"a read gave {count} of {events} events")
    meter.operations = len(meter.latencies) * events
    await client.close()


async def _read(client: Contestant, what: What) -> int:
    match what:
        case "log":
            return await client.read_log()
        case "type":
            return await client.read_type(RARE_TYPE)
        case "category":
            return await client.read_category(RARE_CATEGORY)
