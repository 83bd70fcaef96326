"""Appends with a condition on type and tags, as of a decision that looked at the events with
these tags and no others: by callers that each decide on tags of their own, one after the other."""

import time

from contestants.contestant import Contestant
from meter import Meter
from workloads.content import TYPE, check, new_event


async def measure(
    client: Contestant, meter: Meter, *, in_flight: int, tags: int, seconds: float
) -> None:
    """Appends with so many tags in each condition for so long, and then checks the log."""
    names = [f"decision-{in_flight}x{tags}x{number}" for number in range(in_flight)]
    versions = dict.fromkeys(names, 0)
    positions = dict.fromkeys(names, 0)
    latencies = meter.latencies

    async def append(name: str) -> None:
        version = versions[name] + 1
        tagged = tuple(f"{name}:{tag}" for tag in range(tags))
        event = new_event(name, version, TYPE, tagged)
        began = time.perf_counter()
        positions[name] = await client.append_if_none(event, positions[name])
        latencies.append(time.perf_counter() - began)
        versions[name] = version

    async def caller(name: str) -> None:
        while time.perf_counter() < end:
            await append(name)

    await client.open()
    await client.concurrency.all(append(name) for name in names)
    after = min(positions.values()) - 1
    latencies.clear()
    with meter.measuring() as began:
        end = began + seconds
        await client.concurrency.all(caller(name) for name in names)
    meter.operations = len(latencies)
    await check(client, versions, after)
    await client.close()
