"""A log that loses its end: a primary and its standby, writers and followers who live through
it, and what must hold of all that they were told.

Each of them notes under which log id it heard what. At the end there are two logs to hold that
against: the one that was lost, in the old primary's files, and the one that goes on.
"""

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import psycopg
from google.protobuf.duration_pb2 import Duration

import treering
from calls import (
    BACKWARDS,
    append_to,
    check_failure,
    fail_if,
    make_event,
    matching,
    read,
    reason_of,
    subscribed,
    unpack,
)
from checks import check_atomic, check_durable, check_log, check_subscription
from databases import PostgresServer, url_at, wait_for
from proxy import Proxy
from traffic import CALL_SECONDS, PAUSE_SECONDS, REPEATED, SECONDS, Traffic, ids_of
from traffic import reason_of as reason_of_error
from treering.events import recorded_events
from treering.v1.event_pb2 import RecordedEvent
from treering.v1.event_store_service_pb2 import AppendItem, AppendManyRequest, AppendRequest

PASSING = REPEATED | {"READ_ONLY"}
"""Why a call is repeated: as always, and where a standby is not promoted yet."""
PASSING_ERRORS = (treering.Unavailable, treering.DeadlineExceeded, treering.ReadOnly)
"""The same as exceptions of the client library."""
REFUSED = {"VERSION_CONFLICT", "CONDITION_FAILED", "LOG_DIVERGED"}
"""Why a decision is made again."""
HEARTBEAT = 0.2
WINDOW = 12
"""Appends that are sent without waiting for answers."""


# --- databases


class Switch(Proxy):
    """The way to whichever database it was last turned to."""

    def turn_to(self, server: PostgresServer) -> None:
        """New connections go there; those to where it led before are cut."""
        self._port = server.port
        self.cut()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.address.rpartition(":")[2])


class Pair:
    """A primary with a database for a log, and its standby, which runs and follows it."""

    def __init__(self, primary: PostgresServer, standby: PostgresServer, url: str) -> None:
        self.primary, self.standby = primary, standby
        self.url = url
        """At the primary."""
        self.standby_url = url_at(url, standby.port)

    def switch(self) -> Switch:
        """A way to the primary. Use as a context."""
        return Switch(f"127.0.0.1:{self.primary.port}")

    def url_through(self, switch: Switch, **parameters: str) -> str:
        """The database at the other end of a switch."""
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        return f"{url_at(self.url, switch.port)}?{query}"

    async def cut_off(self) -> None:
        """From now on the standby gets nothing."""
        await asyncio.to_thread(self.standby.cut_off)

    async def cut_off_here(self) -> None:
        """The same, once it has everything that there is now."""
        [(end,)] = query(self.url, "SELECT pg_current_wal_flush_lsn()")
        has_it = f"SELECT pg_last_wal_replay_lsn() >= '{end}'"
        await asyncio.to_thread(wait_for, self.standby_url, has_it)
        await self.cut_off()

    async def fail_over(self) -> int:
        """Kills the primary and promotes the standby: the position that it had come to."""
        await asyncio.to_thread(self.primary.kill)
        await asyncio.to_thread(self.standby.promote)
        return last_position(self.standby_url)

    async def lost_log(self) -> list[RecordedEvent]:
        """The log as it was where it was lost. Nobody may look for the old primary any more."""
        await asyncio.to_thread(self.primary.start)
        return log_in(self.url)


def query(url: str, statement: str) -> list[Any]:
    """What a database answers, behind the server's back."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def last_position(url: str) -> int:
    """The head of the log in a database."""
    position: int = query(url, "SELECT coalesce(max(position), 0) FROM events")[0][0]
    return position


def log_in(url: str) -> list[RecordedEvent]:
    """The whole log in a database, but for what was removed."""
    rows = query(url, "SELECT record FROM events WHERE record IS NOT NULL ORDER BY position")
    return [RecordedEvent.FromString(record) for (record,) in rows]


def as_the_client_gives(log: Sequence[RecordedEvent]) -> list[treering.RecordedEvent]:
    """The events of a log as a client's."""
    return recorded_events(record.SerializeToString() for record in log)


