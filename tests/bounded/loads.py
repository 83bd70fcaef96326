"""What bears down on a server, in processes of their own: so that who measures is not slowed
down by it.

    python loads.py NAME ADDRESS SECONDS [NUMBER]

Each of the functions here is a load of that name. It says `ready` on standard output once it
bears down, and at the end what came of it, as one line of JSON.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / folder) for folder in ("", "contract", "faults")]


from calls import ALL, append_to, make_event  # noqa: E402
from traffic import reason_of, stub  # noqa: E402
from treering.v1.event_store_service_pb2 import (  # noqa: E402
    AppendCondition,
    AppendItem,
    AppendManyRequest,
    AppendRequest,
    ReadRequest,
    StreamAppend,
    SubscribeRequest,
)
from treering.v1.query_pb2 import Query, QueryItem  # noqa: E402

STREAMS_A_CONNECTION = 500
DATA = b"x" * 250


def connect(address: str) -> "grpc.aio.Channel":
    """A connection of its own, whatever others there are."""
    return grpc.aio.insecure_channel(
        address,
        options=[
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
        ],
    )


async def flood(
    address: str, seconds: float, clients: int, requests: Callable[[int], Any], depth: int
) -> Counter[str]:
    """Clients that each have so many calls under way, at any time."""
    outcomes: Counter[str] = Counter()
    ends = time.monotonic() + seconds

    async def one(event_store: Any, number: int) -> None:
        while time.monotonic() < ends:
            try:
                await event_store.Append(requests(number), timeout=30)
                outcomes["done"] += 1
            except grpc.RpcError as error:
                outcomes[reason_of(error)] += 1
                await asyncio.sleep(0.05)

    channels = [connect(address) for _ in range(clients)]
    say("ready")
    await asyncio.gather(
        *(
            one(stub(channel), number)
            for number, channel in enumerate(channels)
            for _ in range(depth)
        )
    )
    await asyncio.gather(*(channel.close() for channel in channels))
    return outcomes


async def small_appends(address: str, seconds: float, clients: int = 64) -> Counter[str]:
    """Each client with a hundred small appends under way."""
    return await flood(
        address, seconds, clients, lambda number: append_to(f"flood-{number}"), depth=100
    )


async def largest_appends(address: str, seconds: float, clients: int = 32) -> Counter[str]:
    """Each client with one of the largest requests under way."""
    # Without ids, which the server then makes: to make them here would take longer.
    events = [make_event(id="", data=b"x" * 390) for _ in range(10_000)]
    request = AppendRequest(appends=[StreamAppend(events=events)])

    def renewed(number: int) -> AppendRequest:
        request.appends[0].stream = f"large-{number}"
        return request

    return await flood(address, seconds, clients, renewed, depth=1)


async def one_large_event(address: str, seconds: float, clients: int = 64) -> Counter[str]:
    """Each client with twenty appends of a megabyte under way."""
    event = make_event(id="", data=b"x" * 1_000_000)
    return await flood(
        address, seconds, clients, lambda number: append_to(f"mega-{number}", event), depth=20
    )


async def pipelines(address: str, seconds: float, clients: int = 64) -> Counter[str]:
    """Each client sends messages of a hundred appends as fast as it can."""
    outcomes: Counter[str] = Counter()
    ends = time.monotonic() + seconds

    async def one(number: int) -> None:
        async with connect(address) as channel:
            event_store = stub(channel)

            async def messages() -> AsyncIterator[AppendManyRequest]:
                request_id = 0
                while time.monotonic() < ends:
                    items = []
                    for _ in range(100):
                        request_id += 1
                        append = append_to(f"pipe-{number}", make_event(data=DATA))
                        items.append(AppendItem(request_id=request_id, append=append))
                    yield AppendManyRequest(items=items)

            try:
                async for response in event_store.AppendMany(messages()):
                    outcomes["done"] += len(response.results)
            except grpc.RpcError as error:
                outcomes[reason_of(error)] += 1

    say("ready")
    await asyncio.gather(*map(one, range(clients)))
    return outcomes


async def costly_conditions(address: str, seconds: float, clients: int = 32) -> Counter[str]:
    """Appends whose conditions match nothing, and take long to find it out: no event has both
    tags, and every second has either."""
    query = Query(items=[QueryItem(tags=["half:0", "half:1"])])

    def request(number: int) -> AppendRequest:
        one = append_to(f"costly-{number}", make_event(data=DATA))
        one.conditions.append(AppendCondition(fail_if_match=query, after_position=0))
        return one

    return await flood(address, seconds, clients, request, depth=4)


async def reads(address: str, seconds: float, number: int = 1_000) -> Counter[str]:
    """Reads of the whole log: every second one takes a message, and then no more."""
    outcomes: Counter[str] = Counter()
    ends = time.monotonic() + seconds
    channels = [connect(address) for _ in range(-(-number // STREAMS_A_CONNECTION))]

    async def one(ordinal: int) -> None:
        event_store = stub(channels[ordinal % len(channels)])
        while time.monotonic() < ends:
            call = event_store.Read(ReadRequest(query=ALL))
            try:
                async with asyncio.timeout(ends - time.monotonic()):
                    async for response in call:
                        outcomes["events"] += len(response.events)
                        if ordinal % 2:
                            await asyncio.sleep(seconds)
                outcomes["done"] += 1
            except TimeoutError:
                outcomes["broken off"] += 1
            except grpc.RpcError as error:
                outcomes[reason_of(error)] += 1
                await asyncio.sleep(0.05)
            finally:
                call.cancel()

    say("ready")
    await asyncio.gather(*map(one, range(number)))
    return outcomes


async def subscribers(
    address: str, seconds: float, number: int = 5_000, *, stop_reading: bool = False
) -> Counter[str]:
    """Subscribers that wait, all for the same; perhaps they stop reading once they started."""
    outcomes: Counter[str] = Counter()
    channels = [connect(address) for _ in range(-(-number // STREAMS_A_CONNECTION))]
    started = asyncio.Event()

    async def one(ordinal: int) -> None:
        event_store = stub(channels[ordinal % len(channels)])
        call = event_store.Subscribe(SubscribeRequest(query=ALL, from_head=True))
        try:
            async for response in call:
                if response.HasField("caught_up"):
                    outcomes["caught up"] += 1
                    if outcomes["caught up"] == number:
                        started.set()
                    if stop_reading:
                        await asyncio.sleep(10_000)
                outcomes["events"] += len(response.events.events)
        except grpc.RpcError as error:
            outcomes[reason_of(error)] += 1

    tasks = [asyncio.create_task(one(ordinal)) for ordinal in range(number)]
    await started.wait()
    say("ready")
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return outcomes


async def stuck_subscribers(address: str, seconds: float, number: int = 200) -> Counter[str]:
    """Subscribers that stop reading."""
    return await subscribers(address, seconds, number, stop_reading=True)


LOADS: Sequence[Callable[..., Awaitable[Counter[str]]]] = (
    small_appends,
    largest_appends,
    one_large_event,
    pipelines,
    costly_conditions,
    reads,
    subscribers,
    stuck_subscribers,
)


def say(text: str) -> None:
    """Tells whoever started us, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(name: str, address: str, seconds: str, *number: str) -> None:
    """The program."""
    (load,) = (load for load in LOADS if load.__name__ == name)
    outcomes = asyncio.run(load(address, float(seconds), *map(int, number)))
    say(json.dumps(outcomes))


if __name__ == "__main__":
    main(*sys.argv[1:])
