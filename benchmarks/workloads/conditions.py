"""Appends with a condition on type and tags, as of a decision that looked at the events with
these tags and no others: by callers that each decide on tags of their own, one after the other."""

import time

from contestants.contestant import Contestant
from meter import Meter
from workloads.content import TYPE, check, new_event
from workloads.pace import again_and_again


async def measure(
    client: Contestant, meter: Meter, *, in_flight: int, tags: int, seconds: float
) -> None:
    """Appends with so many tags in each condition for so long, and then checks the log."""
    names = [f"decision-{in_flight}x{tags}x{number}" for number in range(in_flight)]
    versions = dict.fromkeys(names, 0)
    positions = dict.fromkeys(names, 0)
    latencies = meter.latencies
    first: list[int] = []

    async def append(name: str) -> None:
        version = versions[name] + 1
        tagged = tuple(f"{name}:{tag}" for tag in range(tags))
        event = new_event(name, version, TYPE, tagged)
        began = time.perf_counter()
        positions[name] = await client.append_if_none(event, positions[name])
        latencies.append(time.perf_counter() - began)
        versions[name] = version
        if version == 1:
            first.append(positions[name])

    await client.open()
    await again_and_again(client, meter, append, names, seconds)
    meter.operations = len(latencies)
    await check(client, versions, min(first) - 1)
    await client.close()
