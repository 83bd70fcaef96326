"""Floods over raw HTTP/2 and TCP: calls taken back at once, pings, settings, headers without end,
connections by the thousand. A bystander is served all the while; the server grows by no more than
is said here, gives back what it opened, and writes nothing.

`FAULT_LONG=1` floods ten times as much.
"""

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack

import grpc
import psutil
import pytest
from google.protobuf.duration_pb2 import Duration

from bystander import DATABASE_FILES, OWN_CHANNEL, attacked, check_served, wait_for_files
from calls import ALL, append, append_to, head_of, read
from databases import sqlite_url
from runs import LONG, count
from servers import ServerProcess
from treering.v1.event_store_service_pb2 import SubscribeRequest
from treering.v1.event_store_service_pb2_grpc import EventStoreServiceStub
from wire import (
    LAST,
    PREFACE,
    Connection,
    Kind,
    begin,
    block,
    call,
    frame,
    headers,
    reset,
    settings,
)

TIMES = 10 if LONG else 1
AT_ONCE = 500
"""Calls or frames that are sent in one go."""
SUBSCRIBE = headers(path=b"/treering.v1.EventStoreService/Subscribe", grpc_timeout=b"60S")
APPEND = headers(path=b"/treering.v1.EventStoreService/Append", grpc_timeout=b"60S")
WHOLE_LOG = SubscribeRequest(
    query=ALL, from_head=True, heartbeat_interval=Duration(seconds=60)
).SerializeToString()
SUBSCRIPTIONS = 5_000
CONNECTION_CALLS = 6_000
REFUSED_STREAM, ENHANCE_YOUR_CALM = 7, 11


@pytest.fixture(scope="module")
def flooded(tmp_path_factory):
    """The server of all floods, one after the other."""
    url = sqlite_url(tmp_path_factory.mktemp("flooded"))
    # So small a ring that what the bystander appends is not what the server grows by.
    with ServerProcess(url, log_format="json", feed_bytes=100_000) as server:
        yield server


def streams(numbers: range) -> list[int]:
    """The numbers of streams that a client may begin."""
    return [2 * number + 1 for number in numbers]


def flood(connection: Connection, total: int, piece: Callable[[range], bytes]) -> int:
    """Sends so many, in pieces, while reading what comes, until the server takes no more of it;
    then waits until it has read all. How many were sent."""
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(connection.until_read, 60 * (4 if LONG else 1))
        sent = 0
        while sent < total and connection.send(piece(range(sent, sent + AT_ONCE))):
            sent += AT_ONCE
        connection.send(LAST)
        assert reading.result()
    return sent


def rapid_reset(address: str, *, agreeing: bool) -> None:
    """Calls that are taken back at once."""
    with Connection(address) as connection:
        if agreeing:
            connection.agree()
        flood(
            connection,
            10_000 * TIMES,
            lambda part: b"".join(call(stream) + reset(stream) for stream in streams(part)),
        )


def late_reset(address: str) -> None:
    """Calls that are taken back when the server has begun with them."""
    with Connection(address) as connection:
        connection.agree()

        def piece(part: range) -> bytes:
            begun = b"".join(call(stream, SUBSCRIBE, WHOLE_LOG) for stream in streams(part))
            before = range(max(0, part.start - AT_ONCE), part.start)
            return begun + b"".join(map(reset, streams(before)))

        flood(connection, 5_000 * TIMES, piece)


def unfinished_calls(address: str) -> None:
    """Calls whose message never comes."""
    with Connection(address) as connection:
        connection.agree()
        flood(connection, 2_000, lambda part: b"".join(begin(s, APPEND) for s in streams(part)))


def unknown_methods(address: str) -> None:
    """Calls of what is not there, by names that are none."""
    with Connection(address) as connection:
        connection.agree()
        flood(
            connection,
            2_000 * TIMES,
            lambda part: b"".join(call(s, headers(path=b"/\xff%d" % s)) for s in streams(part)),
        )


def pings(address: str) -> None:
    """Pings, more than anybody needs: sent away for it."""
    with Connection(address) as connection:
        connection.agree().patience(3)
        flood(connection, 20_000, lambda _: frame(Kind.PING, 0, 0, bytes(8)) * AT_ONCE)
        connection.drain(10)
        assert connection.is_closed
        assert connection.farewell in {None, b"too_many_pings"}


