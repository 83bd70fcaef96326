import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from treering.v1 import event_pb2 as _event_pb2
from treering.v1 import failure_pb2 as _failure_pb2
from treering.v1 import query_pb2 as _query_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Direction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DIRECTION_UNSPECIFIED: _ClassVar[Direction]
    DIRECTION_FORWARDS: _ClassVar[Direction]
    DIRECTION_BACKWARDS: _ClassVar[Direction]
DIRECTION_UNSPECIFIED: Direction
DIRECTION_FORWARDS: Direction
DIRECTION_BACKWARDS: Direction

class AppendRequest(_message.Message):
    __slots__ = ("appends", "events", "conditions", "expected_log_id", "log")
    APPENDS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_LOG_ID_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    appends: _containers.RepeatedCompositeFieldContainer[StreamAppend]
    events: _containers.RepeatedCompositeFieldContainer[_event_pb2.Event]
    conditions: _containers.RepeatedCompositeFieldContainer[AppendCondition]
    expected_log_id: str
    log: str
    def __init__(self, appends: _Optional[_Iterable[_Union[StreamAppend, _Mapping]]] = ..., events: _Optional[_Iterable[_Union[_event_pb2.Event, _Mapping]]] = ..., conditions: _Optional[_Iterable[_Union[AppendCondition, _Mapping]]] = ..., expected_log_id: _Optional[str] = ..., log: _Optional[str] = ...) -> None: ...

class StreamAppend(_message.Message):
    __slots__ = ("stream", "expected_version", "expected_exists", "events")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_EXISTS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    stream: str
    expected_version: int
    expected_exists: bool
    events: _containers.RepeatedCompositeFieldContainer[_event_pb2.Event]
    def __init__(self, stream: _Optional[str] = ..., expected_version: _Optional[int] = ..., expected_exists: _Optional[bool] = ..., events: _Optional[_Iterable[_Union[_event_pb2.Event, _Mapping]]] = ...) -> None: ...

class AppendCondition(_message.Message):
    __slots__ = ("fail_if_match", "after_position")
    FAIL_IF_MATCH_FIELD_NUMBER: _ClassVar[int]
    AFTER_POSITION_FIELD_NUMBER: _ClassVar[int]
    fail_if_match: _query_pb2.Query
    after_position: int
    def __init__(self, fail_if_match: _Optional[_Union[_query_pb2.Query, _Mapping]] = ..., after_position: _Optional[int] = ...) -> None: ...

class AppendResponse(_message.Message):
    __slots__ = ("first_position", "last_position", "versions", "recorded_at", "duplicate", "log_id")
    FIRST_POSITION_FIELD_NUMBER: _ClassVar[int]
    LAST_POSITION_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    RECORDED_AT_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    first_position: int
    last_position: int
    versions: _containers.RepeatedCompositeFieldContainer[StreamVersion]
    recorded_at: _timestamp_pb2.Timestamp
    duplicate: bool
    log_id: str
    def __init__(self, first_position: _Optional[int] = ..., last_position: _Optional[int] = ..., versions: _Optional[_Iterable[_Union[StreamVersion, _Mapping]]] = ..., recorded_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., duplicate: _Optional[bool] = ..., log_id: _Optional[str] = ...) -> None: ...

