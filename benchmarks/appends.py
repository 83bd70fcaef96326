"""How fast single events are appended, by some number of callers that each wait for an answer
before they append again. All share one client, which sends what they have together."""

import asyncio
import time
from uuid import UUID

from figures import Figure, latencies
from processes import Processes
from treering import AsyncClient, Event

DATA = {"amount": 1_250_00, "currency": "EUR", "to": "DE89370400440532013000", "note": "x" * 160}


async def measure_appends(
    address: str, in_flight: int, seconds: float, processes: Processes
) -> tuple[dict[str, int], list[Figure]]:
    """Appends for that long, and gives the position that each event was acknowledged at."""
    measure = f"append, {in_flight} in flight"
    acknowledged: dict[UUID, int] = {}
    times: list[float] = []

    async def append(client: AsyncClient, stream: str) -> None:
        event = Event("PaymentPlaced", DATA)
        began = time.perf_counter()
        appended = await client.append(stream, event)
        times.append(time.perf_counter() - began)
        acknowledged[event.id] = appended.last_position

    async def caller(client: AsyncClient, stream: str) -> None:
        while time.perf_counter() < end:
            await append(client, stream)

    streams = [f"load-{in_flight}-{number}" for number in range(in_flight)]
    async with AsyncClient(address) as client:
        # So that connections are made and streams begun.
        await asyncio.gather(*(append(client, stream) for stream in streams))
        times.clear()
        before = processes.cpu()
        began = time.perf_counter()
        end = began + seconds
        await asyncio.gather(*(caller(client, stream) for stream in streams))
        took = time.perf_counter() - began
        used = processes.cpu()
    return {str(id): position for id, position in acknowledged.items()}, [
        Figure(measure, "rate", "events/s", len(times) / took),
        *latencies(measure, times),
        *used.per(len(times), measure, "event", before),
    ]
