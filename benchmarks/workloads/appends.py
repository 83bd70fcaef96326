"""Appends to streams at the version they have, by callers that each wait for their answer
before they append again, each to a stream of its own."""

import time

from contestants.contestant import Contestant
from meter import Meter
from workloads.content import check, new_event
from workloads.pace import again_and_again


async def measure(
    client: Contestant,
    meter: Meter,
    *,
    in_flight: int,
    events: int,
    seconds: float,
    prefix: str = "load",
) -> None:
    """Appends so many events at once for so long, and then checks the log."""
    streams = [f"{prefix}-{in_flight}x{events}x{number}" for number in range(in_flight)]
    versions = dict.fromkeys(streams, 0)
    latencies = meter.latencies
    first: list[int] = []

    async def append(stream: str) -> None:
        version = versions[stream]
        batch = [new_event(stream, version + number) for number in range(1, events + 1)]
        began = time.perf_counter()
        position = await client.append(batch)
        latencies.append(time.perf_counter() - began)
        versions[stream] = version + events
        if not version:
            # Where a store tells no positions, all of its log is checked.
            first.append(0 if position is None else position - events)

    await client.open()
    await again_and_again(client, meter, append, streams, seconds)
    meter.operations = len(latencies) * events
    await check(client, versions, min(first))
    await client.close()
