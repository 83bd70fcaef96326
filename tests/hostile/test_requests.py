"""Requests of every RPC that is served, made from the descriptors and then wrong in every way, and
bytes that are none. Whatever comes is answered in time, or refused by the book, or written whole;
what is refused has written nothing; and the server neither grows nor complains.

A failure tells the number of the request; `FAULT_SEED` and that number make it again.
`FAULT_LONG=1` makes 7,000 requests of each RPC, and 70,000 messages of junk.
"""

import asyncio
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import psutil
import pytest
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from bystander import MEGABYTE, OWN_CHANNEL, check_served
from calls import append_to, check_failure, head_of, unpack
from mutations import Maker
from runs import LONG, SEED, count
from treering.v1 import event_store_service_pb2, stream_service_pb2
from treering.v1.event_store_service_pb2 import (
    AppendManyResponse,
    AppendResponse,
    SubscribeResponse,
)
from treering.v1.event_store_service_pb2_grpc import EventStoreServiceStub
from treering.v1.stream_service_pb2 import ListStreamsRequest, ListStreamsResponse
from treering.v1.stream_service_pb2_grpc import StreamServiceStub

REQUESTS = 7_000 if LONG else 500
JUNK = 70_000 if LONG else 2_000
"""Of all RPCs together."""
AT_ONCE = 16
DEADLINE_SECONDS = 1.0
LATE_SECONDS = 20.0
"""After so long without an answer a call hangs, however slow the machine."""
GROWTH_MIB = 32
"""In the second half: by then it has seen requests of the largest kind."""
NAMES_FOR = 50
"""After so many changes of streams the names are worn out: deleted for good."""

