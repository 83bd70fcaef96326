"""Walks a window of the log page by page, for whoever reads history.

A page holds joined records, cut by bytes; asking for it is a few short statements, and
between two pages nothing is held in the database. Pages block: they are made in the
readers' threads, one at a time for each walk.
"""

import time
from dataclasses import dataclass
from typing import Protocol

from treering_server.core.outgoing import PAGE_BYTES
from treering_server.core.query import EVERYTHING, Query, QueryItem
from treering_server.core.record import join
from treering_server.core.storage import Storage, StoredRecord, beginning

PAGE_EVENTS = 4_000
PAGE_SECONDS = 0.05
"""A page of a sparse query ends after that long, empty or not, so that a checkpoint moves."""
LEAST_WALK, FIRST_WALK, LONGEST_WALK = 32, 256, 8_192
"""Events that one statement looks at: more while it is quick, fewer when it is slow."""
WALK_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the events, joined as they are sent."""

    payload: bytes
    count: int
    looked_to: int
    """Every event on the way to this position was looked at."""
    last_position: int
    """Of the last event in it; 0: it is empty."""
    last: bool
    """Whether this was all."""


class Pages(Protocol):
    """A walk along a window."""

    def next(self, most: int, most_bytes: int = PAGE_BYTES) -> Page:
        """The next page, of at most that many events and bytes; perhaps of none. One event that
        is larger makes a page of its own."""


def walk(storage: Storage, query: Query, after: int, until: int, *, backwards: bool) -> Pages:
    """Walks the events of `after < position <= until` that match."""
    if query == EVERYTHING:
        return LogPages(storage, after, until, backwards=backwards)
    return QueryPages(storage, query, after, until, backwards=backwards)


def _page(rows: list[StoredRecord], looked_to: int, *, last: bool) -> Page:
    records = [record for _, _, record in rows if record is not None]
    there = (position for position, _, record in reversed(rows) if record is not None)
    return Page(join(records), len(records), looked_to, next(there, 0), last)


class LogPages:
    """Every event of a window of positions."""

    def __init__(self, storage: Storage, after: int, until: int, *, backwards: bool) -> None:
        """See `walk`."""
        self._storage = storage
        self._after = after
        self._until = until
        self._backwards = backwards
        self._fruitless = 1

    def next(self, most: int, most_bytes: int = PAGE_BYTES) -> Page:
        """See `Pages`."""
        # No more than is asked for, unless it takes many to find one that is not removed.
        window = max(most, self._fruitless)
        after, until = _nearest(self._after, self._until, window, backwards=self._backwards)
        rows = []
        if after < until:
            rows = self._storage.records(
                after, until, backwards=self._backwards, max_bytes=most_bytes
            )
        if rows:
            rows = _first_events(rows, most)
        # Without rows, all that was there is gone.
        if self._backwards:
            self._until = rows[-1][0] - 1 if rows else after
            page = _page(rows, self._until, last=self._until <= self._after)
        else:
            self._after = rows[-1][0] if rows else until
            page = _page(rows, self._after, last=self._after >= self._until)
        self._fruitless = 1 if page.count else min(2 * window, PAGE_EVENTS)
        return page


def _first_events(rows: list[StoredRecord], most: int) -> list[StoredRecord]:
    """The rows up to the last of so many events that are there."""
    if len(rows) <= most:
        return rows
    there = 0
    for index, (_, _, record) in enumerate(rows, start=1):
        there += record is not None
        if there == most:
            return rows[:index]
    return rows


def _nearest(after: int, until: int, most: int, *, backwards: bool) -> tuple[int, int]:
    """The part of a window that is walked first: no longer than a page may be."""
    return beginning(after, until, min(most, PAGE_EVENTS), backwards=backwards)


class StreamPages:
    """The events of one stream in a window of versions."""

    def __init__(
        self,
        storage: Storage,
        stream: str,
        after_version: int,
        until_version: int,
        *,
        until: int,
        backwards: bool,
    ) -> None:
        """Walks `after_version < version <= until_version`; `until` is the position that is
        looked to when there are no more."""
        self._storage = storage
        self._stream = stream
        self._after = after_version
        self._until = until_version
        self._position = 0 if backwards else until
        self._backwards = backwards

    def next(self, most: int, most_bytes: int = PAGE_BYTES) -> Page:
        """See `Pages`."""
        after, until = _nearest(self._after, self._until, most, backwards=self._backwards)
        rows = []
        if after < until:
            rows = self._storage.stream_records(
                self._stream, after, until, backwards=self._backwards, max_bytes=most_bytes
            )
        return self._page_of(rows, after, until)

    def first(self, rows: list[StoredRecord], most: int) -> Page:
        """The first page, of at most that many events, whose rows were read already."""
        after, until = _nearest(self._after, self._until, most, backwards=self._backwards)
        return self._page_of(rows, after, until)

    def _page_of(self, rows: list[StoredRecord], after: int, until: int) -> Page:
        version = rows[-1][1] if rows else None
        if self._backwards:
            self._until = after if version is None else version - 1
        else:
            self._after = until if version is None else version
        last = self._after >= self._until
        if last or not rows:
            return _page(rows, self._position, last=last)
        position = rows[-1][0]
        return _page(rows, position - 1 if self._backwards else position, last=False)


class _ItemWalk:
    """Positions of one item's matches, looked up as they are needed."""

    def __init__(
        self, storage: Storage, item: QueryItem, after: int, until: int, *, backwards: bool
    ) -> None:
        self._storage = storage
        self._item = item
        self._after = after
        self._until = until
        self._backwards = backwards
        self._most = FIRST_WALK
        self._fruitless = LEAST_WALK
        self.found: list[int] = []
        self.looked_to = until if backwards else after

    @property
    def done(self) -> bool:
        return self._after >= self._until

    def look_on(self, most: int) -> None:
        """Finds some more."""
        began = time.monotonic()
        matches = self._storage.matching(
            self._item,
            self._after,
            self._until,
            backwards=self._backwards,
            # No more than is asked for, unless it takes many to find one.
            max_postings=min(self._most, max(most, self._fruitless)),
        )
        if time.monotonic() - began < WALK_SECONDS:
            self._most = min(2 * self._most, LONGEST_WALK)
        else:
            self._most = max(self._most // 2, FIRST_WALK)
        self._fruitless = LEAST_WALK if matches.positions else 2 * self._fruitless
        self.found += matches.positions
        self.looked_to = matches.looked_to
        if self._backwards:
            self._until = matches.looked_to
        else:
            self._after = matches.looked_to


class QueryPages:
    """The events of a window that match any item, merged by position."""

    def __init__(
        self, storage: Storage, query: Query, after: int, until: int, *, backwards: bool
    ) -> None:
        """See `walk`."""
        self._storage = storage
        self._backwards = backwards
        self._items = [
            _ItemWalk(storage, item, after, until, backwards=backwards) for item in query.items
        ]
        self._found: list[int] = []

    def next(self, most: int, most_bytes: int = PAGE_BYTES) -> Page:
        """See `Pages`."""
        most = min(most, PAGE_EVENTS)
        deadline = time.monotonic() + PAGE_SECONDS
        while len(self._found) < most and not self._done and time.monotonic() < deadline:
            self._look_on(most - len(self._found))
        wanted = self._found[:most]
        rows: list[StoredRecord] = []
        if wanted:
            rows = self._storage.records_at(wanted, max_bytes=most_bytes)
            del self._found[: len(rows)]
        if self._found:
            position = rows[-1][0]
            looked_to = position - 1 if self._backwards else position
        else:
            looked_to = self._frontier
        return _page(rows, looked_to, last=self._done and not self._found)

    @property
    def _done(self) -> bool:
        return all(item.done for item in self._items)

    @property
    def _frontier(self) -> int:
        """How far all items were looked at."""
        nearest = max if self._backwards else min
        return nearest(item.looked_to for item in self._items)

    def _look_on(self, most: int) -> None:
        """Moves the items that hold up the others, and takes what is now complete."""
        frontier = self._frontier
        for item in self._items:
            if item.looked_to == frontier and not item.done:
                item.look_on(most)
        frontier = self._frontier
        complete: set[int] = set()
        for item in self._items:
            if self._backwards:
                ready = [each for each in item.found if each > frontier]
            else:
                ready = [each for each in item.found if each <= frontier]
            complete.update(ready)
            del item.found[: len(ready)]
        self._found += sorted(complete, reverse=self._backwards)