def frames(address: str, piece: bytes) -> None:
    """A frame, again and again, after a call that stays open."""
    with Connection(address) as connection:
        connection.agree().send(call(1, SUBSCRIBE, WHOLE_LOG))
        flood(connection, 100_000 * TIMES, lambda part: piece * AT_ONCE)


def unread(address: str, piece: bytes) -> None:
    """Frames that ask for an answer, and nobody who reads it."""
    with Connection(address) as connection:
        connection.agree().patience(3)
        for _ in range(20 * TIMES):
            if not connection.send(piece * 5_000):
                break


def headers_without_end(address: str) -> None:
    """Headers, and more of them, and no end."""
    part = frame(Kind.CONTINUATION, 0, 1, block([(b"x", b"v" * 16_000)]))
    with Connection(address) as connection:
        connection.agree().send(frame(Kind.HEADERS, 0, 1, block(headers())))
        flood(connection, 10_000 * TIMES, lambda _: part * AT_ONCE)


def empty_headers_without_end(address: str) -> None:
    """Parts of headers with nothing in them."""
    with Connection(address) as connection:
        connection.agree().send(frame(Kind.HEADERS, 0, 1, block(headers())))
        flood(connection, 50_000 * TIMES, lambda _: frame(Kind.CONTINUATION, 0, 1, b"") * AT_ONCE)


def large_metadata(address: str) -> None:
    """A MiB of metadata in each call, without agreeing to the server's settings first."""
    with Connection(address) as connection:
        for stream in streams(range(100)):
            if not connection.send(call(stream, headers((b"x", b"v" * 1024 * 1024)))):
                break
        connection.drain(1)


def many_connections(address: str) -> None:
    """Connections that say hello, and then nothing."""
    with ExitStack() as stack:
        for _ in range(500 * TIMES):
            stack.enter_context(Connection(address))


def torn_connections(address: str) -> None:
    """Connections that are torn as soon as they are there, in the middle of a call."""
    for _ in range(500 * TIMES):
        with Connection(address, PREFACE + settings() + begin(1)) as connection:
            connection.tear()


def slow_connections(address: str) -> None:
    """Connections that say one byte of what they have to say: hung up on after a while."""
    with ExitStack() as stack:
        slow = [stack.enter_context(Connection(address, PREFACE[:1])) for _ in range(100 * TIMES)]
        for connection in slow:
            connection.drain(20)
            assert connection.is_closed


FLOODS: dict[str, tuple[Callable[[str], None], float]] = {
    "calls taken back": (lambda address: rapid_reset(address, agreeing=True), 250),
    "calls taken back, settings not acknowledged": (
        lambda address: rapid_reset(address, agreeing=False),
        250,
    ),
    "calls taken back late": (late_reset, 300),
    "calls without a message": (unfinished_calls, 100),
    # What twenty thousand calls at once take is kept for the next: six such floods take no more.
    "methods that are not there": (unknown_methods, 128),
    "pings": (pings, 32),
    "settings": (lambda address: frames(address, settings(_3=100)), 32),
    "windows": (lambda address: frames(address, frame(Kind.WINDOW_UPDATE, 0, 1, b"\0\0\0\1")), 32),
    "priorities": (lambda address: frames(address, frame(Kind.PRIORITY, 0, 3, bytes(5))), 32),
    "data of nothing": (lambda address: frames(address, frame(Kind.DATA, 0, 1)), 32),
    "frames of no kind": (lambda address: frames(address, frame(99, 0, 1, b"x" * 100)), 32),
    "pings, answers not read": (
        lambda address: unread(address, frame(Kind.PING, 0, 0, bytes(8))),
        32,
    ),
    "settings, answers not read": (lambda address: unread(address, settings(_3=100)), 64),
    "headers without end": (headers_without_end, 100),
    "headers of nothing without end": (empty_headers_without_end, 32),
    "a MiB of metadata a call": (large_metadata, 500),
    "connections": (many_connections, 64 * TIMES),
    "connections torn": (torn_connections, 64),
    "connections that are slow": (slow_connections, 32),
}
"""What floods, and by how many MiB the server may grow."""
SLOWEST_SECONDS = 10.0
"""How long the bystander may wait, on a machine that others use too."""


