"""Answers reads: notes the head when one begins, and yields nothing above it."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from treering_server.core import pages
from treering_server.core.errors import (
    LogDiverged,
    LogState,
    MinPositionNotReached,
    NotFound,
    PositionAheadOfLog,
    StreamDeleted,
)
from treering_server.core.incarnations import check_position, last_common_position
from treering_server.core.model import (
    MAX_POSITION,
    AfterPosition,
    AfterTime,
    AfterVersion,
    FromHead,
    Head,
    ListStreams,
    Read,
    Source,
    Stream,
    StreamSource,
    Subscribe,
    UntilPosition,
    UntilTime,
)
from treering_server.core.outgoing import Outgoing
from treering_server.core.pages import Page, Pages, StreamPages
from treering_server.core.read_threads import ReadThreads
from treering_server.core.record import batch_of
from treering_server.core.storage import Incarnation, Storage, StreamSpan
from treering_server.core.turns import Turns

MIN_POSITION_SECONDS = 5.0
"""The longest wait for `min_position`."""
DEADLINE_SHARE = 0.9
"""The share of the caller's deadline that it may take."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.002, 0.05
HISTORY_READERS = 4
"""Pages of subscriptions read at a time: many late ones must not shut out the reads."""


@dataclass(slots=True)
class Reading:
    """One state of the log, and the way to the events asked of it."""

    head_position: int
    stream_version: int
    log_id: UUID
    pages: Pages
    first_page: Page | None = None
    """If one was asked for, and until it is taken: read in the same go as the rest."""


