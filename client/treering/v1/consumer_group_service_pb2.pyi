import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from treering.v1 import event_pb2 as _event_pb2
from treering.v1 import query_pb2 as _query_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DeliveryOrder(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DELIVERY_ORDER_UNSPECIFIED: _ClassVar[DeliveryOrder]
    DELIVERY_ORDER_PER_STREAM: _ClassVar[DeliveryOrder]
    DELIVERY_ORDER_NONE: _ClassVar[DeliveryOrder]
    DELIVERY_ORDER_TOTAL: _ClassVar[DeliveryOrder]

class NackAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NACK_ACTION_UNSPECIFIED: _ClassVar[NackAction]
    NACK_ACTION_RETRY: _ClassVar[NackAction]
    NACK_ACTION_PARK: _ClassVar[NackAction]
    NACK_ACTION_SKIP: _ClassVar[NackAction]
DELIVERY_ORDER_UNSPECIFIED: DeliveryOrder
DELIVERY_ORDER_PER_STREAM: DeliveryOrder
DELIVERY_ORDER_NONE: DeliveryOrder
DELIVERY_ORDER_TOTAL: DeliveryOrder
NACK_ACTION_UNSPECIFIED: NackAction
NACK_ACTION_RETRY: NackAction
NACK_ACTION_PARK: NackAction
NACK_ACTION_SKIP: NackAction

class ConsumerGroup(_message.Message):
    __slots__ = ("name", "query", "settings", "checkpoint", "in_flight_count", "parked_count", "member_count")
    NAME_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_COUNT_FIELD_NUMBER: _ClassVar[int]
    PARKED_COUNT_FIELD_NUMBER: _ClassVar[int]
    MEMBER_COUNT_FIELD_NUMBER: _ClassVar[int]
    name: str
    query: _query_pb2.Query
    settings: ConsumerGroupSettings
    checkpoint: int
    in_flight_count: int
    parked_count: int
    member_count: int
    def __init__(self, name: _Optional[str] = ..., query: _Optional[_Union[_query_pb2.Query, _Mapping]] = ..., settings: _Optional[_Union[ConsumerGroupSettings, _Mapping]] = ..., checkpoint: _Optional[int] = ..., in_flight_count: _Optional[int] = ..., parked_count: _Optional[int] = ..., member_count: _Optional[int] = ...) -> None: ...

class ConsumerGroupSettings(_message.Message):
    __slots__ = ("ack_timeout", "max_attempts", "order")
    ACK_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    ack_timeout: _duration_pb2.Duration
    max_attempts: int
    order: DeliveryOrder
    def __init__(self, ack_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_attempts: _Optional[int] = ..., order: _Optional[_Union[DeliveryOrder, str]] = ...) -> None: ...

class CreateConsumerGroupRequest(_message.Message):
    __slots__ = ("name", "query", "settings", "after_position", "from_head", "log")
    NAME_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    AFTER_POSITION_FIELD_NUMBER: _ClassVar[int]
    FROM_HEAD_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    name: str
    query: _query_pb2.Query
    settings: ConsumerGroupSettings
    after_position: int
    from_head: bool
    log: str
    def __init__(self, name: _Optional[str] = ..., query: _Optional[_Union[_query_pb2.Query, _Mapping]] = ..., settings: _Optional[_Union[ConsumerGroupSettings, _Mapping]] = ..., after_position: _Optional[int] = ..., from_head: _Optional[bool] = ..., log: _Optional[str] = ...) -> None: ...

class CreateConsumerGroupResponse(_message.Message):
    __slots__ = ("group",)
    GROUP_FIELD_NUMBER: _ClassVar[int]
    group: ConsumerGroup
    def __init__(self, group: _Optional[_Union[ConsumerGroup, _Mapping]] = ...) -> None: ...

class GetConsumerGroupRequest(_message.Message):
    __slots__ = ("name", "log")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    name: str
    log: str
    def __init__(self, name: _Optional[str] = ..., log: _Optional[str] = ...) -> None: ...

class GetConsumerGroupResponse(_message.Message):
    __slots__ = ("group",)
    GROUP_FIELD_NUMBER: _ClassVar[int]
    group: ConsumerGroup
    def __init__(self, group: _Optional[_Union[ConsumerGroup, _Mapping]] = ...) -> None: ...

class ListConsumerGroupsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "log")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    log: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., log: _Optional[str] = ...) -> None: ...

