"""What the core asks of a database.

Every method blocks and may be called from any thread. Each read is a short transaction of
its own, and sees no event that is removed at that moment. Windows are always `after <
position <= until`, whichever way they are walked.

A database that can't be reached or refuses its service raises a `Refusal` from
`core.errors` (`StorageUnavailable`, `StorageFull`, `ReadOnly`); what a caller could not
have caused raises `StorageDefect`; a commit whose end is not known raises
`CommitUnknown`.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias
from uuid import UUID

from treering_server.core.model import EventId, Head, ListStreams, Stream
from treering_server.core.query import QueryItem, Terms
from treering_server.core.removal import NOTHING, Rule, RuleChange


class StorageDefect(Exception):
    """The database refused a statement of ours: a defect, or a poisoned append."""


class CommitUnknown(Exception):
    """The connection failed in COMMIT: it may have gone through or not."""


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One unbroken history of the log."""

    log_id: UUID
    first_position: int
    """The first position that was given under it; earlier ones are common."""


StoredRecord: TypeAlias = tuple[int, int | None, bytes | None]
"""Position, version (None: of no stream) and record (None: removed), as the driver gives
them: a class of our own would cost more than reading the row."""


@dataclass(frozen=True, slots=True)
class Matches:
    """What a look for matching events found."""

    positions: list[int]
    """Along the direction asked for."""
    looked_to: int
    """Everything on the way to this position was looked at: when going forwards the
    highest position looked at, when going backwards the position below the lowest."""


class StreamState(NamedTuple):
    """What an append needs to know of a stream."""

    version: int
    """Its version; 0: no such stream, or deleted."""
    last_version: int
    """The last version it was ever given: the next one is one more."""
    permanently_deleted: bool = False
    rule: Rule = NOTHING
    """What of it is removed."""


NO_STREAM = StreamState(version=0, last_version=0)


class RecordedId(NamedTuple):
    """An event whose id was asked for."""

    position: int
    stream: str
    version: int
    recorded_at: int
    record: bytes | None
    """None: erased."""


@dataclass(frozen=True, slots=True)
class LockedState:
    """What an append is decided on, read under the append lock."""

    head: Head
    streams: dict[str, StreamState]
    """Of the streams asked for, those that exist."""
    ids: dict[EventId, RecordedId]
    """Of the ids asked for, those that are taken."""


class NewRecord(NamedTuple):
    """An event in its place, ready to be stored. A tuple, as all that there is one of for each
    event: a frozen dataclass costs twice as much to make, under the append lock."""

    position: int
    recorded_at: int
    version: int
    id: EventId
    terms: Terms
    record: bytes

    @property
    def stream(self) -> str:
        """Name of its stream; empty: none."""
        return self.terms.stream


def beginning(after: int, until: int, most: int, *, backwards: bool) -> tuple[int, int]:
    """The part of a window of positions or versions that a walk begins with: so many at most."""
    return (max(after, until - most), until) if backwards else (after, min(until, after + most))


@dataclass(frozen=True, slots=True)
class StreamSpan:
    """The versions that a stream has at some position."""

    last: int
    """The last one that it was given up to there; 0: none."""
    first: int
    """The oldest of all that can be read; more than the last one, if none can."""
    deleted: int
    """Versions up to here were removed by a deletion."""

    @property
    def version(self) -> int:
        """The stream's version; 0: no such stream, or deleted."""
        return self.last if self.last > self.deleted else 0

    def window(self, after: int, until: int, most: int, *, backwards: bool) -> tuple[int, int]:
        """The versions of a window that can be read, and of these at most so many, from where a
        walk begins: after the first, and until the second."""
        after, until = max(after, self.first - 1), min(until, self.last)
        return beginning(after, until, most, backwards=backwards)


NO_SPAN = StreamSpan(last=0, first=1, deleted=0)


class LoadedStream(NamedTuple):
    """One state of the log, and of a stream in it."""

    head: Head
    span: StreamSpan
    rows: list[StoredRecord]
    """The first of its records that were asked for."""


@dataclass(frozen=True, slots=True)
class LogNews:
    """What a server must know that others changed."""

    log_id: UUID
    generation: int
    changes: Sequence[RuleChange]
    """Of the generations since the one that was named. Perhaps not all: they are up to
    `generation`."""
    until: int
    """The head, or later: no event after it is older than the changes."""


@dataclass(frozen=True, slots=True)
class RemovingStream:
    """A stream of which events are removed, or may be as it grows or time goes on."""

    id: int
    floor_version: int
    """Versions up to here are marked as removed for good."""
    removed_version: int
    """Versions up to here are removed now: if it is more, they are to be marked."""
    erased_version: int
    """The content of versions up to here is erased."""
    is_moving: bool
    """Whether it has a bound on age or number."""


@dataclass(frozen=True, slots=True)
class ErasableEvent:
    """An event that is removed, and whose content is still there."""

    version: int
    position: int
    record: bytes | None


