"""Refusals: everything a caller can be told no with, a class for each reason.

A class's `reason` is the name of the `FailureReason` in the API without its prefix; its
fields are the facts. `services/statuses.py` turns them into gRPC statuses.

    Refusal
    ├── VersionConflict, ConditionFailed, EventIdConflict   decide again
    ├── StreamDeleted, LogMismatch, LogDiverged, PositionAheadOfLog
    ├── InvalidRequest, ConditionTooCostly, NotFound        ask for something else
    ├── Overloaded, StorageFull, StorageUnavailable, MinPositionNotReached,
    │   ShuttingDown                                        repeat later
    ├── OutcomeUnknown                                      repeat with the same ids
    └── ReadOnly                                            ask another server
"""

from dataclasses import dataclass
from typing import ClassVar, Self
from uuid import UUID

from treering_server.core.model import Expectation, ExpectedVersion


class Refusal(Exception):
    """Why something was not done."""

    reason: ClassVar[str]
    retry_after_seconds: ClassVar[float | None] = None
    """Set where repeating the same request can help."""

    @property
    def message(self) -> str:
        """What was wrong, what was expected, and what to do, for people."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self.message

    def alone(self) -> Self:
        """Itself, without the way that it came, which would keep the whole request in memory
        until somebody looks for garbage."""
        self.__traceback__ = self.__context__ = self.__cause__ = None
        return self


def _state(version: int) -> str:
    return f"at version {version}" if version else "not there"


@dataclass(eq=False)
class VersionConflict(Refusal):
    """An expectation about a stream is not met."""

    stream: str
    expectation: Expectation
    actual_version: int
    reason = "VERSION_CONFLICT"

    @property
    def message(self) -> str:
        if isinstance(self.expectation, ExpectedVersion):
            expected = _state(self.expectation.version)
        else:
            expected = "there" if self.expectation.exists else "not there"
        return (
            f"stream {self.stream!r} is {_state(self.actual_version)}, expected it {expected}: "
            "load it again and decide again"
        )


@dataclass(eq=False)
class ConditionFailed(Refusal):
    """An event that an append condition forbids was recorded."""

    position: int
    condition_index: int
    reason = "CONDITION_FAILED"

    @property
    def message(self) -> str:
        return (
            f"conditions[{self.condition_index}] fails: the event at position {self.position} "
            "matches: read again and decide again"
        )


@dataclass(eq=False)
class EventIdConflict(Refusal):
    """An event id is taken by another event."""

    id: UUID
    position: int
    reason = "EVENT_ID_CONFLICT"

    @property
    def message(self) -> str:
        return (
            f"event id {self.id} is taken by the event at position {self.position}, and this "
            "append is no repeat of that one: give a new event a new id"
        )


@dataclass(eq=False)
class StreamDeleted(Refusal):
    """A stream was deleted for good."""

    stream: str
    reason = "STREAM_DELETED"

    @property
    def message(self) -> str:
        return f"stream {self.stream!r} was deleted permanently: use another name"


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong with a request."""

    field: str
    """Path of the field, as in `appends[0].events[2].tags[1]`; empty for the whole."""
    description: str
    limit: int | None = None
    """For a limit: the limit, in the field's unit."""
    actual: int | None = None
    """For a limit: what was given."""


@dataclass(eq=False)
class InvalidRequest(Refusal):
    """The request is malformed, contradictory or over a limit."""

    violations: tuple[Violation, ...]
    reason = "INVALID_REQUEST"

    @property
    def over_limits_only(self) -> bool:
        """Whether all that is wrong is that limits are exceeded."""
        return all(violation.limit is not None for violation in self.violations)

    @property
    def message(self) -> str:
        first = self.violations[0]
        where = f"{first.field}: " if first.field else ""
        more = len(self.violations) - 1
        return f"{where}{first.description}" + (f" (and {more} more)" if more else "")


@dataclass(frozen=True, slots=True)
class LogState:
    """Where the log is."""

    log_id: UUID
    head_position: int