class ListConsumerGroupsResponse(_message.Message):
    __slots__ = ("groups", "next_page_token")
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    groups: _containers.RepeatedCompositeFieldContainer[ConsumerGroup]
    next_page_token: str
    def __init__(self, groups: _Optional[_Iterable[_Union[ConsumerGroup, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateConsumerGroupRequest(_message.Message):
    __slots__ = ("name", "settings", "log")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    name: str
    settings: ConsumerGroupSettings
    log: str
    def __init__(self, name: _Optional[str] = ..., settings: _Optional[_Union[ConsumerGroupSettings, _Mapping]] = ..., log: _Optional[str] = ...) -> None: ...

class UpdateConsumerGroupResponse(_message.Message):
    __slots__ = ("group",)
    GROUP_FIELD_NUMBER: _ClassVar[int]
    group: ConsumerGroup
    def __init__(self, group: _Optional[_Union[ConsumerGroup, _Mapping]] = ...) -> None: ...

class DeleteConsumerGroupRequest(_message.Message):
    __slots__ = ("name", "log")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    name: str
    log: str
    def __init__(self, name: _Optional[str] = ..., log: _Optional[str] = ...) -> None: ...

class DeleteConsumerGroupResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ConsumeRequest(_message.Message):
    __slots__ = ("join", "credits", "ack", "nack")
    JOIN_FIELD_NUMBER: _ClassVar[int]
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    NACK_FIELD_NUMBER: _ClassVar[int]
    join: ConsumeJoin
    credits: int
    ack: ConsumeAck
    nack: ConsumeNack
    def __init__(self, join: _Optional[_Union[ConsumeJoin, _Mapping]] = ..., credits: _Optional[int] = ..., ack: _Optional[_Union[ConsumeAck, _Mapping]] = ..., nack: _Optional[_Union[ConsumeNack, _Mapping]] = ...) -> None: ...

class ConsumeJoin(_message.Message):
    __slots__ = ("group", "member", "credits", "heartbeat_interval", "log")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    group: str
    member: str
    credits: int
    heartbeat_interval: _duration_pb2.Duration
    log: str
    def __init__(self, group: _Optional[str] = ..., member: _Optional[str] = ..., credits: _Optional[int] = ..., heartbeat_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., log: _Optional[str] = ...) -> None: ...

class ConsumeAck(_message.Message):
    __slots__ = ("delivery_ids",)
    DELIVERY_IDS_FIELD_NUMBER: _ClassVar[int]
    delivery_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, delivery_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class ConsumeNack(_message.Message):
    __slots__ = ("delivery_ids", "action", "reason", "retry_after")
    DELIVERY_IDS_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    delivery_ids: _containers.RepeatedScalarFieldContainer[int]
    action: NackAction
    reason: str
    retry_after: _duration_pb2.Duration
    def __init__(self, delivery_ids: _Optional[_Iterable[int]] = ..., action: _Optional[_Union[NackAction, str]] = ..., reason: _Optional[str] = ..., retry_after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ConsumeResponse(_message.Message):
    __slots__ = ("joined", "deliveries", "heartbeat")
    class Heartbeat(_message.Message):
        __slots__ = ()
        def __init__(self) -> None: ...
    JOINED_FIELD_NUMBER: _ClassVar[int]
    DELIVERIES_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    joined: ConsumeJoined
    deliveries: ConsumeDeliveries
    heartbeat: ConsumeResponse.Heartbeat
    def __init__(self, joined: _Optional[_Union[ConsumeJoined, _Mapping]] = ..., deliveries: _Optional[_Union[ConsumeDeliveries, _Mapping]] = ..., heartbeat: _Optional[_Union[ConsumeResponse.Heartbeat, _Mapping]] = ...) -> None: ...

class ConsumeJoined(_message.Message):
    __slots__ = ("log_id",)
    LOG_ID_FIELD_NUMBER: _ClassVar[int]
    log_id: str
    def __init__(self, log_id: _Optional[str] = ...) -> None: ...

class ConsumeDeliveries(_message.Message):
    __slots__ = ("deliveries",)
    DELIVERIES_FIELD_NUMBER: _ClassVar[int]
    deliveries: _containers.RepeatedCompositeFieldContainer[Delivery]
    def __init__(self, deliveries: _Optional[_Iterable[_Union[Delivery, _Mapping]]] = ...) -> None: ...

class Delivery(_message.Message):
    __slots__ = ("delivery_id", "event", "attempt")
    DELIVERY_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    delivery_id: int
    event: _event_pb2.RecordedEvent
    attempt: int
    def __init__(self, delivery_id: _Optional[int] = ..., event: _Optional[_Union[_event_pb2.RecordedEvent, _Mapping]] = ..., attempt: _Optional[int] = ...) -> None: ...

class ListParkedEventsRequest(_message.Message):
    __slots__ = ("group", "page_size", "page_token", "log")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    group: str
    page_size: int
    page_token: str
    log: str
    def __init__(self, group: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., log: _Optional[str] = ...) -> None: ...

class ListParkedEventsResponse(_message.Message):
    __slots__ = ("events", "next_page_token")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[ParkedEvent]
    next_page_token: str
    def __init__(self, events: _Optional[_Iterable[_Union[ParkedEvent, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ParkedEvent(_message.Message):
    __slots__ = ("event", "reason", "attempt_count", "parked_at")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_COUNT_FIELD_NUMBER: _ClassVar[int]
    PARKED_AT_FIELD_NUMBER: _ClassVar[int]
    event: _event_pb2.RecordedEvent
    reason: str
    attempt_count: int
    parked_at: _timestamp_pb2.Timestamp
    def __init__(self, event: _Optional[_Union[_event_pb2.RecordedEvent, _Mapping]] = ..., reason: _Optional[str] = ..., attempt_count: _Optional[int] = ..., parked_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ReplayParkedEventsRequest(_message.Message):
    __slots__ = ("group", "positions", "log")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    group: str
    positions: _containers.RepeatedScalarFieldContainer[int]
    log: str
    def __init__(self, group: _Optional[str] = ..., positions: _Optional[_Iterable[int]] = ..., log: _Optional[str] = ...) -> None: ...

class ReplayParkedEventsResponse(_message.Message):
    __slots__ = ("replayed_count",)
    REPLAYED_COUNT_FIELD_NUMBER: _ClassVar[int]
    replayed_count: int
    def __init__(self, replayed_count: _Optional[int] = ...) -> None: ...
