"""Refusals: from the core's classes to what a caller sees of them, by one table.

A refusal becomes a `google.rpc.Status` in the trailers, with an `ErrorInfo` and a `Failure`;
a result of AppendMany carries the `Failure` alone. Trailers that are too large reach a
caller as a bare transport error, so everything here is cut until it fits.
"""

from dataclasses import fields
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from treering.v1 import failure_pb2 as pb
from treering_server.core import errors
from treering_server.core.errors import LogState, Refusal
from treering_server.core.model import Expectation, ExpectedExists, ExpectedVersion

MAX_VIOLATIONS = 16
MAX_DESCRIPTION_BYTES = 128
MAX_MESSAGE_BYTES = 1_024
MAX_DETAILS_BYTES = 4_096
MAX_TRAILERS_BYTES = 7 * 1_024
"""Of all trailers as they go over the wire. Most peers refuse more than 8 KiB."""
DOMAIN = "treering"

_OTHER_TRAILERS_BYTES = 512
"""More than enough for what trailers hold beside message and details: names, the code, the
32 bytes that HTTP/2 counts for each entry."""
_MAX_FACT_BYTES = 255
_FACT_NAMES = {"expected": "expected_log_id"}
"""Of facts that callers know by another name than the core."""

CODES = {
    "VERSION_CONFLICT": grpc.StatusCode.ABORTED,
    "CONDITION_FAILED": grpc.StatusCode.ABORTED,
    "EVENT_ID_CONFLICT": grpc.StatusCode.ALREADY_EXISTS,
    "STREAM_DELETED": grpc.StatusCode.FAILED_PRECONDITION,
    "INVALID_REQUEST": grpc.StatusCode.INVALID_ARGUMENT,
    "LIMIT_EXCEEDED": grpc.StatusCode.INVALID_ARGUMENT,
    "POSITION_AHEAD_OF_LOG": grpc.StatusCode.OUT_OF_RANGE,
    "MIN_POSITION_NOT_REACHED": grpc.StatusCode.UNAVAILABLE,
    "LOG_MISMATCH": grpc.StatusCode.FAILED_PRECONDITION,
    "OVERLOADED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "STORAGE_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "SHUTTING_DOWN": grpc.StatusCode.UNAVAILABLE,
    "NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "READ_ONLY": grpc.StatusCode.FAILED_PRECONDITION,
    "OUTCOME_UNKNOWN": grpc.StatusCode.UNAVAILABLE,
    "STORAGE_FULL": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "LOG_DIVERGED": grpc.StatusCode.FAILED_PRECONDITION,
    "CONDITION_TOO_COSTLY": grpc.StatusCode.FAILED_PRECONDITION,
}
"""The code that a reason comes with. It says whether a repeat can help."""

StatusParts = tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]
"""Code, message and trailing metadata: what `ServicerContext.abort` takes."""


def status_of(refusal: Refusal) -> StatusParts:
    """What a call that is refused ends with."""
    failure, info = _failure_and_info(refusal)
    trailers: list[tuple[str, str | bytes]] = [
        ("grpc-status-details-bin", _status(failure, info).SerializeToString())
    ]
    if refusal.retry_after_seconds is not None:
        milliseconds = round(refusal.retry_after_seconds * 1_000)
        trailers.append(("grpc-retry-pushback-ms", str(milliseconds)))
    return CODES[info.reason], failure.message, tuple(trailers)


def failure_of(refusal: Refusal) -> pb.Failure:
    """What an append of AppendMany that is refused results in."""
    return _failure_and_info(refusal)[0]


def _failure_and_info(refusal: Refusal) -> tuple[pb.Failure, ErrorInfo]:
    """Both, cut until they fit: by violations from the end, and then by the message."""
    failure = pb.Failure(
        message=_cut(refusal.message, MAX_MESSAGE_BYTES),
        retry_after=_duration(refusal.retry_after_seconds),
        **_detail(refusal),
    )
    info = ErrorInfo(domain=DOMAIN, metadata=_facts(refusal))
    while True:
        info.reason = reason = _reason(refusal, failure)
        code: int = CODES[reason].value[0]
        failure.MergeFrom(pb.Failure(code=code, reason=f"FAILURE_REASON_{reason}"))
        if not failure.message or _fits(_status(failure, info)):
            return failure, info
        violations = failure.invalid_request.violations
        if len(violations) > 1:
            del violations[-1]
        else:
            failure.message = _cut(failure.message, len(failure.message.encode()) - 64)


