"""The values that the parts hand to one another. All frozen, none knows how it travels.

Positions and versions count from 1; 0 stands for "before everything" and "no such
stream". Times are whole microseconds since 1970, UTC.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias
from uuid import UUID

from treering_server.core.query import Query

MAX_POSITION = 2**63 - 1
"""The highest position, version and count that databases and callers can hold."""
EventId: TypeAlias = bytes
"""The 16 bytes of an event's UUID, on the way of an append: objects of the class `UUID` take ten
times as long to make and to compare, and there is one for each event."""
APPEND_OVERHEAD_BYTES, EVENT_OVERHEAD_BYTES = 1_024, 1_024
"""What a waiting append, and each of its events, counts for beside its bytes."""


@dataclass(frozen=True, slots=True)
class ExpectedVersion:
    """Holds if the stream is at exactly this version."""

    version: int

    def holds(self, version: int) -> bool:
        """Whether a stream at `version` meets it."""
        return version == self.version


@dataclass(frozen=True, slots=True)
class ExpectedExists:
    """Holds if the stream has events, or, where `exists` is false, if it has none."""

    exists: bool

    def holds(self, version: int) -> bool:
        """Whether a stream at `version` meets it."""
        return (version > 0) == self.exists


Expectation = ExpectedVersion | ExpectedExists


class NewEvent(NamedTuple):
    """An event to append, encoded once when its request arrived."""

    id: EventId
    type: str
    tags: frozenset[str]
    body: bytes
    """The encoded `Event`, id, content type and all: the first part of its record."""


class StreamAppend(NamedTuple):
    """Events of one stream in order, and what the stream must be like before. A part with
    no events only checks."""

    stream: str
    expectation: Expectation | None
    events: tuple[NewEvent, ...]


@dataclass(frozen=True, slots=True)
class AppendCondition:
    """Fails if an event that matches was recorded after `after_position`."""

    fail_if_match: Query
    after_position: int


class Append(NamedTuple):
    """One atomic write: all of its events are recorded next to one another, or none."""

    streams: tuple[StreamAppend, ...]
    events: tuple[NewEvent, ...]
    """Events of no stream, recorded after those of streams."""
    conditions: tuple[AppendCondition, ...]
    expected_log_id: UUID | None
    size: int
    """Bytes of the encoded request: what it counts for where memory is bounded."""

    @property
    def event_count(self) -> int:
        """How many events it has."""
        count = len(self.events)
        for part in self.streams:
            count += len(part.events)
        return count

    @property
    def queued_bytes(self) -> int:
        """What it counts for while it waits to be recorded."""
        return self.size + APPEND_OVERHEAD_BYTES + EVENT_OVERHEAD_BYTES * self.event_count

    def placed_events(self) -> list[tuple[str, NewEvent]]:
        """All events with their stream ("" for none), in the order of recording."""
        placed = [(part.stream, event) for part in self.streams for event in part.events]
        placed += [("", event) for event in self.events]
        return placed


class StreamVersion(NamedTuple):
    """A stream and its version."""

    stream: str
    version: int


class Appended(NamedTuple):
    """Where the events of an append are."""

    first_position: int
    last_position: int
    versions: tuple[StreamVersion, ...]
    recorded_at: int
    duplicate: bool
    log_id: UUID


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the log as it was at one moment."""

    log_id: UUID
    position: int
    recorded_at: int
    """When the event at `position` was recorded; 0 if the log is empty."""
    event_id: UUID | None
    """Id of the event at `position`; None if the log is empty."""
    generation: int = 0
    """Raised by every change of a stream's retention or deletion."""


@dataclass(frozen=True, slots=True)
class StreamSource:
    """The events of one stream, which need not exist."""

    stream: str


Source = StreamSource | Query


@dataclass(frozen=True, slots=True)
class AfterPosition:
    """Strictly after this position, along the direction."""

    position: int


@dataclass(frozen=True, slots=True)
class AfterVersion:
    """Strictly after this version of the stream, along the direction."""

    version: int


@dataclass(frozen=True, slots=True)
class AfterTime:
    """Recorded after this time (backwards: before it)."""

    nanoseconds: int


@dataclass(frozen=True, slots=True)
class FromHead:
    """After whatever is the head when the subscription begins."""


@dataclass(frozen=True, slots=True)
class UntilPosition:
    """The log as it stood when this position was its head."""

    position: int


@dataclass(frozen=True, slots=True)
class UntilTime:
    """The log as it stood at this time, with what was recorded at it."""

    nanoseconds: int


@dataclass(frozen=True, slots=True)
class Read:
    """What to read of the log."""

    source: Source
    backwards: bool = False
    after: AfterPosition | AfterVersion | AfterTime | None = None
    until: UntilPosition | UntilTime | None = None
    limit: int | None = None
    min_position: int = 0
    expected_log_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Subscribe:
    """What to follow."""

    source: Source
    start: AfterPosition | AfterVersion | AfterTime | FromHead
    heartbeat_seconds: float
    expected_log_id: UUID | None = None
    after_event_id: UUID | None = None
    size: int = field(default=0, compare=False)
    """Bytes of the encoded request: what it counts for while it is open."""


@dataclass(frozen=True, slots=True)
class ListStreams:
    """A page of streams by name."""

    prefix: str
    page_size: int
    after_name: str | None
    show_deleted: bool


DeletionState = Literal["live", "deleted", "permanent"]


@dataclass(frozen=True, slots=True)
class Retention:
    """How long events of a stream are kept: what any part excludes is removed."""

    max_age: int | None = None
    """In microseconds."""
    max_count: int | None = None
    truncate_before: int = 0


FOR_EVER = Retention()


@dataclass(frozen=True, slots=True)
class UpdateStream:
    """A new retention for a stream that exists."""

    stream: str
    retention: Retention


@dataclass(frozen=True, slots=True)
class DeleteStream:
    """A stream to delete."""

    stream: str
    expectation: Expectation | None
    permanent: bool


@dataclass(frozen=True, slots=True)
class Stream:
    """What is known about a stream that was written to, or whose name was made unusable."""

    name: str
    version: int
    """0 if it is deleted."""
    first_version: int
    """The oldest version that can be read; 0: none."""
    next_version: int
    """The version that its next event gets: after a deletion versions go on."""
    recorded_at: int
    """When its last event was recorded; 0: it never had one."""
    deletion: DeletionState
    retention: Retention
    deleted_version: int
    """Versions up to here were removed by a deletion."""