class Reader:
    """Reads the log in threads of its own, one short transaction a page, callers in turn."""

    def __init__(self, storage: Storage, *, at_a_time: int) -> None:
        """Reads from a storage, with so many of its connections at a time."""
        self._storage = storage
        self._incarnations: Sequence[Incarnation] = ()
        self._threads = ReadThreads(at_a_time)
        self._history = Turns(min(HISTORY_READERS, at_a_time))
        self.outgoing = Outgoing()
        """What was read, and is not sent yet."""

    def close(self, seconds: float) -> bool:
        """Ends its threads. Whether they did, in time: one may wait for a database that does not
        answer."""
        return self._threads.close(seconds)

    async def head(self) -> Head:
        """The end of the log, with all that was acknowledged before by any server."""
        return await self._threads.read(self._storage.head)

    async def event_id(self, position: int) -> UUID | None:
        """Id of the event at a position."""
        return await self._threads.read(self._storage.event_id, position)

    async def stream(self, name: str) -> Stream:
        """A stream.

        Raises:
            NotFound: It was never written to.
        """
        stream = await self._threads.read(self._storage.stream, name)
        if stream is None:
            raise NotFound("stream", name)
        return stream

    async def streams(self, request: ListStreams) -> list[Stream]:
        """A page of streams, and one more if there are more."""
        return await self._threads.read(self._storage.streams, request)

    async def read(self, read: Read, seconds: float | None) -> Reading:
        """Notes the state and finds the start.

        Args:
            read: What to read.
            seconds: Until the caller's deadline; None: none.

        Raises:
            Refusal: See `ReadRequest`.
        """
        reading = await self._threads.read(self._begin, read, None)
        if reading is None:
            head = await self._reach(read.min_position, seconds)
            reading = await self._threads.read(self._begin, read, head)
            assert reading is not None
        return reading

    def _begin(self, read: Read, head: Head | None) -> Reading | None:
        """Notes the state, and reads the first page, in one go. None: it is older than the
        caller asks for."""
        if (
            head is None
            and isinstance(read.source, StreamSource)
            and read.until is None
            and isinstance(read.after, AfterVersion | None)
        ):
            return self._load(read, read.source, read.after)
        reached = head is not None
        head = head or self._storage.head()
        self._check_log_of(read, head)
        if not reached and head.position < read.min_position:
            return None
        reading = self._reading(read, head)
        if read.limit == 0:
            return reading
        most = pages.PAGE_EVENTS if read.limit is None else read.limit
        reading.first_page = self._next(reading.pages, most)
        return reading

    def _load(self, read: Read, source: StreamSource, start: AfterVersion | None) -> Reading | None:
        """As `_begin`: a stream as it is now, which is what most reads ask for."""
        after, until = 0, MAX_POSITION
        if start is not None and read.backwards:
            until = start.version - 1
        elif start is not None:
            after = start.version
        most = pages.PAGE_EVENTS if read.limit is None else read.limit
        head, span, rows = self._storage.load(
            source.stream,
            after,
            until,
            backwards=read.backwards,
            most=min(most, pages.PAGE_EVENTS),
            max_bytes=self.outgoing.page_bytes,
        )
        self._check_log_of(read, head)
        if head.position < read.min_position:
            return None
        if after > span.last:
            raise PositionAheadOfLog(
                "after_version", after, LogState(head.log_id, head.position), span.last
            )
        walk = self._stream_walk(read, source.stream, span, after, until, head.position)
        reading = Reading(head.position, span.version, head.log_id, walk)
        if read.limit != 0:
            reading.first_page = walk.first(rows, most)
        return reading

    async def pages(self, reading: Reading, limit: int | None) -> AsyncIterator[Page]:
        """The pages of a read that have events.

        Raises:
            LogDiverged: The log has lost its end meanwhile, and with it events of the read.
        """
        remaining = pages.PAGE_EVENTS if limit is None else limit
        # Not to be kept for as long as the call goes on.
        page, reading.first_page = reading.first_page, None
        while remaining > 0:
            if page is None:
                page = await self._threads.read(self._next, reading.pages, remaining)
            if self._storage.log_id != reading.log_id:
                state, common = await self.last_common_position(reading.log_id)
                if common < reading.head_position:
                    raise LogDiverged(state, common)
            if page.count:
                with self.outgoing.waiting(page.payload):
                    yield page
            if page.last:
                return
            if limit is not None:
                remaining -= page.count
            page = None

    async def _reach(self, position: int, seconds: float | None) -> Head:
        wait = MIN_POSITION_SECONDS
        if seconds is not None:
            wait = min(wait, DEADLINE_SHARE * seconds)
        deadline = time.monotonic() + wait
        pause = FIRST_PAUSE_SECONDS
        while True:
            head = await self.head()
            if head.position >= position:
                return head
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise MinPositionNotReached(position, LogState(head.log_id, head.position))
            await asyncio.sleep(min(pause, remaining))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    @property
    def log_id(self) -> UUID:
        """The log's id, as of the last page or later."""
        return self._storage.log_id

    async def last_common_position(self, log_id: UUID) -> tuple[LogState, int]:
        """Where the log is, and up to where the history of an id that it has or had is still the
        log's."""
        head = await self.head()
        state = LogState(head.log_id, head.position)
        incarnations = await self._threads.read(self._storage.incarnations)
        common = last_common_position(log_id, state, incarnations)
        return state, head.position if common is None else common

    def _check_log_of(self, read: Read, head: Head) -> None:
        if read.expected_log_id is not None:
            positions = [read.min_position]
            if isinstance(read.after, AfterPosition):
                positions.append(read.after.position)
            if isinstance(read.until, UntilPosition):
                positions.append(read.until.position)
            self._check_log(read.expected_log_id, max(positions), read.source, read.after, head)

    def _check_log(
        self, expected: UUID, position: int, source: Source, start: object, head: Head
    ) -> None:
        """Refuses what the caller learnt in a history that was lost: a position, or a version
        that the stream had after the fork only."""
        if not self._incarnations or self._incarnations[-1].log_id != head.log_id:
            self._incarnations = self._storage.incarnations()
        state = LogState(head.log_id, head.position)
        check_position(expected, position, state, self._incarnations)
        if isinstance(source, StreamSource) and isinstance(start, AfterVersion):
            common = last_common_position(expected, state, self._incarnations)
            if common is not None:
                span = self._storage.span(source.stream, common)
                if start.version > span.last:
                    raise LogDiverged(state, common)

    def _reading(self, read: Read, head: Head) -> Reading:
        until = head.position
        if isinstance(read.until, UntilPosition):
            until = min(until, read.until.position)
        elif isinstance(read.until, UntilTime):
            until = min(until, self._storage.position_at_time(read.until.nanoseconds // 1000))
        if isinstance(read.source, StreamSource):
            return self._stream_reading(read, read.source.stream, head, until)
        after = 0
        newest = until
        if isinstance(read.after, AfterVersion):
            raise TypeError("a version is of a stream")
        if read.after is not None:
            if read.backwards:
                newest = min(until, self._position_before(read.after))
            else:
                after = self._position_after(read.after, head)
        walk = pages.walk(self._storage, read.source, after, newest, backwards=read.backwards)
        return Reading(until, 0, head.log_id, walk)

    def _stream_reading(self, read: Read, stream: str, head: Head, until: int) -> Reading:
        span = self._storage.span(stream, until)
        after = 0
        newest = span.last
        match read.after:
            case None:
                pass
            case AfterVersion(given) if read.backwards:
                newest = min(newest, given - 1)
            case AfterVersion(given):
                self._check_version(stream, given, head)
                after = given
            case given if read.backwards:
                before = self._storage.span(stream, self._position_before(given))
                newest = min(newest, before.last)
            case given:
                after = self._storage.span(stream, self._position_after(given, head)).last
        walk = self._stream_walk(read, stream, span, after, newest, until)
        return Reading(until, span.version, head.log_id, walk)

    def _stream_walk(
        self, read: Read, stream: str, span: StreamSpan, after: int, newest: int, until: int
    ) -> StreamPages:
        """Walks what there is of a window of versions, in the state at position `until`."""
        first, last = max(after, span.first - 1), min(newest, span.last)
        return StreamPages(
            self._storage, stream, first, last, until=until, backwards=read.backwards
        )

    def _position_after(self, after: AfterPosition | AfterTime, head: Head) -> int:
        """The position after which what is asked for begins."""
        if isinstance(after, AfterTime):
            return self._storage.position_at_time(after.nanoseconds // 1000)
        if after.position > head.position:
            raise PositionAheadOfLog(
                "after_position", after.position, LogState(head.log_id, head.position)
            )
        return after.position

    def _position_before(self, after: AfterPosition | AfterTime) -> int:
        """The position up to which what is asked for reaches, going backwards."""
        if isinstance(after, AfterTime):
            # Strictly before: of times in whole microseconds, the last below.
            return self._storage.position_at_time((after.nanoseconds - 1) // 1000)
        return max(after.position - 1, 0)

    def _check_version(self, stream: str, version: int, head: Head) -> None:
        known = self._storage.stream(stream)
        last = 0 if known is None else known.next_version - 1
        if version > last:
            raise PositionAheadOfLog(
                "after_version", version, LogState(head.log_id, head.position), last
            )

    async def start(self, subscribe: Subscribe) -> tuple[Head, int]:
        """The head now, and the position after which a subscription begins.

        Raises:
            Refusal: See `SubscribeRequest`.
        """
        return await self._threads.read(self._start_now, subscribe)

    def _start_now(self, subscribe: Subscribe) -> tuple[Head, int]:
        head = self._storage.head()
        position = subscribe.start.position if isinstance(subscribe.start, AfterPosition) else 0
        if subscribe.expected_log_id is not None:
            self._check_log(
                subscribe.expected_log_id, position, subscribe.source, subscribe.start, head
            )
        return head, self._start(subscribe, head)

    def _start(self, subscribe: Subscribe, head: Head) -> int:
        source, start = subscribe.source, subscribe.start
        if isinstance(source, StreamSource):
            known = self._storage.stream(source.stream)
            if known is not None and known.deletion == "permanent":
                raise StreamDeleted(source.stream)
        match start:
            case FromHead():
                return head.position
            case AfterVersion(version):
                if not isinstance(source, StreamSource):
                    raise TypeError("a version is of a stream")
                self._check_version(source.stream, version, head)
                return self._position_of(source.stream, version)
            case after:
                position = self._position_after(after, head)
        if subscribe.after_event_id is not None and (
            self._storage.event_id(position) != subscribe.after_event_id
        ):
            forks = [each.first_position - 1 for each in self._storage.incarnations()[1:]]
            common = max((fork for fork in forks if fork < position), default=0)
            raise LogDiverged(LogState(head.log_id, head.position), common)
        return position

    def _position_of(self, stream: str, version: int) -> int:
        rows = self._storage.stream_records(
            stream, version - 1, version, backwards=False, max_bytes=0
        )
        return rows[0][0] if rows else 0

    async def history(self, source: Source, after: int, until: int) -> Pages:
        """Walks what a subscription has yet to get of a window."""
        if not isinstance(source, StreamSource):
            return pages.walk(self._storage, source, after, until, backwards=False)
        return await self._threads.read(self._history_of, source.stream, after, until)

    def _history_of(self, stream: str, after: int, until: int) -> StreamPages:
        before = self._storage.span(stream, after)
        span = self._storage.span(stream, until)
        first = max(before.last, span.first - 1)
        return StreamPages(self._storage, stream, first, span.last, until=until, backwards=False)

    async def history_page(self, walk: Pages) -> Page:
        """The next page of a subscription's history, as it is sent, in turn with those of
        others."""
        async with self._history:
            return await self._threads.read(self._next_batch, walk)

    def _next_batch(self, walk: Pages) -> Page:
        page = self._next(walk, pages.PAGE_EVENTS)
        return replace(page, payload=batch_of(page.payload))

    def _next(self, walk: Pages, most: int) -> Page:
        return walk.next(most, self.outgoing.page_bytes)