@dataclass(eq=False)
class PositionAheadOfLog(Refusal):
    """A position or version lies after the end."""

    field: str
    given: int
    state: LogState
    last: int | None = None
    """For a version: the last one that the stream was ever given."""
    reason = "POSITION_AHEAD_OF_LOG"

    @property
    def message(self) -> str:
        last = self.state.head_position if self.last is None else self.last
        return (
            f"{self.field} is {self.given}, the last is {last}: the checkpoint is of another "
            "log or of a later state of this one"
        )


@dataclass(eq=False)
class MinPositionNotReached(Refusal):
    """The log did not get as far as the reader asked for in time."""

    min_position: int
    state: LogState
    reason = "MIN_POSITION_NOT_REACHED"
    retry_after_seconds = 0.1

    @property
    def message(self) -> str:
        return (
            f"position {self.min_position} was not reached in time, the log is at "
            f"{self.state.head_position}: repeat the call"
        )


@dataclass(eq=False)
class LogMismatch(Refusal):
    """The log never had the id that the caller expects."""

    expected: UUID
    state: LogState
    reason = "LOG_MISMATCH"

    @property
    def message(self) -> str:
        return (
            f"this log never had the id {self.expected}, it is {self.state.log_id}: "
            "check which server is called, or start from the beginning"
        )


@dataclass(eq=False)
class LogDiverged(Refusal):
    """The log lost its end and went another way after what the caller saw."""

    state: LogState
    last_common_position: int
    reason = "LOG_DIVERGED"

    @property
    def message(self) -> str:
        return (
            f"the log lost its end and is now {self.state.log_id}: what was seen after position "
            f"{self.last_common_position} is void; go back to there, load and decide again"
        )


@dataclass(eq=False)
class Overloaded(Refusal):
    """Too much at once; nothing was written."""

    what: str
    reason = "OVERLOADED"
    retry_after_seconds = 0.25

    @property
    def message(self) -> str:
        return f"{self.what}: nothing was done; wait and repeat"


@dataclass(eq=False)
class StorageUnavailable(Refusal):
    """The database is away; nothing was written."""

    what: str
    reason = "STORAGE_UNAVAILABLE"
    retry_after_seconds = 0.5

    @property
    def message(self) -> str:
        return f"the database is away ({self.what}); nothing was written: repeat"


@dataclass(eq=False)
class StorageFull(Refusal):
    """The database's disk is full; nothing was written."""

    reason = "STORAGE_FULL"
    retry_after_seconds = 5.0

    @property
    def message(self) -> str:
        return "the database's disk is full; nothing was written: free space, then repeat"


@dataclass(eq=False)
class ReadOnly(Refusal):
    """The database takes no writes."""

    reason = "READ_ONLY"

    @property
    def message(self) -> str:
        return "the database takes no writes (a standby?): send appends to the primary"


@dataclass(eq=False)
class OutcomeUnknown(Refusal):
    """The database went away in the commit: the append may have been written."""

    reason = "OUTCOME_UNKNOWN"
    retry_after_seconds = 0.5

    @property
    def message(self) -> str:
        return (
            "the database went away in the commit, the append may have been written: "
            "repeat it with the same event ids"
        )


@dataclass(eq=False)
class ShuttingDown(Refusal):
    """The server is going away; nothing was written."""

    reason = "SHUTTING_DOWN"
    retry_after_seconds = 0.5

    @property
    def message(self) -> str:
        return "the server is going away: call again"


@dataclass(eq=False)
class NotFound(Refusal):
    """There is no such thing."""

    what: str
    """What kind of thing: `stream` or `log`."""
    name: str
    reason = "NOT_FOUND"

    @property
    def message(self) -> str:
        return f"{self.what} {self.name!r} was not found"


@dataclass(eq=False)
class ConditionTooCostly(Refusal):
    """An append condition looks at too much."""

    condition_index: int
    reason = "CONDITION_TOO_COSTLY"

    @property
    def message(self) -> str:
        return (
            f"conditions[{self.condition_index}] looks at too much: give a later after_position "
            "or a rarer tag"
        )