def incarnations_in(url: str) -> list[tuple[int, str, int]]:
    """Ordinal, log id and first position of each."""
    return query(
        url, "SELECT ordinal, log_id::text, first_position FROM incarnations ORDER BY ordinal"
    )


# --- writers


@dataclass(frozen=True)
class Decided:
    """A recorded append that was decided on something."""

    request: AppendRequest
    log_id: str
    first_position: int


class DecidingTraffic(Traffic):
    """Writers of all kinds, over a log that may lose its end: plain ones; some that load a
    stream, or what a query matches, and contend for it; one that sends a chain of appends
    without waiting; one that uses the client library. Those who decide say under which log id."""

    def __init__(
        self, event_stores: Sequence[Any], clients: Sequence[treering.AsyncClient], *, seed: int = 1
    ) -> None:
        self._clients = clients
        self._kinds = [
            *(self._record, self._record),
            *(self._load_and_append, self._load_and_append),
            *(self._guard, self._guard),
            *(self._send_chain, self._use_library),
        ]
        super().__init__(event_stores, writers=len(self._kinds), seed=seed)
        self.told: defaultdict[str, dict[str, int]] = defaultdict(dict)
        """Positions told, by log id and event id."""
        self.refused: Counter[str] = Counter()
        """How often a decision had to be made again, by the reason."""
        self._void: set[str] = set()
        """Ids of appends that were refused for good."""
        self._decided: list[Decided] = []

    async def _write(self, number: int) -> None:
        try:
            await self._kinds[number](number)
        finally:
            async with self._changed:
                self._changed.notify_all()

    async def _record(self, number: int) -> None:
        while not self._stopping:
            assert await self._decide(self._next_request(), number), "nothing was decided here"

    async def _load_and_append(self, number: int) -> None:
        while not self._stopping:
            state = await self._load(number, stream="loaded", limit=0)
            version, log_id = state.stream_version, state.log_id
            while not self._stopping:
                request = append_to("loaded", make_event("Loaded"), expected_version=version)
                request.expected_log_id = log_id
                self.sent.append(request)
                answer = await self._decide(request, number)
                if answer is None:
                    break
                version, log_id = answer.versions[0].version, answer.log_id

    async def _guard(self, number: int) -> None:
        guarded = matching(tags=["guarded"])
        while not self._stopping:
            state = await self._load(number, query=guarded, direction=BACKWARDS, limit=1)
            condition = fail_if(guarded, after=state.head_position)
            request = AppendRequest(
                events=[make_event("Guarded", "guarded"), make_event("Guard")],
                conditions=[condition],
                expected_log_id=state.log_id,
            )
            self.sent.append(request)
            await self._decide(request, number)

    async def _send_chain(self, number: int) -> None:
        chain: deque[AppendRequest] = deque()
        stale = True
        while chain or not self._stopping:
            if stale:
                state = await self._load(number, stream="chain", limit=0)
                for version, request in enumerate(chain, start=state.stream_version):
                    request.appends[0].expected_version = version
                    request.expected_log_id = state.log_id
                next_version = state.stream_version + len(chain)
            else:
                next_version = chain[-1].appends[0].expected_version + 1
            stale = await self._send_on(chain, next_version, state.log_id, number)

    async def _send_on(
        self, chain: deque[AppendRequest], next_version: int, log_id: str, number: int
    ) -> bool:
        """Sends a chain and more of it until the call ends; what is not answered remains. True:
        the version of the stream is to be looked at again."""
        queue: asyncio.Queue[AppendManyRequest | None] = asyncio.Queue()

        async def messages() -> AsyncIterator[AppendManyRequest]:
            while (message := await queue.get()) is not None:
                yield message

        call = self._store(number).AppendMany(messages(), timeout=CALL_SECONDS)
        sent = answered = 0
        lost: list[AppendRequest] = []
        try:
            while True:
                while not self._stopping and not lost and len(chain) < WINDOW:
                    request = append_to(
                        "chain", make_event("Chained"), expected_version=next_version
                    )
                    request.expected_log_id = log_id
                    next_version += 1
                    self.sent.append(request)
                    chain.append(request)
                while not lost and sent - answered < len(chain):
                    item = AppendItem(request_id=sent, append=chain[sent - answered])
                    queue.put_nowait(AppendManyRequest(items=[item]))
                    sent += 1
                if sent == answered:
                    queue.put_nowait(None)
                    return True
                response = await call.read()
                assert response is not grpc.aio.EOF, "not everything was answered"
                for result in response.results:
                    assert result.request_id == answered
                    answered += 1
                    request = chain.popleft()
                    if result.HasField("appended"):
                        assert not lost, "an append was recorded after one that was lost"
                        await self._note(request, result.appended)
                    else:
                        check_failure(result.failure)
                        assert reason_of(result.failure) == "LOG_DIVERGED", result.failure
                        self.refused["LOG_DIVERGED"] += 1
                        lost.append(request)
        except grpc.RpcError as error:
            await self._note_passing(error)
            return bool(lost) or not chain
        finally:
            chain.extendleft(reversed(lost))
            call.cancel()

    async def _use_library(self, number: int) -> None:
        """Keeps its events: what may have been recorded is appended again as it is."""
        event: treering.Event | None = None
        while not self._stopping or event is not None:
            client = self._clients[number % len(self._clients)]
            try:
                reading = client.read("library", limit=0)
                await reading.to_list()
                version, log_id = reading.stream_version, reading.log_id
            except treering.LogDiverged:
                continue
            except PASSING_ERRORS as error:
                await self._note_passing_reason(error.reason)
                continue
            try:
                while event is not None or not self._stopping:
                    event = event or treering.Event("Library", {"version": version})
                    request = append_to("library", make_event(id=str(event.id)))
                    self.sent.append(request)
                    appended = await client.append(
                        "library", event, expected_version=version, expected_log_id=log_id
                    )
                    self.told[appended.log_id][str(event.id)] = appended.first_position
                    await self._count_answer()
                    version, log_id = appended.versions["library"], appended.log_id
                    event = None
            except treering.LogDiverged as lost:
                assert lost.log_id != log_id
                self.refused["LOG_DIVERGED"] += 1
            except PASSING_ERRORS as error:
                await self._note_passing_reason(error.reason or "UNAVAILABLE")

    def _store(self, turn: int) -> Any:
        return self._event_stores[turn % len(self._event_stores)]

    async def _load(self, turn: int, **fields: Any) -> Any:
        while True:
            try:
                return await read(self._store(turn), timeout=CALL_SECONDS, **fields)
            except grpc.RpcError as error:
                if reason_of_error(error) != "LOG_DIVERGED":  # In the middle of it.
                    await self._note_passing(error)
                turn += 1

    async def _decide(self, request: AppendRequest, turn: int) -> Any:
        """The answer; None: refused, as something else was recorded or the log lost its end."""
        while True:
            try:
                response = await self._store(turn).Append(request, timeout=CALL_SECONDS)
            except grpc.RpcError as error:
                if reason_of_error(error) in REFUSED:
                    self.refused[unpack(error).reason] += 1
                    self._void.update(ids_of(request))
                    return None
                await self._note_passing(error)
                turn += 1
            else:
                await self._note(request, response)
                return response

    async def _note(self, request: AppendRequest, response: Any) -> None:
        for position, event_id in enumerate(ids_of(request), start=response.first_position):
            self.told[response.log_id][event_id] = position
        copy = AppendRequest()
        copy.CopyFrom(request)
        self._decided.append(Decided(copy, response.log_id, response.first_position))
        await self._count_answer()

    async def _count_answer(self) -> None:
        async with self._changed:
            self.answered += 1
            self._changed.notify_all()

    async def _note_passing(self, error: Any) -> None:
        reason = reason_of_error(error)
        assert reason in PASSING, error
        await self._note_passing_reason(reason)

    async def _note_passing_reason(self, reason: str) -> None:
        async with self._changed:
            self.repeated[reason] += 1
            self._changed.notify_all()
        await asyncio.sleep(PAUSE_SECONDS)

    def check_logs(self, logs: Mapping[str, Sequence[RecordedEvent]]) -> None:
        """All promises on what each log id names; the last one is the log's now."""
        sent = {event_id for request in self.sent for event_id in ids_of(request)}
        for log_id, log in logs.items():
            check_log(log)
            check_atomic(log, map(ids_of, self.sent))
            check_durable(log, self.told[log_id])
        assert self.told.keys() <= logs.keys()
        *_, last = logs.values()
        # Tests add events of their own, before and after.
        assert not self._void & {event.id for event in last}
        assert sent & {event.id for event in last}
        for decided in self._decided:
            check_decision(decided, logs[decided.log_id])


