"""What can go wrong with a call, as exceptions with the facts as attributes.

    TreeringError
    ├── Conflict                   load again, decide again
    │   ├── VersionConflict        a stream does not have the version expected
    │   └── ConditionFailed        a matching event was recorded meanwhile
    ├── InvalidRequest             malformed or contradictory; a defect of the caller
    │   └── LimitExceeded          over a limit; repeating never helps
    ├── AlreadyExists              the name is taken
    │   └── EventIdConflict        an event's id is taken by another event
    ├── NotFound                   no such stream, consumer group or log
    ├── OutOfRange
    │   └── PositionAheadOfLog     a position after the end: of another log, or a later state
    ├── FailedPrecondition
    │   ├── StreamDeleted          the stream was deleted for good
    │   ├── LogMismatch            the log never had the id that was expected
    │   ├── LogDiverged            the log lost its end: what was seen later is void
    │   ├── ReadOnly               the database takes no writes
    │   └── ConditionTooCostly     a condition looks at too much
    ├── ResourceExhausted
    │   ├── Overloaded             too much at once
    │   └── StorageFull            the database's disk is full
    ├── Unavailable                no server, or it can't answer now
    │   ├── StorageUnavailable     the server can't reach its database
    │   ├── ShuttingDown           the server is going away
    │   ├── OutcomeUnknown         the database went away in the commit
    │   └── MinPositionNotReached  the state asked for was not reached in time
    ├── DeadlineExceeded           no answer in time
    ├── ServerDefect               an error that the server did not foresee
    └── ClientClosed               the client was closed while the call was under way

A failure of a kind that this version does not know is of the class for its code (`Conflict`,
`OutOfRange`, …), else a plain `TreeringError`: decide by `code` then.

What may pass by itself was tried again before it was raised, until the call's timeout. After
a call that writes has failed, `outcome_unknown` says whether it may have been carried out all
the same; then repeat it. An append: the same events, with the same ids: what was recorded is
found by them and answered with `duplicate=True`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import grpc
from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status

from treering.v1 import failure_pb2 as pb

STATUS_DETAILS = "grpc-status-details-bin"
PUSHBACK = "grpc-retry-pushback-ms"

Metadata = Iterable[tuple[str, str | bytes]]


class TreeringError(Exception):
    """A call failed. The parent of every exception of this package.

    Attributes:
        message: What was wrong, what was expected, what to do.
        code: The gRPC status code. None if the failure arose here.
        reason: The kind, as in `"VERSION_CONFLICT"`. Empty: the server gave none, as when it
            could not be reached.
        retry_after: Seconds to wait before a repeat can help. None: the server said nothing.
        outcome_unknown: Whether what failed with this (an append, a new retention, a deletion)
            may have been carried out all the same. Means nothing for calls that write nothing.
    """

    def __init__(
        self,
        message: str = "",
        *,
        code: grpc.StatusCode | None = None,
        reason: str = "",
        retry_after: float | None = None,
        outcome_unknown: bool = False,
        **facts: object,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.retry_after = retry_after
        self.outcome_unknown = outcome_unknown
        for name, fact in facts.items():
            if name not in _facts_of(type(self)):
                raise TypeError(f"{type(self).__name__} has no attribute {name}")
            setattr(self, name, fact)

    def __str__(self) -> str:
        if self.reason:
            return f"{self.reason}: {self.message}"
        if self.code is not None:
            return f"{self.code.name}: {self.message}"
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders in worker pools; the facts go along.
        return _rebuilt, (type(self), self.message, self.__dict__)


class Conflict(TreeringError):
    """What was decided on has changed meanwhile, and nothing was written: load again, decide
    again. The parent of `VersionConflict` and `ConditionFailed`."""


class VersionConflict(Conflict):
    """A stream's expectation is not met; nothing was written, or deleted. Load again, decide
    again."""

    stream: str = ""
    """The stream; of several the first, in the order of the append."""
    expected_version: int | None = None
    """What was expected; None if `expected_exists` was."""
    expected_exists: bool | None = None
    """What was expected; None if `expected_version` was."""
    actual_version: int = 0
    """What it is. 0: no such stream, or deleted."""


class ConditionFailed(Conflict):
    """An event in the way of an append condition was recorded; nothing was written. Load
    again, decide again."""

    position: int = 0
    """Position of the first event after the condition's `after_position` that matches."""
    condition_index: int = 0
    """Which condition: its index in the append, from 0."""


class InvalidRequest(TreeringError):
    """The request is malformed or contradictory, or has a part that this server does not know
    yet. Repeating it never helps."""

    violations: "Sequence[Violation]" = ()
    """What is wrong, field by field; the first 16."""


class LimitExceeded(InvalidRequest):
    """Something is over a limit; nothing was written. Repeating never helps."""


class AlreadyExists(TreeringError):
    """The name is taken."""


