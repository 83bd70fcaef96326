"""How fast a whole log is read, again and again for a while: through the client, event by
event, and as the messages that the server sends, which nobody takes apart meanwhile."""

import time

import grpc.aio

from checks import check_dense
from figures import Figure
from processes import Processes
from treering import AsyncClient
from treering.v1.event_store_service_pb2 import ReadRequest, ReadResponse
from treering.v1.query_pb2 import Query

READ = "/treering.v1.EventStoreService/Read"


async def measure_raw_read(
    address: str, events: int, seconds: float, processes: Processes
) -> list[Figure]:
    """Reads as bytes, and looks into those of the last time afterwards."""
    request = ReadRequest(query=Query(all=True)).SerializeToString()
    times = size = 0
    async with grpc.aio.insecure_channel(address) as channel:
        read = channel.unary_stream(READ)
        before = processes.cpu()
        began = time.perf_counter()
        while time.perf_counter() < began + seconds:
            messages = [message async for message in read(request)]
            times += 1
            size += sum(map(len, messages))
        took = time.perf_counter() - began
        used = processes.cpu()
    responses = [ReadResponse.FromString(message) for message in messages]
    log = [event for response in responses for event in response.events]
    check_dense(log)
    if len(log) != events:
        raise RuntimeError(f"a read gave {len(log)} of {events} events")
    return [
        Figure("read, raw", "rate", "events/s", times * events / took),
        Figure("read, raw", "bytes", "MB/s", size / took / 1e6),
        *used.per(times * events, "read, raw", "event", before),
    ]


async def measure_client_read(
    address: str, events: int, seconds: float, processes: Processes
) -> list[Figure]:
    """Reads with the client, and looks at each event's position."""
    times = 0
    async with AsyncClient(address) as client:
        before = processes.cpu()
        began = time.perf_counter()
        while time.perf_counter() < began + seconds:
            position = 0
            async for event in client.read():
                position += 1
                if event.position != position:
                    raise RuntimeError(f"a read gave {event} where position {position} was due")
            if position != events:
                raise RuntimeError(f"a read gave {position} of {events} events")
            times += 1
        took = time.perf_counter() - began
        used = processes.cpu()
    return [
        Figure("read, client", "rate", "events/s", times * events / took),
        *used.per(times * events, "read, client", "event", before),
    ]