def check_decision(decided: Decided, log: Sequence[RecordedEvent]) -> None:
    """What an append expected was so in the log right before it."""
    before = log[: decided.first_position - 1]
    for part in decided.request.appends:
        if part.HasField("expected_version"):
            version = sum(event.stream == part.stream for event in before)
            assert part.expected_version == version, decided
    for condition in decided.request.conditions:
        [item] = condition.fail_if_match.items
        later = before[condition.after_position :]
        assert not any(set(item.tags) <= set(event.tags) for event in later), decided


# --- followers


@dataclass(frozen=True)
class Loss:
    """A follower was told that the log has lost its end."""

    log_id: str
    """What it followed."""
    done: int
    """How far it had come."""
    received: list[Any]
    last_common_position: int


class Follower:
    """A subscriber who goes on where it was, and takes back what it heard of a lost end.

    Ends once it has come to its goal, which may be set meanwhile.
    """

    def __init__(self, matches: Callable[[Any], bool] = lambda _: True) -> None:
        self._matches = matches
        self.goal: int | None = None
        self.log_id, self.done, self.event_id = "", 0, ""
        self.received: list[Any] = []
        """What it takes for the log's."""
        self.heard: list[tuple[str, Any]] = []
        """Each event that came, with the log id that it came under."""
        self.losses: list[Loss] = []
        self.ends: Counter[str] = Counter()
        """How its calls ended, by the reason."""
        self.told_of_new = 0
        """How often an open call went on under another log id."""

    @property
    def is_done(self) -> bool:
        """Whether it has come to its goal."""
        return self.goal is not None and self.done >= self.goal

    def take(self, event: Any) -> None:
        """Notes an event."""
        self.received.append(event)
        self.heard.append((self.log_id, event))
        self.done, self.event_id = event.position, str(event.id)

    def lose(self, log_id: str, last_common_position: int) -> None:
        """Goes back to what is still the log's."""
        assert log_id != self.log_id
        assert last_common_position < self.done, "there was nothing to take back"
        loss = Loss(self.log_id, self.done, self.received, last_common_position)
        self.losses.append(loss)
        self.received = [e for e in self.received if e.position <= last_common_position]
        last = self.received[-1:]
        self.event_id = str(last[0].id) if last and last[0].position == last_common_position else ""
        self.log_id, self.done = log_id, last_common_position

    def note_end(self, reason: str) -> None:
        """Notes why a call ended, which must be one to call again after."""
        assert reason in PASSING, reason
        self.ends[reason] += 1

    def check(self, logs: Mapping[str, Sequence[Any]], forks: Mapping[str, int]) -> None:
        """Under each log id it heard that log, each event once and in order; and in the end all
        of the last log. Of a lost end it was told exactly.

        Args:
            logs: By log id, in the order in which they began.
            forks: Where each of them was lost.
        """
        for log_id, event in self.heard:
            assert event == logs[log_id][event.position - 1], f"not of {log_id}"
        for loss in self.losses:
            assert loss.last_common_position == forks[loss.log_id]
            check_subscription(loss.received, logs[loss.log_id], self._matches, complete=False)
        assert self.log_id == list(logs)[-1]
        check_subscription(self.received, logs[self.log_id], self._matches)


