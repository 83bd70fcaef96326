"""Loads of single streams out of many, chosen by chance."""

import random
import time

from contestants.contestant import Contestant
from meter import Meter
from workloads.content import filled_stream
from workloads.fill import EVENTS_PER_STREAM
from workloads.pace import again_and_again

SEED = 3


async def measure(
    client: Contestant,
    meter: Meter,
    *,
    streams: int,
    in_flight: int,
    seconds: float,
    named: int = 1,
) -> None:
    """Callers load a stream after the other, or so many by each read, where more are named."""
    chance = random.Random(SEED)

    async def load(_caller: int) -> None:
        names = [filled_stream(chance.randrange(streams)) for _ in range(named)]
        before = time.perf_counter()
        # Two of the names may be the same.
        if named == 1:
            count = await client.load(names[0])
        else:
            count = await client.load_many(names)
        meter.latencies.append(time.perf_counter() - before)
        if count != len(set(names)) * EVENTS_PER_STREAM:
            raise RuntimeError(f"loading {names} gave {count} events")

    await client.open()
    await again_and_again(client, meter, load, range(in_flight), seconds)
    meter.operations = len(meter.latencies) * named
    await client.close()
