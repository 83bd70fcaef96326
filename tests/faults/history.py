"""Callers who do everything that the API offers, at once, and write down what they were told.

Each of them chooses by a generator of its own, seeded by the history's seed and its name, so
that a seed chooses the same again. None believes anything: whatever was answered goes into the
history, and `checks.py` judges it. A caller itself only fails when it is refused in a way that
none of its calls may be.
"""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration

from calls import BACKWARDS, CODES, check_failure, nanoseconds, reason_of, unpack, whole
from checks import MOVES
from records import (
    Append,
    Attempt,
    Change,
    Condition,
    History,
    Logged,
    Matching,
    Outcome,
    Read,
    Sent,
    Subscription,
)
from traffic import reason_of as reason_of_error
from treering.v1.event_pb2 import Event, RecordedEvent
from treering.v1.event_store_service_pb2 import (
    AppendCondition,
    AppendItem,
    AppendManyRequest,
    AppendRequest,
    AppendResponse,
    GetHeadRequest,
    ReadRequest,
    StreamAppend,
    SubscribeRequest,
)
from treering.v1.failure_pb2 import Failure
from treering.v1.query_pb2 import Query, QueryItem
from treering.v1.stream_service_pb2 import DeleteStreamRequest, Retention, UpdateStreamRequest

CALL_SECONDS = 8.0
SETTLE_SECONDS = 60.0
"""How long what was begun is repeated after everybody was asked to stop."""
SILENCE_SECONDS = 4.0
"""A subscription that shows no sign of life for so long is given up."""
HEARTBEAT = Duration(nanos=500_000_000)
PAUSE_SECONDS = 0.02
RETRY_SECONDS = 0.4
SEATS = 5
"""How often something may be booked."""

UNWRITTEN = {"STORAGE_UNAVAILABLE", "SHUTTING_DOWN", "OVERLOADED", "STORAGE_FULL", "READ_ONLY"}
PASSING = UNWRITTEN | {
    "OUTCOME_UNKNOWN",
    "MIN_POSITION_NOT_REACHED",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "CANCELLED",
}
"""What any call may end with while things break."""


@dataclass(frozen=True)
class Peer:
    """A server, by whichever way one gets there."""

    events: Any
    streams: Any


@dataclass
class World:
    """What the callers of one history share."""

    peers: Sequence[Peer]
    seed: int
    history: History = field(default_factory=History)
    versions: dict[str, int] = field(default_factory=dict)
    """Of streams, as somebody was told last: good for a guess."""
    recent: list[Append] = field(default_factory=list)
    """Appends that were acknowledged."""
    head: int = 0
    """The last position that anybody was told."""
    stopping: bool = False
    final_head: int | None = None
    """Once it is known, subscribers end there."""

    def told(self, attempt: Attempt) -> None:
        """Remembers an acknowledgement."""
        self.head = max(self.head, attempt.last)
        self.versions.update(attempt.versions)
        self.recent.append(attempt.append)
        del self.recent[:-50]


# --- to and from the wire


def request_of(append: Append) -> AppendRequest:
    """An append as it is sent: to streams in the order of their first event or expectation."""
    parts: dict[str, StreamAppend] = {}
    for sent in append.events:
        if sent.stream:
            part = parts.setdefault(sent.stream, StreamAppend(stream=sent.stream))
            part.events.append(event_of(sent))
    for stream, expected in append.expected:
        part = parts.setdefault(stream, StreamAppend(stream=stream))
        if isinstance(expected, bool):
            part.expected_exists = expected
        else:
            part.expected_version = expected
    return AppendRequest(
        appends=parts.values(),
        events=[event_of(sent) for sent in append.events if not sent.stream],
        conditions=[
            AppendCondition(fail_if_match=query_of(each.matching), after_position=each.after)
            for each in append.conditions
        ],
    )


def event_of(sent: Sent) -> Event:
    """An event as it is sent."""
    return Event(id=sent.id, type=sent.type, data=sent.data.encode(), tags=sent.tags)