METHODS = {
    method.name: method
    for service in (
        event_store_service_pb2.DESCRIPTOR.services_by_name["EventStoreService"],
        stream_service_pb2.DESCRIPTOR.services_by_name["StreamService"],
    )
    for method in service.methods
}
OTHERS = (
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
CHANGES = ("UpdateStream", "DeleteStream")
WRITES = ("Append", "AppendMany")
IN_DOUBT = (
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNAVAILABLE,
)


@dataclass
class Outcome:
    """How a call ended, and what it has written for certain."""

    code: grpc.StatusCode
    written: list[range] = field(default_factory=list)
    """Positions."""


def path_of(name: str) -> str:
    """The method as a channel knows it."""
    return f"/{METHODS[name].containing_service.full_name}/{name}"


def request_of(name: str) -> type[Message]:
    """The message that a method takes."""
    return GetMessageClass(METHODS[name].input_type)


@dataclass(frozen=True)
class Way:
    """The ways to a server."""

    channel: grpc.aio.Channel
    blocking: grpc.Channel
    """For streams of requests: what the server refuses while we still send, the other calls
    INTERNAL of its own accord, whatever the server said."""

    async def answers(self, name: str, data: Sequence[bytes]) -> AsyncIterator[bytes]:
        """What is answered to these messages, raw; of a subscription until it has caught up."""
        path = path_of(name)
        if name == "AppendMany":
            many = self.blocking.stream_stream(path)(iter(data), timeout=DEADLINE_SECONDS)
            while (response := await asyncio.to_thread(next, many, None)) is not None:
                yield response
        elif METHODS[name].server_streaming:
            call = self.channel.unary_stream(path)(data[0], timeout=DEADLINE_SECONDS)
            async for response in call:
                yield response
                if name == "Subscribe":
                    kind = SubscribeResponse.FromString(response).WhichOneof("content")
                    if kind in {"caught_up", "heartbeat"}:
                        call.cancel()
                        return
        else:
            yield await self.channel.unary_unary(path)(data[0], timeout=DEADLINE_SECONDS)


async def outcome_of(way: Way, name: str, data: Sequence[bytes]) -> Outcome:
    """Calls, and holds the answer against the contract."""
    outcome = Outcome(grpc.StatusCode.OK)
    try:
        async with asyncio.timeout(LATE_SECONDS):
            async for response in way.answers(name, data):
                outcome.written += written_by(name, response)
    except grpc.RpcError as error:
        outcome.code = error.code()
        assert outcome.code not in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
        # The client's deadline may pass just when the server's refusal comes.
        if outcome.code != grpc.StatusCode.DEADLINE_EXCEEDED and not is_transports(error):
            unpack(error)
    return outcome


def is_transports(error: grpc.RpcError) -> bool:
    """Whether the transport has refused it, since it was more than that takes."""
    is_too_much = error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    return is_too_much and "larger than max" in error.details()


def written_by(name: str, response: bytes) -> list[range]:
    """The positions that an answer acknowledges as new."""
    if name == "Append":
        appended = [AppendResponse.FromString(response)]
    elif name == "AppendMany":
        results = AppendManyResponse.FromString(response).results
        for result in results:
            if result.HasField("failure"):
                check_failure(result.failure)
        appended = [result.appended for result in results if result.HasField("appended")]
    else:
        return []
    return [
        range(each.first_position, each.last_position + 1)
        for each in appended
        if each.last_position and not each.duplicate
    ]


class Watch:
    """Holds the log against what was acknowledged."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._store = EventStoreServiceStub(channel)
        self._streams = StreamServiceStub(channel)
        self.log_id = ""
        self._head = 0

    async def begin(self) -> None:
        """Some events, so that there is something to find."""
        for name in names(0):
            for _ in range(3):
                await self._store.Append(append_to(name))
        head = await head_of(self._store)
        self.log_id, self._head = head.log_id, head.head_position

    async def streams(self, prefix: str) -> ListStreamsResponse:
        """All that is known about these streams, but for what changes with time."""
        asked = ListStreamsRequest(prefix=prefix, page_size=1000, show_deleted=True)
        found = await self._streams.ListStreams(asked)
        for stream in found.streams:
            if stream.retention.HasField("max_age"):
                stream.ClearField("first_version")
        return found

    async def refill(self, wanted: Sequence[str]) -> None:
        """Events for these streams, unless they were deleted for good: one changed byte makes a
        name of earlier ones theirs."""
        for name in wanted:
            try:
                await self._store.Append(append_to(name))
            except grpc.RpcError as error:
                assert unpack(error).reason == "STREAM_DELETED"
        self._head = (await head_of(self._store)).head_position

    async def check(self, outcomes: Sequence[Outcome]) -> None:
        """Exactly what was acknowledged has been written since the last look."""
        before, self._head = self._head, (await head_of(self._store)).head_position
        written = [
            position for outcome in outcomes for part in outcome.written for position in part
        ]
        new = range(before + 1, self._head + 1)
        assert len(written) == len(set(written))
        assert set(written) <= set(new)
        if not any(outcome.code in IN_DOUBT for outcome in outcomes):
            assert sorted(written) == list(new)


def names(era: int) -> list[str]:
    """Names of streams, types and tags."""
    return [f"e{era}-{n}" for n in range(5)]


SITES = [
    *(("sqlite", name) for name in METHODS),
    # The others never get to what is different there.
    *(("postgresql", name) for name in (*WRITES, *CHANGES, "Read")),
]


def with_number(error: BaseException, name: str, number: int, data: Sequence[bytes]) -> None:
    """Says which request it was."""
    shown = ", ".join(message[:200].hex() + ("…" if len(message) > 200 else "") for message in data)
    error.add_note(f"{name} {number} of seed {SEED}: {shown}")


Make = Callable[[Maker], list[bytes]]


async def send(way: Way, watch: Watch, name: str, number: int, make: Make) -> Outcome:
    """Makes one request, and sends it. Of a change of streams that is refused nothing is seen."""
    era = number // NAMES_FOR if name in CHANGES else 0
    data = make(Maker(random.Random(f"{SEED} {name} {number}"), names(era), watch.log_id))
    try:
        if name not in CHANGES:
            return await outcome_of(way, name, data)
        if number % NAMES_FOR == 0:
            await watch.refill(names(era))
        before = await watch.streams(f"e{era}-")
        outcome = await outcome_of(way, name, data)
        if outcome.code not in {grpc.StatusCode.OK, *IN_DOUBT}:
            assert await watch.streams(f"e{era}-") == before
    except (AssertionError, TimeoutError, DecodeError) as error:
        with_number(error, name, number, data)
        raise
    return outcome


async def send_all(server: Any, name: str, requests: int, make: Make) -> Counter[str]:
    """Sends so many, looking at the log in between; how they ended."""
    codes: Counter[str] = Counter()
    sizes: list[int] = []
    """Of the server, each time that another quarter of the requests is done."""
    at_once = 1 if name in CHANGES else AT_ONCE
    async with grpc.aio.insecure_channel(server.address, OWN_CHANNEL) as channel:
        blocking = grpc.insecure_channel(server.address, OWN_CHANNEL)
        way, watch = Way(channel, blocking), Watch(channel)
        await watch.begin()
        for first in range(0, requests, at_once):
            numbers = range(first, min(first + at_once, requests))
            outcomes = await asyncio.gather(
                *(send(way, watch, name, number, make) for number in numbers)
            )
            await watch.check(outcomes)
            codes.update(outcome.code.name for outcome in outcomes)
            if numbers.stop >= requests * (len(sizes) + 1) // 4:
                sizes.append(psutil.Process(server.pid).memory_info().rss // MEGABYTE)
        blocking.close()
    await check_served(server)
    sys.stdout.write(f"{name}: {dict(codes)}, server at {sizes} MiB\n")
    assert sizes[3] - sizes[1] <= GROWTH_MIB
    return codes


@pytest.mark.timeout(3_000 if LONG else 180)
@pytest.mark.parametrize(("database_url", "name"), SITES, indirect=["database_url"])
async def test_requests_wrong_in_every_way(database_url, server_process, name):
    # So small a ring that what is recorded is not what the server grows by.
    server = server_process(database_url, log_format="json", feed_bytes=100_000)
    database, kind = database_url.partition(":")[0], request_of(name)

    def make(maker: Maker) -> list[bytes]:
        before = 2 if name == "AppendMany" else 0
        return [
            *(maker.sensible(kind).SerializeToString() for _ in range(before)),
            maker.request(kind),
        ]

    codes = await send_all(server, name, REQUESTS, make)
    # Else they say little.
    assert codes["OK"] >= REQUESTS / 50
    assert codes["INVALID_ARGUMENT"] >= REQUESTS / 10
    count({f"{database}: hostile requests, {name}": REQUESTS})


@pytest.mark.timeout(3_000 if LONG else 180)
async def test_messages_of_junk(sqlite_file_url, server_process):
    server = server_process(sqlite_file_url, log_format="json", feed_bytes=100_000)
    for name in METHODS:
        codes = await send_all(server, name, JUNK // len(METHODS) + 1, lambda m: [m.junk()])
        assert codes["INVALID_ARGUMENT"] >= 10
    count({"hostile raw messages": JUNK})


@pytest.mark.parametrize("path", OTHERS)
async def test_junk_for_what_the_library_serves(sqlite_file_url, server_process, path):
    server = server_process(sqlite_file_url, log_format="json")
    codes: Counter[str] = Counter()
    with grpc.insecure_channel(server.address, OWN_CHANNEL) as channel:
        call = channel.stream_stream(path)
        for number in range(200):
            maker = Maker(random.Random(f"{SEED} {path} {number}"), names(0), "")
            try:
                # Health can be watched for ever.
                await asyncio.to_thread(next, call(iter([maker.junk()]), timeout=DEADLINE_SECONDS))
                codes["OK"] += 1
            except grpc.RpcError as error:
                codes[error.code().name] += 1
    assert codes["INVALID_ARGUMENT"] >= 10
    assert set(codes) <= {"OK", "NOT_FOUND", "INVALID_ARGUMENT"}
    await check_served(server)