def _reason(refusal: Refusal, failure: pb.Failure) -> str:
    violations = failure.invalid_request.violations
    if violations and all(violation.limit for violation in violations):
        return "LIMIT_EXCEEDED"
    return refusal.reason


def _status(failure: pb.Failure, info: ErrorInfo) -> Status:
    status = Status(code=failure.code, message=failure.message)
    for detail in (info, failure):
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _fits(status: Status) -> bool:
    details_bytes: int = sum(detail.ByteSize() for detail in status.details)
    # What gRPC makes of them: base64, and everything but printable ASCII as %XX.
    status_on_wire: int = -(-status.ByteSize() // 3) * 4
    message_on_wire = sum(
        1 if 0x20 <= byte < 0x7F and byte != ord("%") else 3 for byte in status.message.encode()
    )
    return (
        details_bytes <= MAX_DETAILS_BYTES
        and status_on_wire + message_on_wire + _OTHER_TRAILERS_BYTES <= MAX_TRAILERS_BYTES
    )


def _detail(refusal: Refusal) -> dict[str, Any]:
    """The facts in the form that `Failure` has for them, if it has one."""
    match refusal:
        case errors.VersionConflict():
            conflict = pb.VersionConflict(
                stream=refusal.stream,
                actual_version=refusal.actual_version,
                **_expectation(refusal.expectation),
            )
            return {"version_conflict": conflict}
        case errors.ConditionFailed():
            failed = pb.ConditionFailed(
                position=refusal.position, condition_index=refusal.condition_index
            )
            return {"condition_failed": failed}
        case errors.EventIdConflict():
            taken = pb.EventIdConflict(id=str(refusal.id), position=refusal.position)
            return {"event_id_conflict": taken}
        case errors.InvalidRequest():
            violations = [_violation(wrong) for wrong in refusal.violations[:MAX_VIOLATIONS]]
            return {"invalid_request": pb.InvalidRequest(violations=violations)}
        case errors.PositionAheadOfLog() | errors.MinPositionNotReached() | errors.LogMismatch():
            return {"log_state": _log_state(refusal.state)}
        case errors.LogDiverged():
            return {"log_state": _log_state(refusal.state, refusal.last_common_position)}
    return {}


def _expectation(expectation: Expectation) -> dict[str, Any]:
    if isinstance(expectation, ExpectedVersion):
        return {"expected_version": expectation.version}
    return {"expected_exists": expectation.exists}


def _violation(violation: errors.Violation) -> pb.Violation:
    return pb.Violation(
        field=_cut(violation.field, _MAX_FACT_BYTES),
        description=_cut(violation.description, MAX_DESCRIPTION_BYTES),
        limit=violation.limit or 0,
        actual=violation.actual or 0,
    )


def _log_state(state: LogState, last_common_position: int = 0) -> pb.LogState:
    return pb.LogState(
        log_id=str(state.log_id),
        head_position=state.head_position,
        last_common_position=last_common_position,
    )


def _facts(refusal: Refusal) -> dict[str, str]:
    """The facts as words, for callers that don't have our protos."""
    if isinstance(refusal, errors.NotFound):
        return {refusal.what: _fact(refusal.name)}
    facts: dict[str, Any] = {}
    for field in fields(refusal):  # type: ignore[arg-type]
        value = getattr(refusal, field.name)
        match value:
            case ExpectedVersion() | ExpectedExists():
                facts |= _expectation(value)
            case LogState():
                facts |= {"log_id": value.log_id, "head_position": value.head_position}
            case (errors.Violation() as first, *_):
                facts |= {"field": first.field, "limit": first.limit, "actual": first.actual}
            case _:
                facts[_FACT_NAMES.get(field.name, field.name)] = value
    return {name: _fact(value) for name, value in facts.items() if value is not None}


def _fact(value: Any) -> str:
    text = str(value)
    return _cut(text.lower() if isinstance(value, bool) else text, _MAX_FACT_BYTES)


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    whole, nanos = divmod(round(seconds * 1_000_000_000), 1_000_000_000)
    return Duration(seconds=whole, nanos=nanos)


def _cut(text: str, max_bytes: int) -> str:
    """The text, or as much of it as fits into that many bytes of UTF-8."""
    return text.encode(errors="replace")[:max_bytes].decode(errors="ignore")
