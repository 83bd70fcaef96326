"""Follows the head, keeps the last events in memory, and wakes who waits for them.

Runs on the event loop. This server's own commits are handed in by the writer; those of
other servers are fetched when a poll of the head, or a notification, tells of them. The
ring holds consecutive events and is bounded by bytes: a subscription is a position in it,
and one that falls out of it reads history again.

An event finds the queries that wait for it by the terms that both have, so that
thousands of idle subscriptions cost nothing; equal queries are one, and share their
batches.
"""

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from treering_server.core.model import Head
from treering_server.core.pages import PAGE_BYTES
from treering_server.core.query import Query, QueryItem, Terms, category_of
from treering_server.core.record import join, parse
from treering_server.core.storage import NewRecord, Storage
from treering_server.core.tail import Tail, Term, terms_of

RING_BYTES = 64 * 1024 * 1024
EVENT_OVERHEAD_BYTES = 512
"""What an event in the ring takes beside its record."""
POLL_SECONDS = 0.1
FETCHED_EVENTS = 4_000
FETCHED_BYTES = 4 * 1024 * 1024
PUSHED_EVENTS = 256
"""Events taken in at a time: half a millisecond of the loop."""
ANY_EVENT: Term = ("any", "")


class FellOut(Exception):
    """The ring no longer holds what comes after a position."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Matching events, joined as they are sent; perhaps none."""

    payload: bytes
    position: int
    """Every event up to here was looked at."""


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
        self.last: tuple[int, int, Batch] | None = None
        """The batch made last, with the position after which and the head at which: all that
        wait for the same query usually ask for the same one."""

    def wake(self, quiet_to: int) -> None:
        """Tells all who wait now."""
        self.woken.set_result(quiet_to)
        self.woken = asyncio.get_running_loop().create_future()


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
        self, storage: Storage, head: Head, *, ring_bytes: int, poll_seconds: float
    ) -> None:
        """Begins at a head, with an empty ring."""
        self._storage = storage
        self._ring_bytes = ring_bytes
        self._poll_seconds = poll_seconds
        self._tail = Tail(head.position)
        self._records: dict[int, bytes | None] = {}
        self._bytes = 0
        self._incoming: deque[Sequence[NewRecord]] = deque()
        self._queries: dict[Query, LiveQuery] = {}
        self._waiting: defaultdict[Term, set[LiveQuery]] = defaultdict(set)
        self._nudge = asyncio.Event()
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

    def published(self, records: Sequence[NewRecord]) -> None:
        """Takes what this server's writer committed."""
        self._incoming.append(records)
        if len(self._incoming) == 1:
            self._take_in()

    def _take_in(self) -> None:
        """Takes some of what was handed in, and goes on in the loop's next round: a large batch
        must not hold up everybody else."""
        records = self._incoming.popleft()
        some, rest = records[:PUSHED_EVENTS], records[PUSHED_EVENTS:]
        if some[0].position == self.head + 1:
            self._push([(record.record, record.terms) for record in some])
        elif some[0].position > self.head:
            # Other servers' events come first, and must be fetched.
            self.nudge()
        if rest:
            self._incoming.appendleft(rest)
        if self._incoming:
            asyncio.get_running_loop().call_soon(self._take_in)

    def event_id(self, position: int) -> UUID | None:
        """Id of an event that the ring holds."""
        record = self._records.get(position)
        return None if record is None else parse(record).id

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

    def batch(self, live: LiveQuery, after: int) -> Batch:
        """What matches after a position, as much as one response may hold.

        Raises:
            FellOut: The ring does not reach back to there.
        """
        if not self.holds_after(after):
            raise FellOut
        if live.last is not None and live.last[:2] == (after, self.head):
            return live.last[2]
        records: list[bytes] = []
        size = 0
        position = max(after, self.head)
        last = after
        for match in self._tail.find(live.query, after):
            record = self._records[match]
            if record is None:
                continue
            size += len(record)
            if records and size > PAGE_BYTES:
                position = last
                break
            records.append(record)
            last = match
        batch = Batch(join(records), position)
        if live.holders > 1:
            live.last = (after, self.head, batch)
        return batch

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._nudge.wait()
            self._nudge.clear()
            try:
                await self._catch_up()
            except Exception:  # noqa: BLE001 - the health tells, and the next poll tries again
                self.available = False

    async def _catch_up(self) -> None:
        """Fetches what other servers wrote."""
        while True:
            fetched = await asyncio.to_thread(self._fetch, self.head)
            self.available = True
            for start in range(0, len(fetched), PUSHED_EVENTS):
                some = fetched[start : start + PUSHED_EVENTS]
                # Meanwhile the writer may have handed in some of them.
                new = [(record, terms) for position, record, terms in some if position > self.head]
                if new:
                    self._push(new)
                await asyncio.sleep(0)
            if not fetched:
                return

    def _fetch(self, after: int) -> list[tuple[int, bytes | None, Terms | None]]:
        rows = self._storage.records(
            after, after + FETCHED_EVENTS, backwards=False, max_bytes=FETCHED_BYTES
        )
        return [
            (position, record, None if record is None else parse(record).terms)
            for position, _, record in rows
        ]

    def _push(self, events: Sequence[tuple[bytes | None, Terms | None]]) -> None:
        first = self.head + 1
        for record, terms in events:
            self._tail.push(terms)
            self._records[self._tail.head] = record
            self._bytes += len(record or b"") + EVENT_OVERHEAD_BYTES
        while self._bytes > self._ring_bytes and len(self._tail) > 1:
            self._tail.trim()
            forgotten = self._records.pop(self._tail.base)
            self._bytes -= len(forgotten or b"") + EVENT_OVERHEAD_BYTES
        if self._waiting:
            self._wake(first, [terms for _, terms in events])

    def _wake(self, first: int, events: Sequence[Terms | None]) -> None:
        woken: set[LiveQuery] = set()
        for position, terms in enumerate(events, start=first):
            if terms is None:
                continue
            for term in (ANY_EVENT, *terms_of(terms)):
                for live in self._waiting.get(term, ()):
                    if live not in woken and live.query.matches(terms):
                        woken.add(live)
                        live.wake(position - 1)