class EventIdConflict(AlreadyExists):
    """An event's id is taken by another event; nothing was written. Either the id was used for
    something else, or a repeat differs from what was appended the first time."""

    event_id: str = ""
    """The first id, in the order of the append, that is taken."""
    position: int = 0
    """Position of the event that has it."""


class NotFound(TreeringError):
    """There is no such stream, consumer group or log. A stream is there once it was written to;
    one that is deleted can be asked about, but has no retention to change: append to it
    first."""


class OutOfRange(TreeringError):
    """A position or version is out of range."""


class _LogFacts(TreeringError):
    """What several failures tell about the log."""

    log_id: str = ""
    """Id of the log as it is now."""
    head_position: int = 0
    """Position of its last event."""


class PositionAheadOfLog(OutOfRange, _LogFacts):
    """A position or version is after the end: the checkpoint is of another log, or of a later
    state of this one (as after a restore). Check which server is called; if it is the right
    one, its log lost its end: rebuild what was made of events, from the beginning."""


class FailedPrecondition(TreeringError):
    """The state of the log or of its server does not allow this."""


class StreamDeleted(FailedPrecondition):
    """The stream was deleted for good; its name can't be used again. Use another name; a
    subscription to it is over."""


class LogMismatch(FailedPrecondition, _LogFacts):
    """The log never had the id that was expected: the checkpoint or the decision is of another
    log. Check which server is called; if it is the right one, rebuild what was made of events,
    from the beginning."""


class LogDiverged(FailedPrecondition, _LogFacts):
    """The log lost its end (a failover, a restore) and went another way: what was seen after
    `last_common_position` is void.

    A consumer undoes what it made of later events and goes on from there, under the new id:

    ```python
    except LogDiverged as lost:
        read_model.undo_after(lost.last_common_position)
        checkpoint = Checkpoint(lost.log_id, lost.last_common_position)
    ```

    Or, where it can't undo, it rebuilds all from the beginning (`Checkpoint(lost.log_id, 0)`).
    A repeat of the same call never helps. An append: load again, decide again.
    """

    last_common_position: int = 0
    """Up to here, what was seen is still the log's. 0: nothing for sure: rebuild."""

    def __str__(self) -> str:
        undo = (
            f"undo what was made of events after position {self.last_common_position}, or "
            "rebuild it all"
            if self.last_common_position
            else "rebuild what was made of events"
        )
        go_on = f"Checkpoint({self.log_id!r}, {self.last_common_position})"
        return f"{super().__str__()}. Consumers: {undo}; then go on after {go_on}."


class ReadOnly(FailedPrecondition):
    """The database takes no writes: it is a standby. Nothing was written."""


class ConditionTooCostly(FailedPrecondition):
    """An append condition looks at too much; nothing was written. Give it a later
    `after_position`, or a rarer tag."""


class ResourceExhausted(TreeringError):
    """The server, or something in between, won't take this now."""


class Overloaded(ResourceExhausted):
    """Too much at once; nothing was written."""


class StorageFull(ResourceExhausted):
    """The database's disk is full; nothing was written."""


class Unavailable(TreeringError):
    """No server can be reached, the connection broke, or the server can't answer now."""


class StorageUnavailable(Unavailable):
    """The server can't reach its database."""


class ShuttingDown(Unavailable):
    """The server is going away."""


class OutcomeUnknown(Unavailable):
    """The database went away in the commit: what was to be written may have been. Repeat it."""


class MinPositionNotReached(Unavailable, _LogFacts):
    """The state asked for by `min_position` was not reached in time: the server waits at most
    5 s. Repeating can help."""


class DeadlineExceeded(TreeringError):
    """No answer within the timeout. What was to be written may have been: repeat it."""


class ServerDefect(TreeringError):
    """Something that the server did not foresee. Its message has a number to look for in the
    server's log."""


class ClientClosed(TreeringError):
    """The client was closed before the call, or while it was under way."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong with a request."""

    field: str
    """Path of the field, as in `appends[0].events[2].tags[1]`. Empty: the whole request."""
    description: str
    limit: int = 0
    """For a limit: the limit, in the field's unit."""
    actual: int = 0
    """For a limit: what was given."""


BY_REASON: Mapping[str, type[TreeringError]] = {
    "VERSION_CONFLICT": VersionConflict,
    "CONDITION_FAILED": ConditionFailed,
    "EVENT_ID_CONFLICT": EventIdConflict,
    "STREAM_DELETED": StreamDeleted,
    "INVALID_REQUEST": InvalidRequest,
    "LIMIT_EXCEEDED": LimitExceeded,
    "POSITION_AHEAD_OF_LOG": PositionAheadOfLog,
    "MIN_POSITION_NOT_REACHED": MinPositionNotReached,
    "LOG_MISMATCH": LogMismatch,
    "OVERLOADED": Overloaded,
    "STORAGE_UNAVAILABLE": StorageUnavailable,
    "SHUTTING_DOWN": ShuttingDown,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists,
    "READ_ONLY": ReadOnly,
    "OUTCOME_UNKNOWN": OutcomeUnknown,
    "STORAGE_FULL": StorageFull,
    "LOG_DIVERGED": LogDiverged,
    "CONDITION_TOO_COSTLY": ConditionTooCostly,
}