class StubFollower(Follower):
    """Follows by the generated stub."""

    def __init__(
        self,
        event_store: Any,
        matches: Callable[[Any], bool] = lambda _: True,
        *,
        heartbeat: float = HEARTBEAT,
        pause: float = 0.0,
        **source: Any,
    ) -> None:
        super().__init__(matches)
        self._event_store = event_store
        self._pause = pause
        self._fields: dict[str, Any] = dict(source)
        self._fields["heartbeat_interval"] = Duration()
        self._fields["heartbeat_interval"].FromNanoseconds(round(heartbeat * 1e9))
        self.caught_up = asyncio.Event()

    async def follow(self) -> None:
        """Follows to the goal."""
        while not self.is_done:
            try:
                await self._follow_once()
            except grpc.RpcError as error:
                if reason_of_error(error) == "LOG_DIVERGED":
                    state = unpack(error).failure.log_state
                    self.lose(state.log_id, state.last_common_position)
                    continue
                self.note_end(reason_of_error(error))
                await asyncio.sleep(PAUSE_SECONDS)

    async def _follow_once(self) -> None:
        async with subscribed(
            self._event_store,
            after_position=self.done,
            after_event_id=self.event_id,
            expected_log_id=self.log_id,
            **self._fields,
        ) as subscription:
            # More patient than the checker, as a quiet one may be sent nothing for long.
            while not self.is_done:
                kind, content = await subscription.next()
                match kind:
                    case "started":
                        assert content.after_position == self.done
                        self.log_id = content.log_id
                    case "events":
                        for event in content.events:
                            self.take(event)
                    case "fell_behind":
                        if content.log_id not in {"", self.log_id}:
                            self.log_id = content.log_id
                            self.told_of_new += 1
                        self._reach(content.position, "")
                    case _:
                        self._reach(content.position, content.event_id)
                if kind == "caught_up":
                    self.caught_up.set()
                if self._pause:
                    await asyncio.sleep(self._pause)

    def _reach(self, position: int, event_id: str) -> None:
        if position > self.done:
            self.done, self.event_id = position, event_id