@pytest.mark.timeout(600 if LONG else 120)
@pytest.mark.parametrize("name", FLOODS)
async def test_a_bystander_of_a_flood_is_served(flooded, name):
    attack, megabytes = FLOODS[name]
    sys.stdout.write(f"\n{name}: ")
    async with attacked(flooded, megabytes=megabytes, seconds=SLOWEST_SECONDS):
        await asyncio.to_thread(attack, flooded.address)
    count({f"floods: {name}": 1})


async def test_a_burst_of_honest_calls_is_served(server):
    """Several clients that connect at once with all that they have to say."""
    async with AsyncExitStack() as stack:
        stores = [
            EventStoreServiceStub(
                await stack.enter_async_context(
                    grpc.aio.insecure_channel(server.address, OWN_CHANNEL)
                )
            )
            for _ in range(4)
        ]
        await asyncio.gather(*(head_of(store) for store in stores))
        answers = await asyncio.gather(
            *(stores[n % 4].Append(append_to(f"a-{n}"), timeout=60) for n in range(6_000)),
        )
    assert sorted(answer.first_position for answer in answers) == list(range(1, 6_001))
    await check_served(server)


@pytest.mark.timeout(240)
async def test_5000_subscriptions_on_one_connection_leave_room_for_calls(server):
    async with grpc.aio.insecure_channel(server.address, OWN_CHANNEL) as channel:
        store = EventStoreServiceStub(channel)
        request = SubscribeRequest.FromString(WHOLE_LOG)
        calls = [store.Subscribe(request) for _ in range(SUBSCRIPTIONS)]
        async with asyncio.timeout(60):
            begun = await asyncio.gather(*(call.read() for call in calls))
        assert {response.WhichOneof("content") for response in begun} == {"started"}

        answer = await store.Append(append_to("a"), timeout=10)
        assert answer.first_position == 1


def test_10000_calls_of_one_connection_are_no_more_than_it_may_have(server):
    """Those beyond are refused, not left waiting; with the others gone there is room again."""
    with Connection(server.address) as connection:
        connection.agree()
        for part in range(0, 10_000, AT_ONCE):
            numbers = streams(range(part, part + AT_ONCE))
            connection.send(b"".join(call(stream, SUBSCRIBE, WHOLE_LOG) for stream in numbers))
        connection.send(LAST)
        refused = sum(
            received.kind == Kind.RST_STREAM
            and int.from_bytes(received.payload) in {REFUSED_STREAM, ENHANCE_YOUR_CALM}
            for received in connection.frames(10)
        )
        assert refused >= 10_000 - CONNECTION_CALLS
        assert not connection.is_closed
        connection.send(b"".join(map(reset, streams(range(10_000)))))
        connection.send(call(20_001, headers(grpc_timeout=b"30S")))
        end = connection.end_of(20_001, 30)
        assert end is not None and end.status == 0


@pytest.mark.timeout(240)
async def test_connections_beyond_what_there_may_be_are_hung_up_on(sqlite_file_url, server_process):
    """Who is connected is served as before, by all readers, since the database has its files.
    When the others are gone there is room again."""
    server = server_process(sqlite_file_url, log_format="json", max_connections=50)
    async with grpc.aio.insecure_channel(server.address, OWN_CHANNEL) as channel:
        store = EventStoreServiceStub(channel)
        await append(store, append_to("a"))
        process = psutil.Process(server.pid)
        files = process.num_fds()
        with ExitStack() as stack:
            connections = [
                stack.enter_context(Connection(server.address, PREFACE + settings()))
                for _ in range(100)
            ]
            hung_up_on = 0
            for connection in connections:
                await asyncio.to_thread(connection.drain, 0.01)
                hung_up_on += connection.is_closed
            assert hung_up_on >= 50
            logs = await asyncio.gather(*(read(store) for _ in range(32)))
            assert all(log.positions == [1] for log in logs)
    await asyncio.to_thread(wait_for_files, process, files + DATABASE_FILES)
    await check_served(server)