class WriteTransaction(Protocol):
    """A transaction that holds the append lock."""

    def state(self, streams: Collection[str], ids: Collection[EventId]) -> LockedState:
        """What the log, the named streams and the ids are like."""

    def records(self, after: int, until: int, *, max_bytes: int) -> list[StoredRecord]:
        """Records of a window, cut so that they stay within `max_bytes`; but at least one."""

    def stream(self, name: str, now: int) -> Stream | None:
        """A stream, removal judged at a time; None if nothing is known of it."""

    def change_stream(self, changed: Stream, floor_version: int) -> None:
        """Stores a stream's retention and deletion, and raises the generation.

        Args:
            changed: What it shall be like. It need not have been written to.
            floor_version: Versions up to this one are removed for good.
        """

    def raise_floors(self, floors: Mapping[int, int]) -> None:
        """Marks versions of streams, by their ids, as removed for good."""

    def settle(self, stream_ids: Collection[int]) -> None:
        """Forgets those of the streams of which nothing is left to remove or erase."""

    def insert(self, records: Sequence[NewRecord]) -> None:
        """Stores events, their tags, and the streams, categories and types new with them."""

    def commit(self) -> None:
        """Makes all of it durable. Always writes something, so that a commit that
        returns stands behind everything that the transaction has seen.

        Raises:
            CommitUnknown: It may have gone through or not.
        """


class Storage(Protocol):
    """A database that keeps one log."""

    def head(self) -> Head:
        """The end of the log now."""

    def incarnations(self) -> list[Incarnation]:
        """All that the log has had, oldest first."""

    def event_id(self, position: int) -> UUID | None:
        """Id of the event at a position; None if there is none."""

    def position_at_time(self, microseconds: int) -> int:
        """The last position recorded at or before a time; 0: none."""

    def records(
        self, after: int, until: int, *, backwards: bool, max_bytes: int
    ) -> list[StoredRecord]:
        """Records of a window, cut so that they stay within `max_bytes`; but at least one.
        The window bounds what the database looks at, whatever its planner believes."""

    def records_at(self, positions: Sequence[int], *, max_bytes: int) -> list[StoredRecord]:
        """Records at positions, in their order, cut likewise."""

    def stream_records(
        self,
        stream: str,
        after_version: int,
        until_version: int,
        *,
        backwards: bool,
        max_bytes: int,
    ) -> list[StoredRecord]:
        """Records of a window of versions of a stream, cut likewise."""

    def load(
        self, stream: str, after: int, until: int, *, backwards: bool, most: int, max_bytes: int
    ) -> LoadedStream:
        """The head, a stream as of it, and records of a window of versions, which begins and ends
        with what can be read: of `most` versions at most, cut likewise. As few trips as can be, as
        nothing is asked for more often."""

    def span(self, stream: str, position: int) -> StreamSpan:
        """The versions that a stream was given up to a position, and can be read now."""

    def matching(
        self, item: QueryItem, after: int, until: int, *, backwards: bool, max_postings: int
    ) -> Matches:
        """Positions in a window whose events match, found from the narrowest part of the
        item. Looks at no more than about `max_postings` events that this part names."""

    def stream(self, name: str) -> Stream | None:
        """A stream; None if it was never written to."""

    def streams(self, request: ListStreams) -> list[Stream]:
        """Streams in order of name, byte by byte, after `request.after_name`."""

    def moving_rules(self, names: Collection[str]) -> dict[str, Rule]:
        """Of the streams named, the rules of those that have a bound on age or number."""

    def news(self, since: int) -> LogNews:
        """Changes of retention and deletion after a generation, and the log's id."""

    @property
    def log_id(self) -> UUID:
        """The log's id as the youngest connection found it. What was read before it changed is
        of the history of the id before."""

    def removing(self, after_id: int, most: int) -> list[RemovingStream]:
        """Streams of which events are or may be removed, in order of their ids."""

    def erasable(self, stream: RemovingStream, most: int, *, max_bytes: int) -> list[ErasableEvent]:
        """The first of a stream's events that are removed for good and not erased, cut so that
        they stay within `max_bytes`; but at least one."""

    def erase(
        self, stream_id: int, events: Sequence[ErasableEvent], tags: Sequence[tuple[str, int]]
    ) -> bool:
        """Takes the content of a stream's events away, and their tags (each with its
        position) with it. Other servers' appends need not wait. False: another server is
        at it."""

    def shred(self) -> bool:
        """Overwrites what is left of erased content in the database's files, as far as it is
        at hand. False: not all of it, for now."""

    def write(self, lock_seconds: float) -> AbstractContextManager[WriteTransaction]:
        """Takes the append lock, waiting that long at most. Leaving without a commit rolls
        back."""

    def close(self) -> None:
        """Gives all connections back. Nothing may be called after it."""