class LibraryFollower(Follower):
    """Follows by the client library, which connects again by itself."""

    def __init__(self, client: treering.AsyncClient) -> None:
        super().__init__()
        self._client = client

    async def follow(self) -> None:
        """Follows to the goal."""
        while not self.is_done:
            try:
                async with self._client.subscribe(
                    after=treering.Checkpoint(self.log_id, self.done, self.event_id),
                    heartbeat=HEARTBEAT,
                    timeout=SECONDS,
                ) as subscription:
                    async for item in subscription:
                        self.handle(item, subscription.checkpoint)
                        if self.is_done:
                            return
            except treering.LogDiverged as lost:
                self.lose(lost.log_id, lost.last_common_position)

    def handle(self, item: Any, checkpoint: treering.Checkpoint) -> None:
        """Does what a consumer does: takes in what came, then keeps the checkpoint."""
        if isinstance(item, treering.FellBehind) and item.log_id not in {"", self.log_id}:
            assert checkpoint.log_id == item.log_id
            self.told_of_new += 1
        self.log_id = checkpoint.log_id
        if isinstance(item, treering.RecordedEvent):
            self.take(item)
        assert checkpoint.position >= self.done, "a checkpoint never goes back"
        self.done, self.event_id = checkpoint.position, checkpoint.event_id

    def check(self, logs: Mapping[str, Sequence[Any]], forks: Mapping[str, int]) -> None:
        super().check({log_id: as_the_client_gives(log) for log_id, log in logs.items()}, forks)


class BlockingFollower(LibraryFollower):
    """The same by the blocking client, in a thread of its own."""

    def __init__(self, client: treering.Client) -> None:
        super().__init__(client)  # type: ignore[arg-type]
        self._blocking = client

    async def follow(self) -> None:
        """Follows to the goal."""
        await asyncio.to_thread(self._follow)

    def _follow(self) -> None:
        while not self.is_done:
            try:
                with self._blocking.subscribe(
                    after=treering.Checkpoint(self.log_id, self.done, self.event_id),
                    heartbeat=HEARTBEAT,
                    timeout=SECONDS,
                ) as subscription:
                    for item in subscription:
                        self.handle(item, subscription.checkpoint)
                        if self.is_done:
                            return
            except treering.LogDiverged as lost:
                self.lose(lost.log_id, lost.last_common_position)
