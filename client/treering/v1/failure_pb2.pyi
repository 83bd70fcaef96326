import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FailureReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAILURE_REASON_UNSPECIFIED: _ClassVar[FailureReason]
    FAILURE_REASON_VERSION_CONFLICT: _ClassVar[FailureReason]
    FAILURE_REASON_CONDITION_FAILED: _ClassVar[FailureReason]
    FAILURE_REASON_EVENT_ID_CONFLICT: _ClassVar[FailureReason]
    FAILURE_REASON_STREAM_DELETED: _ClassVar[FailureReason]
    FAILURE_REASON_INVALID_REQUEST: _ClassVar[FailureReason]
    FAILURE_REASON_LIMIT_EXCEEDED: _ClassVar[FailureReason]
    FAILURE_REASON_POSITION_AHEAD_OF_LOG: _ClassVar[FailureReason]
    FAILURE_REASON_MIN_POSITION_NOT_REACHED: _ClassVar[FailureReason]
    FAILURE_REASON_LOG_MISMATCH: _ClassVar[FailureReason]
    FAILURE_REASON_OVERLOADED: _ClassVar[FailureReason]
    FAILURE_REASON_STORAGE_UNAVAILABLE: _ClassVar[FailureReason]
    FAILURE_REASON_SHUTTING_DOWN: _ClassVar[FailureReason]
    FAILURE_REASON_NOT_FOUND: _ClassVar[FailureReason]
    FAILURE_REASON_ALREADY_EXISTS: _ClassVar[FailureReason]
    FAILURE_REASON_READ_ONLY: _ClassVar[FailureReason]
    FAILURE_REASON_OUTCOME_UNKNOWN: _ClassVar[FailureReason]
    FAILURE_REASON_STORAGE_FULL: _ClassVar[FailureReason]
    FAILURE_REASON_LOG_DIVERGED: _ClassVar[FailureReason]
    FAILURE_REASON_CONDITION_TOO_COSTLY: _ClassVar[FailureReason]
FAILURE_REASON_UNSPECIFIED: FailureReason
FAILURE_REASON_VERSION_CONFLICT: FailureReason
FAILURE_REASON_CONDITION_FAILED: FailureReason
FAILURE_REASON_EVENT_ID_CONFLICT: FailureReason
FAILURE_REASON_STREAM_DELETED: FailureReason
FAILURE_REASON_INVALID_REQUEST: FailureReason
FAILURE_REASON_LIMIT_EXCEEDED: FailureReason
FAILURE_REASON_POSITION_AHEAD_OF_LOG: FailureReason
FAILURE_REASON_MIN_POSITION_NOT_REACHED: FailureReason
FAILURE_REASON_LOG_MISMATCH: FailureReason
FAILURE_REASON_OVERLOADED: FailureReason
FAILURE_REASON_STORAGE_UNAVAILABLE: FailureReason
FAILURE_REASON_SHUTTING_DOWN: FailureReason
FAILURE_REASON_NOT_FOUND: FailureReason
FAILURE_REASON_ALREADY_EXISTS: FailureReason
FAILURE_REASON_READ_ONLY: FailureReason
FAILURE_REASON_OUTCOME_UNKNOWN: FailureReason
FAILURE_REASON_STORAGE_FULL: FailureReason
FAILURE_REASON_LOG_DIVERGED: FailureReason
FAILURE_REASON_CONDITION_TOO_COSTLY: FailureReason

class Failure(_message.Message):
    __slots__ = ("code", "reason", "message", "retry_after", "version_conflict", "condition_failed", "event_id_conflict", "invalid_request", "log_state")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    VERSION_CONFLICT_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FAILED_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_CONFLICT_FIELD_NUMBER: _ClassVar[int]
    INVALID_REQUEST_FIELD_NUMBER: _ClassVar[int]
    LOG_STATE_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: FailureReason
    message: str
    retry_after: _duration_pb2.Duration
    version_conflict: VersionConflict
    condition_failed: ConditionFailed
    event_id_conflict: EventIdConflict
    invalid_request: InvalidRequest
    log_state: LogState
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[_Union[FailureReason, str]] = ..., message: _Optional[str] = ..., retry_after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., version_conflict: _Optional[_Union[VersionConflict, _Mapping]] = ..., condition_failed: _Optional[_Union[ConditionFailed, _Mapping]] = ..., event_id_conflict: _Optional[_Union[EventIdConflict, _Mapping]] = ..., invalid_request: _Optional[_Union[InvalidRequest, _Mapping]] = ..., log_state: _Optional[_Union[LogState, _Mapping]] = ...) -> None: ...

class VersionConflict(_message.Message):
    __slots__ = ("stream", "expected_version", "expected_exists", "actual_version")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_EXISTS_FIELD_NUMBER: _ClassVar[int]
    ACTUAL_VERSION_FIELD_NUMBER: _ClassVar[int]
    stream: str
    expected_version: int
    expected_exists: bool
    actual_version: int
    def __init__(self, stream: _Optional[str] = ..., expected_version: _Optional[int] = ..., expected_exists: _Optional[bool] = ..., actual_version: _Optional[int] = ...) -> None: ...

class ConditionFailed(_message.Message):
    __slots__ = ("position", "condition_index")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    CONDITION_INDEX_FIELD_NUMBER: _ClassVar[int]
    position: int
    condition_index: int
    def __init__(self, position: _Optional[int] = ..., condition_index: _Optional[int] = ...) -> None: ...

class EventIdConflict(_message.Message):
    __slots__ = ("id", "position")
    ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    id: str
    position: int
    def __init__(self, id: _Optional[str] = ..., position: _Optional[int] = ...) -> None: ...

class InvalidRequest(_message.Message):
    __slots__ = ("violations",)
    VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    violations: _containers.RepeatedCompositeFieldContainer[Violation]
    def __init__(self, violations: _Optional[_Iterable[_Union[Violation, _Mapping]]] = ...) -> None: ...

class Violation(_message.Message):
    __slots__ = ("field", "description", "limit", "actual")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    ACTUAL_FIELD_NUMBER: _ClassVar[int]
    field: str
    description: str
    limit: int
    actual: int
    def __init__(self, field: _Optional[str] = ..., description: _Optional[str] = ..., limit: _Optional[int] = ..., actual: _Optional[int] = ...) -> None: ...

class LogState(_message.Message):
    __slots__ = ("log_id", "head_position", "last_common_position")
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    HEAD_POSITION_FIELD_NUMBER: _ClassVar[int]
    LAST_COMMON_POSITION_FIELD_NUMBER: _ClassVar[int]
    log_id: str
    head_position: int
    last_common_position: int
    def __init__(self, log_id: _Optional[str] = ..., head_position: _Optional[int] = ..., last_common_position: _Optional[int] = ...) -> None: ...
