"""How long a store takes from being started until it has acknowledged a client's first event."""

import time

from contestants.contestant import Contestant
from meter import Meter
from ports import listens
from workloads.content import new_event

PAUSE_SECONDS = 0.002
PATIENCE_SECONDS = 30.0


async def measure(client: Contestant, meter: Meter) -> None:
    """Begins when it is being started."""
    with meter.measuring() as began:
        # Clients would wait between their own attempts to connect, longer than is measured.
        while client.place.port and not listens(client.place.port):
            if time.perf_counter() > began + PATIENCE_SECONDS:
                raise RuntimeError("nothing listens")
            time.sleep(PAUSE_SECONDS)  # noqa: ASYNC251
        await client.open()
        await client.append([new_event("first", 1)])
    meter.operations = 1
    await client.close()
