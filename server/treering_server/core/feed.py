"""Follows the head, keeps the last events in memory, and wakes who waits for them.

Runs on the event loop. This server's own commits are handed in by the writer; those of
other servers are fetched when a poll of the head, or a notification, tells of them. The
ring holds consecutive events and is bounded by bytes: a subscription is a position in it,
and one that falls out of it reads history again. What is removed is not handed out any
more: the feed is told of each change of a stream, or reads of it with the next poll.

All that it holds is of one incarnation. When the log has begun a new one, what came after
the fork is forgotten, and all who wait are woken.

An event finds the queries that wait for it by the terms that both have, so that
thousands of idle subscriptions cost nothing; equal queries are one, and share their
batches.
"""

import asyncio
import contextlib
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from treering_server.core.errors import LogMismatch, LogState, StorageUnavailable
from treering_server.core.incarnations import last_common_position
from treering_server.core.model import Head
from treering_server.core.outgoing import PAGE_BYTES
from treering_server.core.query import Query, QueryItem, category_of, events_of_stream
from treering_server.core.record import batch_of, join, parse
from treering_server.core.removal import Rule, RuleChange
from treering_server.core.storage import Incarnation, LogNews, Storage
from treering_server.core.tail import Tail, TailEvent, Term, terms_of
from treering_server.core.writer import Committed

RING_BYTES = 64 * 1024 * 1024
EVENT_OVERHEAD_BYTES = 512
"""What an event in the ring takes beside its record."""
POLL_SECONDS = 0.1
FETCHED_EVENTS = 4_000
FETCHED_BYTES = 4 * 1024 * 1024
PUSHED_EVENTS = 256
"""Events taken in at a time: half a millisecond of the loop."""
RUNG_SLEEPERS = 64
"""Subscriptions that go on at a time, so that thousands which wait for the same event hold up
nobody else for long."""
FRESH_SECONDS = 0.004
"""For so long after a look at the database nobody asks whether something was removed: less
than it takes to remove something and hear that it is done."""
SHARED_SECONDS = 0.02
"""For so long a batch is shared that may hold what grows too old."""
ANY_EVENT: Term = ("any", "")


class FellOut(Exception):
    """The ring no longer holds what comes after a position."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Matching events, as subscribers are sent them; perhaps none."""

    payload: bytes
    position: int
    """Every event up to here was looked at."""
    last_position: int
    """Of the last event in it; 0: it is empty."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What a look at the database found: first the events, then the news, so that nothing
    is among the events that the news do not tell of."""

    events: list[tuple[int, bytes | None, TailEvent | None]]
    rules: dict[str, Rule]
    news: LogNews
    news_at: float
    """When they were asked for, on the monotonic clock."""
    incarnations: Sequence[Incarnation]
    """If the log has another id than it had."""


class LiveQuery:
    """A query that somebody waits for, shared by all who ask the same."""

    def __init__(self, query: Query) -> None:
        """Not known to the feed yet."""
        self.query = query
        self.holders = 0
        self.terms = {term for item in query.items for term in _index_terms(item)}
        self.woken: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Done with the next match; its result is the position before it, up to which nothing
        matched since."""
        self.sleepers: set[asyncio.Future[None]] = set()
        """Done some time after `woken`, a few in each of the loop's rounds."""
        self.last: tuple[tuple[int, int, int], float, Batch] | None = None
        """The batch made last, with what was asked for and the time until which it will do: all
        that wait for the same query usually ask for the same one."""
        self.is_deleted = False
        """It asks for one stream, which was deleted permanently."""

    async def sleep(self, seconds: float, reading: "asyncio.Task[Any] | None" = None) -> None:
        """Waits for a match, the end of a page that is being read, or some time. May end for
        nothing. However many sleep, it costs each of them the same."""
        loop = asyncio.get_running_loop()
        sleeper: asyncio.Future[None] = loop.create_future()
        self.sleepers.add(sleeper)
        timer = loop.call_later(max(seconds, 0), ring, sleeper)
        if reading is not None:
            reading.add_done_callback(lambda _: ring(sleeper))
        try:
            await sleeper
        finally:
            timer.cancel()
            self.sleepers.discard(sleeper)