class StreamVersion(_message.Message):
    __slots__ = ("stream", "version")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    stream: str
    version: int
    def __init__(self, stream: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class AppendManyRequest(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[AppendItem]
    def __init__(self, items: _Optional[_Iterable[_Union[AppendItem, _Mapping]]] = ...) -> None: ...

class AppendItem(_message.Message):
    __slots__ = ("request_id", "append")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    APPEND_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    append: AppendRequest
    def __init__(self, request_id: _Optional[int] = ..., append: _Optional[_Union[AppendRequest, _Mapping]] = ...) -> None: ...

class AppendManyResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[AppendResult]
    def __init__(self, results: _Optional[_Iterable[_Union[AppendResult, _Mapping]]] = ...) -> None: ...

class AppendResult(_message.Message):
    __slots__ = ("request_id", "appended", "failure")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    APPENDED_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    appended: AppendResponse
    failure: _failure_pb2.Failure
    def __init__(self, request_id: _Optional[int] = ..., appended: _Optional[_Union[AppendResponse, _Mapping]] = ..., failure: _Optional[_Union[_failure_pb2.Failure, _Mapping]] = ...) -> None: ...

class ReadRequest(_message.Message):
    __slots__ = ("stream", "query", "direction", "after_position", "after_version", "after_time", "until_position", "until_time", "limit", "min_position", "expected_log_id", "log")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    AFTER_POSITION_FIELD_NUMBER: _ClassVar[int]
    AFTER_VERSION_FIELD_NUMBER: _ClassVar[int]
    AFTER_TIME_FIELD_NUMBER: _ClassVar[int]
    UNTIL_POSITION_FIELD_NUMBER: _ClassVar[int]
    UNTIL_TIME_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    MIN_POSITION_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_LOG_ID_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    stream: str
    query: _query_pb2.Query
    direction: Direction
    after_position: int
    after_version: int
    after_time: _timestamp_pb2.Timestamp
    until_position: int
    until_time: _timestamp_pb2.Timestamp
    limit: int
    min_position: int
    expected_log_id: str
    log: str
    def __init__(self, stream: _Optional[str] = ..., query: _Optional[_Union[_query_pb2.Query, _Mapping]] = ..., direction: _Optional[_Union[Direction, str]] = ..., after_position: _Optional[int] = ..., after_version: _Optional[int] = ..., after_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., until_position: _Optional[int] = ..., until_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., limit: _Optional[int] = ..., min_position: _Optional[int] = ..., expected_log_id: _Optional[str] = ..., log: _Optional[str] = ...) -> None: ...

class ReadResponse(_message.Message):
    __slots__ = ("events", "head_position", "stream_version", "log_id")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    HEAD_POSITION_FIELD_NUMBER: _ClassVar[int]
    STREAM_VERSION_FIELD_NUMBER: _ClassVar[int]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_event_pb2.RecordedEvent]
    head_position: int
    stream_version: int
    log_id: str
    def __init__(self, events: _Optional[_Iterable[_Union[_event_pb2.RecordedEvent, _Mapping]]] = ..., head_position: _Optional[int] = ..., stream_version: _Optional[int] = ..., log_id: _Optional[str] = ...) -> None: ...

class SubscribeRequest(_message.Message):
    __slots__ = ("stream", "query", "after_position", "after_version", "from_head", "after_time", "heartbeat_interval", "expected_log_id", "after_event_id", "log")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    AFTER_POSITION_FIELD_NUMBER: _ClassVar[int]
    AFTER_VERSION_FIELD_NUMBER: _ClassVar[int]
    FROM_HEAD_FIELD_NUMBER: _ClassVar[int]
    AFTER_TIME_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_LOG_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    stream: str
    query: _query_pb2.Query
    after_position: int
    after_version: int
    from_head: bool
    after_time: _timestamp_pb2.Timestamp
    heartbeat_interval: _duration_pb2.Duration
    expected_log_id: str
    after_event_id: str
    log: str
    def __init__(self, stream: _Optional[str] = ..., query: _Optional[_Union[_query_pb2.Query, _Mapping]] = ..., after_position: _Optional[int] = ..., after_version: _Optional[int] = ..., from_head: _Optional[bool] = ..., after_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., heartbeat_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., expected_log_id: _Optional[str] = ..., after_event_id: _Optional[str] = ..., log: _Optional[str] = ...) -> None: ...

class SubscribeResponse(_message.Message):
    __slots__ = ("events", "caught_up", "heartbeat", "started", "fell_behind")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    CAUGHT_UP_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    FELL_BEHIND_FIELD_NUMBER: _ClassVar[int]
    events: EventBatch
    caught_up: CaughtUp
    heartbeat: Heartbeat
    started: SubscriptionStarted
    fell_behind: FellBehind
    def __init__(self, events: _Optional[_Union[EventBatch, _Mapping]] = ..., caught_up: _Optional[_Union[CaughtUp, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., started: _Optional[_Union[SubscriptionStarted, _Mapping]] = ..., fell_behind: _Optional[_Union[FellBehind, _Mapping]] = ...) -> None: ...

class SubscriptionStarted(_message.Message):
    __slots__ = ("log_id", "after_position", "head_position")
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_POSITION_FIELD_NUMBER: _ClassVar[int]
    HEAD_POSITION_FIELD_NUMBER: _ClassVar[int]
    log_id: str
    after_position: int
    head_position: int
    def __init__(self, log_id: _Optional[str] = ..., after_position: _Optional[int] = ..., head_position: _Optional[int] = ...) -> None: ...

class EventBatch(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_event_pb2.RecordedEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[_event_pb2.RecordedEvent, _Mapping]]] = ...) -> None: ...

class FellBehind(_message.Message):
    __slots__ = ("position", "log_id")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    position: int
    log_id: str
    def __init__(self, position: _Optional[int] = ..., log_id: _Optional[str] = ...) -> None: ...

class CaughtUp(_message.Message):
    __slots__ = ("position", "event_id")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    position: int
    event_id: str
    def __init__(self, position: _Optional[int] = ..., event_id: _Optional[str] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("position", "event_id")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    position: int
    event_id: str
    def __init__(self, position: _Optional[int] = ..., event_id: _Optional[str] = ...) -> None: ...

class GetHeadRequest(_message.Message):
    __slots__ = ("log",)
    LOG_FIELD_NUMBER: _ClassVar[int]
    log: str
    def __init__(self, log: _Optional[str] = ...) -> None: ...

class GetHeadResponse(_message.Message):
    __slots__ = ("head_position", "log_id", "recorded_at")
    HEAD_POSITION_FIELD_NUMBER: _ClassVar[int]
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    RECORDED_AT_FIELD_NUMBER: _ClassVar[int]
    head_position: int
    log_id: str
    recorded_at: _timestamp_pb2.Timestamp
    def __init__(self, head_position: _Optional[int] = ..., log_id: _Optional[str] = ..., recorded_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