BY_CODE: Mapping[grpc.StatusCode, type[TreeringError]] = {
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRange,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.INTERNAL: ServerDefect,
    grpc.StatusCode.UNKNOWN: ServerDefect,
    grpc.StatusCode.DATA_LOSS: ServerDefect,
}

# After these codes an append may have been recorded, whoever sent them.
_UNKNOWN_OUTCOMES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DATA_LOSS,
    }
)
# Although of such a code, these say that nothing was written.
_NOTHING_WRITTEN = frozenset({"STORAGE_UNAVAILABLE", "SHUTTING_DOWN", "MIN_POSITION_NOT_REACHED"})

_CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def from_failure(failure: pb.Failure) -> TreeringError:
    """The exception for a failure that the server described."""
    code = _CODES.get(failure.code, grpc.StatusCode.UNKNOWN)
    reason = _reason_name(failure.reason)
    error_class = BY_REASON.get(reason) or BY_CODE.get(code, TreeringError)
    retry_after = None
    if failure.HasField("retry_after"):
        retry_after = max(0.0, failure.retry_after.seconds + failure.retry_after.nanos / 1e9)
    known = _facts_of(error_class)
    facts = {name: fact for name, fact in _facts(failure).items() if name in known}
    return error_class(
        failure.message,
        code=code,
        reason=reason,
        retry_after=retry_after,
        outcome_unknown=code in _UNKNOWN_OUTCOMES and reason not in _NOTHING_WRITTEN,
        **facts,
    )


def from_status(
    code: grpc.StatusCode, details: str | None, trailers: Metadata | None
) -> TreeringError:
    """The exception for a call that ended with a status: from the `Failure` in its trailers,
    or where there is none (no server was reached, or one that is not ours) from the code."""
    trailer = dict(tuple(trailers or ()))
    failure = _failure_in(trailer.get(STATUS_DETAILS))
    if failure is not None:
        return from_failure(failure)
    return BY_CODE.get(code, TreeringError)(
        details or "",
        code=code,
        retry_after=_pushback(trailer.get(PUSHBACK)),
        outcome_unknown=code in _UNKNOWN_OUTCOMES,
    )


def _failure_in(details: str | bytes | None) -> pb.Failure | None:
    """The `Failure` among the details; what is not ours, or not readable, is passed over."""
    if not isinstance(details, bytes):
        return None
    status, failure = Status(), pb.Failure()
    try:
        status.ParseFromString(details)
        for detail in status.details:
            if detail.Unpack(failure):
                return failure
    except DecodeError:
        pass
    return None


def _pushback(milliseconds: str | bytes | None) -> float | None:
    if milliseconds is None:
        return None
    try:
        value = int(milliseconds)
    except ValueError:
        return None
    return value / 1000 if value >= 0 else None


def _reason_name(reason: int) -> str:
    if reason == pb.FAILURE_REASON_UNSPECIFIED:
        return ""
    value = pb.FailureReason.DESCRIPTOR.values_by_number.get(reason)
    return value.name.removeprefix("FAILURE_REASON_") if value else f"REASON_{reason}"


def _facts(failure: pb.Failure) -> dict[str, object]:
    match failure.WhichOneof("detail"):
        case "version_conflict":
            conflict = failure.version_conflict
            facts: dict[str, object] = {
                "stream": conflict.stream,
                "actual_version": conflict.actual_version,
            }
            expectation = conflict.WhichOneof("expectation")
            if expectation is not None:
                facts[expectation] = getattr(conflict, expectation)
            return facts
        case "condition_failed":
            return {
                "position": failure.condition_failed.position,
                "condition_index": failure.condition_failed.condition_index,
            }
        case "event_id_conflict":
            return {
                "event_id": failure.event_id_conflict.id,
                "position": failure.event_id_conflict.position,
            }
        case "invalid_request":
            violations = failure.invalid_request.violations
            return {
                "violations": tuple(
                    Violation(each.field, each.description, each.limit, each.actual)
                    for each in violations
                )
            }
        case "log_state":
            return {
                "log_id": failure.log_state.log_id,
                "head_position": failure.log_state.head_position,
                "last_common_position": failure.log_state.last_common_position,
            }
        case _:
            return {}


def _facts_of(error_class: type[TreeringError]) -> frozenset[str]:
    """The attributes that a class has beyond those of every `TreeringError`."""
    names: set[str] = set()
    for each in error_class.__mro__[: error_class.__mro__.index(TreeringError)]:
        names.update(each.__annotations__)
    return frozenset(names)


def _rebuilt(
    error_class: type[TreeringError], message: str, state: dict[str, object]
) -> TreeringError:
    """Undoes `TreeringError.__reduce__`."""
    error = error_class(message)
    error.__dict__.update(state)
    return error