def query_of(matching: Matching) -> Query:
    """A query for what matches."""
    if matching == Matching():
        return Query(all=True)
    parts = {"streams": matching.streams, "types": matching.types, "tags": matching.tags}
    return Query(items=[QueryItem(**parts)])


def logged(event: RecordedEvent) -> Logged:
    """An event as it was read."""
    return Logged(
        position=event.position,
        id=event.id,
        stream=event.stream,
        version=event.version,
        recorded_at=nanoseconds(event.recorded_at) // 1000,
        type=event.type,
        data=event.data.decode(),
        tags=tuple(sorted(event.tags)),
    )


def why(error: grpc.RpcError) -> tuple[str, Failure]:
    """Why a call failed: our reason and its facts, or the bare code of the transport."""
    reason = reason_of_error(error)
    return reason, unpack(error).failure if reason in CODES else Failure()


def outcome_of(reason: str) -> Outcome:
    """What is known of an append that failed for a reason."""
    if reason in UNWRITTEN:
        return "unwritten"
    return "refused" if reason in CODES and reason not in PASSING else "unknown"


# --- callers


class Caller:
    """One who calls, one thing at a time."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.rng = random.Random(f"{world.seed} {name}")
        self._numbers = count(1)

    async def run(self) -> None:
        """Does its work until everybody is asked to stop."""
        while not self.world.stopping:
            await self.step()
            await asyncio.sleep(self.rng.random() * PAUSE_SECONDS)

    async def step(self) -> None:
        """One piece of its work."""
        raise NotImplementedError

    @property
    def peer(self) -> Peer:
        """One of the servers."""
        return self.rng.choice(self.world.peers)

    def sent(self, stream: str = "", type: str = "Happened", data: str = "", *tags: str) -> Sent:
        """An event with an id that only this history's seed makes."""
        id = uuid.UUID(int=self.rng.getrandbits(128), version=4)
        return Sent(str(id), stream, type, data or str(next(self._numbers)), tuple(sorted(tags)))

    async def attempt(self, append: Append) -> Attempt:
        """Makes an append once, and writes down what came of it."""
        call = self.peer.events.Append
        start = time.monotonic()
        reason, failure = "CANCELLED", Failure()
        response: AppendResponse | None = None
        try:
            response = await call(request_of(append), timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            reason, failure = why(error)
        finally:
            attempt = self.record(append, start, response, reason, failure)
        return attempt

    def record(
        self,
        append: Append,
        start: float,
        response: AppendResponse | None,
        reason: str,
        failure: Failure,
        series: str = "",
        number: int = 0,
    ) -> Attempt:
        """Writes down how an append ended."""
        attempt = Attempt(
            append=append,
            start=start,
            end=time.monotonic(),
            outcome="done" if response is not None else outcome_of(reason),
            caller=self.name,
            series=series,
            number=number,
        )
        if response is not None:
            versions = tuple((each.stream, each.version) for each in response.versions)
            attempt = replace(
                attempt,
                first=response.first_position,
                last=response.last_position,
                versions=versions,
                duplicate=response.duplicate,
            )
            self.world.told(attempt)
        else:
            conflict, failed = failure.version_conflict, failure.condition_failed
            attempt = replace(
                attempt,
                reason=reason,
                stream=conflict.stream,
                actual=conflict.actual_version,
                position=failed.position or failure.event_id_conflict.position,
                index=failed.condition_index,
            )
            if attempt.reason == "VERSION_CONFLICT":
                self.world.versions[attempt.stream] = attempt.actual
        self.world.history.attempts.append(attempt)
        return attempt

    async def settle(self, append: Append) -> Attempt:
        """Repeats an append until it is known what became of it; now and then once more."""
        given_up = time.monotonic() + CALL_SECONDS + SETTLE_SECONDS
        while True:
            attempt = await self.attempt(append)
            if attempt.outcome in {"done", "refused"}:
                break
            assert time.monotonic() < given_up, f"{self.name} can't settle: {attempt.reason}"
            await asyncio.sleep(self.rng.random() * RETRY_SECONDS)
        if self.rng.random() < 0.05:
            await self.attempt(append)
        return attempt

    async def read(self, matching: Matching | None, **fields: Any) -> Read | None:
        """Reads, or with nothing to match looks at the head; None if that failed."""
        peer = self.peer
        start = time.monotonic()
        try:
            if matching is None:
                request = GetHeadRequest()
                head = (await peer.events.GetHead(request, timeout=CALL_SECONDS)).head_position
                events: tuple[Logged, ...] = ()
            else:
                answer = whole(await self._responses(peer, matching, fields))
                head = answer.head_position
                events = tuple(map(logged, answer.events))
        except grpc.RpcError as error:
            reason, _ = why(error)
            assert reason in PASSING, f"{self.name} could not read: {reason} {error}"
            return None
        read = Read(start, time.monotonic(), head, self.name, matching, events=events, **fields)
        self.world.history.reads.append(read)
        self.world.head = max(self.world.head, head)
        return read

    @staticmethod
    async def _responses(peer: Peer, matching: Matching, fields: dict[str, Any]) -> list[Any]:
        request = ReadRequest(
            after_position=fields.get("after", 0), min_position=fields.get("min_position", 0)
        )
        if len(matching.streams) == 1 and matching == Matching(streams=matching.streams):
            request.stream = matching.streams[0]
        else:
            request.query.CopyFrom(query_of(matching))
        if fields.get("limit"):
            request.limit = fields["limit"]
        if fields.get("backwards"):
            request.direction = BACKWARDS
            # Backwards one begins before a position: at the end, here.
            request.ClearField("after")
        return [each async for each in peer.events.Read(request, timeout=CALL_SECONDS)]


class Writer(Caller):
    """Appends to a few streams that all writers share, with expectations right and wrong."""

    STREAMS = tuple(f"s-{n}" for n in range(6))

    async def step(self) -> None:
        """One append, settled; now and then one with an id that is taken."""
        rng = self.rng
        if self.world.recent and rng.random() < 0.05:
            taken = rng.choice(rng.choice(self.world.recent).events)
            if not taken.stream.startswith(Remover.PREFIX):
                await self.settle(Append((replace(taken, data="another"),)))
            return
        streams = rng.sample(self.STREAMS, rng.choice([1, 1, 1, 2, 3]))
        tags = (f"tag:{rng.randrange(4)}",)
        events = [
            self.sent(stream, rng.choice(["Happened", "Ended"]), "", *tags)
            for stream in streams
            for _ in range(rng.choice([1, 1, 2, 4]))
        ]
        if rng.random() < 0.2:
            events.append(self.sent("", "Noted"))
        expected: list[tuple[str, int | bool]] = []
        for stream in (*streams, rng.choice(self.STREAMS)):
            known = self.world.versions.get(stream, 0)
            if stream not in dict(expected) and rng.random() < 0.5:
                expected.append((stream, rng.choice([known, known, known, known + 1, known > 0])))
        await self.settle(Append(tuple(events), tuple(expected)))


class Mover(Caller):
    """Moves sums between accounts, so that there is always the same in all of them."""

    ACCOUNTS = tuple(f"account-{n}" for n in range(4))

    async def step(self) -> None:
        """One move, or a look at all of them."""
        if self.rng.random() < 0.1:
            await self.read(MOVES)
            return
        giver, taker = self.rng.sample(self.ACCOUNTS, 2)
        amount = self.rng.randrange(1, 100)
        events = (
            self.sent(giver, "Moved", str(-amount)),
            self.sent(taker, "Moved", str(amount)),
        )
        expected = [(each, self.world.versions.get(each, 0)) for each in (giver, taker)]
        await self.settle(Append(events, tuple(expected) if self.rng.random() < 0.7 else ()))


class Booker(Caller):
    """Books seats, of which there are few, by a dynamic consistency boundary."""

    show = 0

    async def step(self) -> None:
        """Counts the seats that are taken, and takes one if one is left."""
        tag = f"show:{self.show + self.rng.randrange(3)}"
        booked = Matching(types=("Booked",), tags=(tag,))
        read = await self.read(booked)
        if read is None:
            return
        if len(read.events) >= SEATS:
            self.show += 1
            return
        event = self.sent(self.rng.choice(["", f"booking-{self.name}"]), "Booked", "", tag)
        await self.settle(Append((event,), conditions=(Condition(booked, read.head),)))


class Pipeliner(Caller):
    """Sends many without waiting, over AppendMany, most of them in chains of expected versions;
    and again from the first that was not answered."""

    version = 0

    async def step(self) -> None:
        """One call or more, until all is settled."""
        own = f"chain-{self.name}"
        series = f"{self.name} {next(self._numbers)}"
        appends = []
        is_chain = self.rng.random() < 0.7
        for _ in range(self.rng.randrange(2, 15)):
            length = self.rng.choice([1, 1, 3])
            if self.rng.random() < 0.1:
                # Refused; it does not break the chain.
                append = Append((self.sent(own),), ((own, self.version + 100),))
            else:
                events = tuple(self.sent(own) for _ in range(length))
                append = Append(events, ((own, self.version),) if is_chain else ())
                self.version += length
            appends.append(append)
        done = 0
        given_up = time.monotonic() + CALL_SECONDS + SETTLE_SECONDS
        while done < len(appends):
            assert time.monotonic() < given_up, f"{self.name} can't settle"
            done += await self._send(appends[done:], series, done)

    async def _send(self, appends: Sequence[Append], series: str, before: int) -> int:
        """Sends them all once; how many of them were answered for good."""
        starts: list[float] = []

        async def messages() -> AsyncIterator[AppendManyRequest]:
            for number, append in enumerate(appends):
                starts.append(time.monotonic())
                item = AppendItem(request_id=number + 1, append=request_of(append))
                yield AppendManyRequest(items=[item])

        answered = 0
        reason = "CANCELLED"
        call = self.peer.events.AppendMany(messages(), timeout=CALL_SECONDS)
        try:
            async for response in call:
                for result in response.results:
                    assert result.request_id == answered + 1, "answered in the order sent"
                    appended = result.appended if result.HasField("appended") else None
                    if appended is None:
                        check_failure(result.failure)
                    self.record(
                        appends[answered],
                        starts[answered],
                        appended,
                        reason_of(result.failure),
                        result.failure,
                        series,
                        before + answered,
                    )
                    answered += 1
        except grpc.RpcError as error:
            reason, _ = why(error)
            assert reason in PASSING, f"{self.name} could not append: {reason} {error}"
            await asyncio.sleep(self.rng.random() * RETRY_SECONDS)
        finally:
            for number in range(answered, len(starts)):
                # The call's end says nothing of each of them.
                self.record(
                    appends[number],
                    starts[number],
                    None,
                    "OUTCOME_UNKNOWN" if reason in UNWRITTEN else reason,
                    Failure(),
                    series,
                    before + number,
                )
        return answered


class Reader(Caller):
    """Reads this and that."""

    async def step(self) -> None:
        """One read."""
        rng = self.rng
        near = max(0, self.world.head - rng.randrange(200))
        matching = rng.choice(
            [
                None,
                Matching(),
                Matching(streams=(rng.choice(Writer.STREAMS),)),
                Matching(streams=Mover.ACCOUNTS[:2]),
                Matching(types=("Ended",), tags=(f"tag:{rng.randrange(4)}",)),
            ]
        )
        if matching is None:
            await self.read(None)
            return
        fields: dict[str, Any] = {"after": near}
        if rng.random() < 0.3:
            fields = {"backwards": True, "limit": rng.randrange(1, 50)}
        elif rng.random() < 0.3:
            fields["limit"] = rng.randrange(1, 50)
        if rng.random() < 0.3:
            fields["min_position"] = self.world.head
        await self.read(matching, **fields)


class Remover(Caller):
    """Has a stream of its own, of which it removes what it wrote."""

    PREFIX = "fleeting-"
    generation = 0
    version, last_version, floor, max_count = 0, 0, 0, 0

    @property
    def stream(self) -> str:
        """The stream of now."""
        return f"{self.PREFIX}{self.name}-{self.generation}"

    async def step(self) -> None:
        """An append, a removal, or a read of what must be left."""
        choice = self.rng.random()
        if choice < 0.5:
            await self._append()
        elif choice < 0.6 and self.version:
            delete = DeleteStreamRequest(stream=self.stream, expected_version=self.version)
            await self._change(self.version, "DeleteStream", delete)
            self.version = self.max_count = 0
        elif choice < 0.7 and self.version > self.floor:
            floor = self.rng.randrange(self.floor, self.version)
            kept = Retention(truncate_before=floor + 1)
            update = UpdateStreamRequest(stream=self.stream, retention=kept)
            await self._change(floor, "UpdateStream", update)
            self.max_count = 0
        elif choice < 0.8 and self.version:
            await self._bound()
        else:
            await self.read(Matching(streams=(self.stream,)))

    async def _append(self) -> None:
        events = tuple(self.sent(self.stream) for _ in range(self.rng.choice([1, 2, 5])))
        start = time.monotonic()
        attempt = await self.settle(Append(events, ((self.stream, self.version),)))
        assert attempt.outcome == "done", f"{self.name} alone writes there: {attempt}"
        self.version = self.last_version = self.last_version + len(events)
        assert attempt.versions == ((self.stream, self.version),)
        if self.max_count:
            self.floor = max(self.floor, self.version - self.max_count)
            self._note(start, self.floor, "done")

    async def _bound(self) -> None:
        """Keeps so many events from now on."""
        max_count = self.rng.randrange(1, 8)
        floor = max(self.floor, self.version - max_count)
        kept = Retention(max_count=max_count)
        update = UpdateStreamRequest(stream=self.stream, retention=kept)
        if await self._change(floor, "UpdateStream", update):
            self.max_count = max_count
        else:
            # A first try may come into force at any time, so that nobody knows what is kept.
            self.generation += 1
            self.version = self.last_version = self.floor = self.max_count = 0

    async def _change(self, floor: int, method: str, request: Any) -> bool:
        """Settles a removal; whether the first try did."""
        given_up = time.monotonic() + CALL_SECONDS + SETTLE_SECONDS
        tries = 0
        while True:
            tries += 1
            assert time.monotonic() < given_up, f"{self.name} can't settle"
            call = getattr(self.peer.streams, method)
            start = time.monotonic()
            outcome: Outcome = "unknown"
            try:
                info = (await call(request, timeout=CALL_SECONDS)).stream
                outcome = "done"
            except grpc.RpcError as error:
                reason, _ = why(error)
                assert reason in PASSING, f"{self.name} could not {method}: {reason} {error}"
            finally:
                self._note(start, floor, outcome)
            if outcome == "done":
                break
            await asyncio.sleep(self.rng.random() * RETRY_SECONDS)
        assert info.next_version == self.last_version + 1
        self.floor = floor
        return tries == 1

    def _note(self, start: float, floor: int, outcome: Outcome) -> None:
        change = Change(start, time.monotonic(), self.stream, floor, outcome, self.name)
        self.world.history.changes.append(change)


class Subscriber(Caller):
    """Follows the log, hangs up now and then, and goes on where it was."""

    at = 0
    at_id = ""

    async def run(self) -> None:
        """Follows until everybody has stopped, and then to the end."""
        self.matching = self.rng.choice(
            [
                Matching(),
                Matching(),
                Matching(streams=(Writer.STREAMS[0],)),
                Matching(types=("Ended", "Moved")),
                Matching(tags=("tag:1",)),
                Matching(types=("Happened",), tags=("tag:2",)),
            ]
        )
        while not self._is_done:
            await self.step()
            await asyncio.sleep(self.rng.random() * PAUSE_SECONDS)

    @property
    def _is_done(self) -> bool:
        return self.world.final_head is not None and self.at >= self.world.final_head

    async def step(self) -> None:
        """One call."""
        request = SubscribeRequest(
            after_position=self.at, after_event_id=self.at_id, heartbeat_interval=HEARTBEAT
        )
        if len(self.matching.streams) == 1:
            request.stream = self.matching.streams[0]
        else:
            request.query.CopyFrom(query_of(self.matching))
        items: list[Logged | int] = []
        after, start, reason = self.at, time.monotonic(), ""
        patience = self.rng.choice([3, 30, 300, 3000])
        call = self.peer.events.Subscribe(request)
        try:
            while len(items) < patience and not self._is_done:
                async with asyncio.timeout(SILENCE_SECONDS):
                    response = await call.read()
                assert response is not grpc.aio.EOF, "a subscription never ends with OK"
                items += self._items(response)
        except TimeoutError:
            reason = "SILENT"
        except grpc.RpcError as error:
            reason, _ = why(error)
            assert reason in PASSING, f"{self.name} could not subscribe: {reason} {error}"
            await asyncio.sleep(self.rng.random() * RETRY_SECONDS)
        finally:
            call.cancel()
            end = time.monotonic()
            self.world.history.subscriptions.append(
                Subscription(start, end, self.matching, self.name, after, reason, tuple(items))
            )

    def _items(self, response: Any) -> list[Logged | int]:
        kind = response.WhichOneof("content")
        if kind == "started":
            assert response.started.after_position == self.at
            return []
        if kind == "events":
            events = [logged(event) for event in response.events.events]
            self.at, self.at_id = events[-1].position, events[-1].id
            return list(events)
        content = getattr(response, kind)
        self.at = content.position
        # One that fell behind is told of no event.
        self.at_id = getattr(content, "event_id", "")
        return [content.position]


CALLERS: Sequence[tuple[type[Caller], int]] = (
    (Writer, 4),
    (Mover, 2),
    (Booker, 3),
    (Pipeliner, 2),
    (Reader, 2),
    (Remover, 2),
    (Subscriber, 4),
)


class Calling:
    """All callers at work. Use as a context: at its end all is settled, and subscribers are at
    the end of the log."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._tasks: list[tuple[type[Caller], asyncio.Task[None]]] = []

    async def __aenter__(self) -> Self:
        for caller_type, number in CALLERS:
            for n in range(number):
                caller = caller_type(self.world, f"{caller_type.__name__.lower()}{n}")
                self._tasks.append((caller_type, asyncio.create_task(caller.run())))
        return self

    def check(self) -> None:
        """Raises what one of them died of."""
        for _, task in self._tasks:
            if task.done():
                task.result()

    async def __aexit__(self, kind: object, *rest: object) -> None:
        self.world.stopping = True
        try:
            if kind is None:
                await self._finish()
        finally:
            for _, task in self._tasks:
                task.cancel()
            await asyncio.gather(*(task for _, task in self._tasks), return_exceptions=True)

    async def _finish(self) -> None:
        callers = [task for kind, task in self._tasks if kind is not Subscriber]
        async with asyncio.timeout(CALL_SECONDS + SETTLE_SECONDS):
            await asyncio.gather(*callers)
            reader = Reader(self.world, "last")
            last = None
            while last is None:
                last = await reader.read(None)
                await asyncio.sleep(PAUSE_SECONDS)
            self.world.final_head = last.head
            await asyncio.gather(*(task for kind, task in self._tasks if kind is Subscriber))