def _size(record: bytes | None) -> int:
    """What an event counts for in the ring."""
    return EVENT_OVERHEAD_BYTES + (0 if record is None else len(record))


def ring(sleeper: "asyncio.Future[None]") -> None:
    """Ends a sleep that did not end by itself."""
    if not sleeper.done():
        sleeper.set_result(None)


def _index_terms(item: QueryItem) -> Iterator[Term]:
    """Terms of which each event that matches has at least one."""
    if item.streams:
        yield from (("stream", stream) for stream in item.streams)
    elif item.tags:
        yield ("tag", min(item.tags))
    elif item.types:
        yield from (("type", type_) for type_ in item.types)
    elif item.categories:
        yield from (("category", category) for category in item.categories)
    elif item.stream_prefixes and all("-" in prefix for prefix in item.stream_prefixes):
        yield from (("category", category_of(prefix)) for prefix in item.stream_prefixes)
    else:
        yield ANY_EVENT


class Feed:
    """The live end of the log."""

    def __init__(
        self,
        storage: Storage,
        head: Head,
        *,
        ring_bytes: int,
        poll_seconds: float,
        is_shared: bool = True,
    ) -> None:
        """Begins at a head, with an empty ring. `is_shared`: other servers may change the log."""
        self._storage = storage
        self._ring_bytes = ring_bytes
        self._poll_seconds = poll_seconds
        self._is_shared = is_shared
        self.log_id = head.log_id
        """Of the incarnation that all that is held here belongs to."""
        self._generation = head.generation
        self._tail = Tail(head.position)
        self._records: list[bytes | None] = []
        """Of all events in the tail, in order."""
        self._bytes = 0
        self._incoming: deque[Committed] = deque()
        self._queries: dict[Query, LiveQuery] = {}
        self._waiting: defaultdict[Term, set[LiveQuery]] = defaultdict(set)
        self._rung: deque[asyncio.Future[None]] = deque()
        self._nudge = asyncio.Event()
        self._looked: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._fresh_until = 0.0
        self._following: asyncio.Task[None] | None = None
        self.available = True
        """Whether the last look at the database succeeded."""

    @property
    def head(self) -> int:
        """The last position that the feed knows."""
        return self._tail.head

    def start(self) -> None:
        """Begins to follow the head."""
        self._following = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Ends following. Whoever waits must be ended by its own server."""
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following

    def nudge(self) -> None:
        """Looks at the database now: somebody tells of a new head."""
        self._nudge.set()

    async def look_again(self) -> None:
        """Waits for the end of a look at the database that had not begun yet.

        Raises:
            StorageUnavailable: It failed.
        """
        self.nudge()
        if not await asyncio.shield(self._looked):
            raise StorageUnavailable("the end of the log can't be looked at")

    @property
    def is_fresh(self) -> bool:
        """Whether nothing was removed that this feed does not know of: the database was looked
        at just now, or nobody else changes it."""
        return not self._is_shared or time.monotonic() < self._fresh_until

    def published(self, committed: Committed) -> None:
        """Takes what this server's writer committed."""
        self._incoming.append(committed)
        if len(self._incoming) == 1:
            self._take_in()

    def _take_in(self) -> None:
        """Takes some of what was handed in, and goes on in the loop's next round: a large batch
        must not hold up everybody else."""
        if not self._incoming:
            return
        committed = self._incoming.popleft()
        some, rest = committed.records[:PUSHED_EVENTS], committed.records[PUSHED_EVENTS:]
        if committed.log_id != self.log_id or some[0].position > self.head + 1:
            # The log has a new id, or other servers' events come first: must be fetched.
            self.nudge()
        elif some[0].position == self.head + 1:
            self._set_rules(committed.rules, some[-1].position, committed.generation)
            self._push(
                [record.record for record in some],
                [(record.terms, record.version, record.recorded_at) for record in some],
            )
            if committed.generation == self._generation:
                self._fresh_until = time.monotonic() + FRESH_SECONDS
            else:
                self.nudge()
        if rest:
            self._incoming.appendleft(replace(committed, records=rest))
        if self._incoming:
            asyncio.get_running_loop().call_soon(self._take_in)

    def changed(self, change: RuleChange, until: int) -> None:
        """Takes a change of a stream's retention or deletion.

        Args:
            change: The change.
            until: The head when it was made, or later.
        """
        self._tail.set_rule(
            change.stream, change.rule, change.last_version, until, change.generation
        )
        for live in self._queries.values():
            live.last = None
        if change.is_permanently_deleted:
            of_stream = self._queries.get(events_of_stream(change.stream))
            if of_stream is not None:
                of_stream.is_deleted = True
                self._wake(of_stream, 0)

    def event_id(self, position: int) -> UUID | None:
        """Id of an event that the ring holds."""
        record = self._record_at(position) if self._tail.base < position <= self.head else None
        return None if record is None else parse(record).id

    def _record_at(self, position: int) -> bytes | None:
        return self._records[position - self._tail.base - 1]

    def holds_after(self, position: int) -> bool:
        """Whether all events after a position, as far as there are any, are in the ring."""
        return position >= self._tail.base

    @contextmanager
    def live(self, query: Query) -> Iterator[LiveQuery]:
        """Makes a query known for as long as somebody waits for it."""
        shared = self._queries.get(query)
        if shared is None:
            shared = self._queries[query] = LiveQuery(query)
            for term in shared.terms:
                self._waiting[term].add(shared)
        shared.holders += 1
        try:
            yield shared
        finally:
            shared.holders -= 1
            if not shared.holders:
                del self._queries[query]
                for term in shared.terms:
                    self._waiting[term].discard(shared)
                    if not self._waiting[term]:
                        del self._waiting[term]

    def batch(self, live: LiveQuery, after: int, most_bytes: int = PAGE_BYTES) -> Batch:
        """What matches after a position, as much as one response may hold.

        Raises:
            FellOut: The ring does not reach back to there.
        """
        if not self.holds_after(after):
            raise FellOut
        asked = (after, most_bytes, self.head)
        if live.last is not None:
            asked_last, until, batch = live.last
            if asked == asked_last and time.monotonic() < until:
                return batch
        records: list[bytes] = []
        size = 0
        position = max(after, self.head)
        last = after
        for match in self._tail.find(live.query, after, time.time_ns() // 1000):
            record = self._record_at(match)
            if record is None:
                continue
            size += len(record)
            if records and size > most_bytes:
                position = last
                break
            records.append(record)
            last = match
        batch = Batch(batch_of(join(records)), position, last if records else 0)
        if live.holders > 1:
            # What is removed by its age is so at a time.
            until = time.monotonic() + SHARED_SECONDS if self._tail.has_rules else float("inf")
            live.last = (asked, until, batch)
        return batch

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._nudge.wait()
            self._nudge.clear()
            looked, self._looked = self._looked, asyncio.get_running_loop().create_future()
            try:
                await self._catch_up()
                self.available = True
            except Exception:  # noqa: BLE001 - the health tells, and the next poll tries again
                self.available = False
            looked.set_result(self.available)

    @property
    def _handed_in(self) -> int:
        """The last position that the writer has handed in, or that the feed knows."""
        return self._incoming[-1].records[-1].position if self._incoming else self.head

    async def _catch_up(self) -> None:
        """Fetches what other servers did."""
        while True:
            after = self._handed_in
            look = await asyncio.to_thread(self._look, after, self._generation, self.log_id)
            if look.incarnations:
                self._begin_incarnation(look.news, look.incarnations)
                continue
            # First, so that nobody is handed what they removed.
            for change in look.news.changes:
                self.changed(change, look.news.until)
            self._generation = look.news.generation
            if look.events:
                rules = {stream: (rule, 0) for stream, rule in look.rules.items()}
                self._set_rules(rules, look.events[-1][0], look.news.generation)
            self._fresh_until = look.news_at + FRESH_SECONDS
            while self._incoming and self.head < after:  # noqa: ASYNC110 - each round takes some in
                await asyncio.sleep(0)
            for start in range(0, len(look.events), PUSHED_EVENTS):
                some = look.events[start : start + PUSHED_EVENTS]
                # Meanwhile the writer may have handed in some of them.
                new = [each for each in some if each[0] > self.head]
                if new and new[0][0] > self.head + 1:
                    # What was handed in before these was dropped: it comes with the next look.
                    break
                if new:
                    self._push([record for _, record, _ in new], [event for _, _, event in new])
                await asyncio.sleep(0)
            if not look.events and not look.news.changes:
                return

    def _look(self, after: int, generation: int, log_id: UUID) -> _Look:
        rows = self._storage.records(
            after, after + FETCHED_EVENTS, backwards=False, max_bytes=FETCHED_BYTES
        )
        events = [
            (position, record, None if record is None else parse(record).in_tail)
            for position, _, record in rows
        ]
        news_at = time.monotonic()
        news = self._storage.news(generation)
        rules: dict[str, Rule] = {}
        if events and news.generation:
            streams = {event[0].stream for _, _, event in events if event is not None}
            rules = self._storage.moving_rules(streams)
        incarnations = [] if news.log_id == log_id else self._storage.incarnations()
        return _Look(events, rules, news, news_at, incarnations)

    def _begin_incarnation(self, news: LogNews, incarnations: Sequence[Incarnation]) -> None:
        """Goes on at the fork with nothing in memory, and wakes all who wait."""
        try:
            common = last_common_position(
                self.log_id, LogState(news.log_id, news.until), incarnations
            )
        except LogMismatch:
            # Not even the incarnation that was known is part of this log.
            common = 0
        base = news.until if common is None else min(common, news.until)
        self.log_id = news.log_id
        # Changes may have been lost as well, and others made in their generations.
        self._generation = 0
        self._tail = Tail(min(base, self.head))
        self._records.clear()
        self._bytes = 0
        self._incoming.clear()
        for live in self._queries.values():
            live.last = None
            self._wake(live, 0)

    def _set_rules(
        self, rules: Mapping[str, tuple[Rule, int]], until: int, generation: int
    ) -> None:
        for stream, (rule, last_version) in rules.items():
            self._tail.set_rule(stream, rule, last_version, until, generation)

    def _push(self, records: list[bytes | None], events: Sequence[TailEvent | None]) -> None:
        first = self.head + 1
        self._tail.extend(events)
        self._records += records
        self._bytes += sum(map(_size, records))
        forgotten = 0
        while self._bytes > self._ring_bytes and forgotten < len(self._records) - 1:
            self._bytes -= _size(self._records[forgotten])
            forgotten += 1
        if forgotten:
            self._tail.trim(forgotten)
            del self._records[:forgotten]
        if self._waiting:
            self._wake_matching(first, events)

    def wake_all(self) -> None:
        """Lets all who wait look around: the server goes away."""
        for live in self._queries.values():
            self._wake(live, 0)

    def _wake(self, live: LiveQuery, quiet_to: int) -> None:
        live.woken.set_result(quiet_to)
        live.woken = asyncio.get_running_loop().create_future()
        if not live.sleepers:
            return
        if not self._rung:
            asyncio.get_running_loop().call_soon(self._ring_some)
        self._rung.extend(live.sleepers)
        live.sleepers.clear()

    def _ring_some(self) -> None:
        for _ in range(min(RUNG_SLEEPERS, len(self._rung))):
            ring(self._rung.popleft())
        if self._rung:
            asyncio.get_running_loop().call_soon(self._ring_some)

    def _wake_matching(self, first: int, events: Sequence[TailEvent | None]) -> None:
        woken: set[LiveQuery] = set()
        for position, event in enumerate(events, start=first):
            if event is None:
                continue
            terms, _, _ = event
            for term in (ANY_EVENT, *terms_of(terms)):
                for live in self._waiting.get(term, ()):
                    if live not in woken and live.query.matches(terms):
                        woken.add(live)
                        self._wake(live, position - 1)
