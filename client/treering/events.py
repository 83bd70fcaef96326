"""Events: what a caller appends, and what the log hands out."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import FrozenInstanceError, dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import NoReturn, Protocol, TypeVar, cast
from uuid import UUID

from google.protobuf.message import DecodeError, Message

from treering.ids import uuid7
from treering.queries import Strings, distinct
from treering.times import from_nanoseconds, require_zone, to_nanoseconds
from treering.v1 import event_pb2

JSON = "application/json"
OCTETS = "application/octet-stream"
PROTOBUF = "application/protobuf"

MessageT = TypeVar("MessageT", bound=Message)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NOTHING: Mapping[str, str] = MappingProxyType({})

# NaN and infinity are not JSON, and a reader in another language would fail on them.
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


class _PydanticModel(Protocol):
    def model_dump_json(self) -> str: ...


@dataclass(frozen=True, slots=True, init=False)
class Event:
    """Something that happened, ready to be appended.

    ```python
    Event("OrderPlaced", {"total": 42}, tags=["customer:7"])
    ```

    The content is encoded here, once: what is appended again after a failure is the same to
    the last byte, and changing `data` afterwards changes nothing.

    Args:
        type: What happened, as in `"OrderPlaced"`. 1 to 255 bytes of UTF-8, no control
            characters; `$` first is reserved.
        data: The content, at most 1 MiB once encoded.

            - a dict, list, string, number or boolean: JSON, compact, in UTF-8;
            - a pydantic model: its JSON;
            - a protobuf message: its bytes, with the content type
              `application/protobuf; type=<full name>`;
            - bytes: as they are, with the content type `application/octet-stream` if none is
              given;
            - None, or nothing: no bytes at all. For a JSON null give
              `b"null", content_type="application/json"`; `RecordedEvent.json()` answers None
              for both.

            A string with a content type that is not JSON (`text/plain`) is kept as its UTF-8.
        id: Unique in the log; neither the nil nor the max UUID. Made here (version 7) if not
            given. The id is what makes it safe to append the same event again when an outcome
            is unknown, so keep the `Event`, or its id, over a repeat.
        content_type: Media type of the data, at most 255 bytes.
        tags: What queries match: at most 64, each 1 to 255 bytes; a repeated one counts once.
        metadata: About the event (`correlation_id`, `causation_id`, `traceparent`, your own).
            At most 64 KiB, keys and values together; keys with `$` first are reserved.
        time: When it happened, by your clock. None: not known. Must have a time zone.

    Limits are checked by the server, which refuses what is over one with `LimitExceeded`.

    Raises:
        ValueError: The id is no UUID, the time has no time zone, or the data cannot be
            encoded (NaN in JSON, an object under a content type that is not JSON).
        TypeError: The data is of a type that is not listed above, or a tag or metadata is no
            string.
    """

    type: str
    data: bytes
    """The content, encoded."""
    id: UUID
    content_type: str
    """Media type of the data. Never empty."""
    tags: tuple[str, ...]
    metadata: Mapping[str, str]
    time: datetime | None

    def __init__(
        self,
        type: str,
        data: object = None,
        *,
        id: UUID | str | None = None,
        content_type: str | None = None,
        tags: Strings = (),
        metadata: Mapping[str, str] = _NOTHING,
        time: datetime | None = None,
    ) -> None:
        if not isinstance(type, str):
            raise TypeError(f"an event's type must be a string, not {_name(type)}")
        if id is None:
            id = uuid7()
        elif not isinstance(id, UUID):
            id = UUID(id)
        if time is not None:
            require_zone(time, "an event's time")
        content, content_type = _encode(data, content_type)
        keep = object.__setattr__  # The class is frozen; its own constructor may write.
        keep(self, "type", type)
        keep(self, "data", content)
        keep(self, "id", id)
        keep(self, "content_type", content_type)
        keep(self, "tags", distinct(tags, "tags") if tags else ())
        keep(self, "metadata", _frozen_metadata(metadata) if metadata else _NOTHING)
        keep(self, "time", time)

    def __hash__(self) -> int:
        return hash(self.id)

    def __reduce__(self) -> tuple[object, ...]:
        # A read-only mapping cannot be pickled; its copy can.
        fields = (self.type, self.data, self.id, self.content_type, self.tags)
        return _event, (*fields, dict(self.metadata), self.time)

    def write_to(self, message: event_pb2.Event) -> None:
        """Fills in the (empty) message that travels."""
        message.id = str(self.id)
        message.type = self.type
        message.data = self.data
        message.content_type = self.content_type
        if self.tags:
            message.tags.extend(self.tags)
        if self.metadata:
            message.metadata.update(self.metadata)
        if self.time is not None:
            message.time.FromDatetime(self.time)


def _event(
    type: str,
    data: bytes,
    id: UUID,
    content_type: str,
    tags: tuple[str, ...],
    metadata: dict[str, str],
    time: datetime | None,
) -> Event:
    """Undoes `Event.__reduce__`."""
    return Event(
        type, data, id=id, content_type=content_type, tags=tags, metadata=metadata, time=time
    )


class RecordedEvent:
    """An event with its place in the log. Frozen; equal if all of it is equal; its hash is
    that of its id.

    What a client hands out, and to be made in tests:

    ```python
    RecordedEvent(type="OrderPlaced", data=b'{"total":42}', position=7, stream="order-1",
                  version=1)
    ```

    Everything is converted when it is asked for, not when the event arrives: keep `event.id`,
    or a large `event.data`, in a variable where it is used again and again.
    """

    __slots__ = ("_record",)

    # As it came, until it is first looked at: most of what a long read costs is to decode its
    # events, of which a caller may pass over many. Never a part of a whole response's message,
    # which would stay in memory for as long as one of its events.
    _record: bytes | event_pb2.RecordedEvent

    def __init__(
        self,
        *,
        type: str,
        data: bytes = b"",
        position: int,
        stream: str = "",
        version: int = 0,
        id: UUID | str | None = None,
        content_type: str = JSON,
        tags: Iterable[str] = (),
        metadata: Mapping[str, str] = _NOTHING,
        time: datetime | None = None,
        recorded_at: datetime = _EPOCH,
    ) -> None:
        if id is None:
            id = uuid7()
        elif not isinstance(id, UUID):
            id = UUID(id)
        record = event_pb2.RecordedEvent(
            id=str(id),
            type=type,
            data=data,
            content_type=content_type,
            tags=tags,
            metadata=metadata,
            position=position,
            stream=stream,
            version=version,
        )
        if time is not None:
            record.time.FromNanoseconds(to_nanoseconds(time, "an event's time"))
        record.recorded_at.FromNanoseconds(to_nanoseconds(recorded_at, "recorded_at"))
        _set_record(self, record)

    def _decoded(self) -> event_pb2.RecordedEvent:
        record = self._record
        if isinstance(record, bytes):
            record = event_pb2.RecordedEvent.FromString(record)
            _set_record(self, record)
        return record

    @property
    def id(self) -> UUID:
        """Unique in the log."""
        return UUID(self._decoded().id)

    @property
    def type(self) -> str:
        """What happened."""
        return self._decoded().type

    @property
    def data(self) -> bytes:
        """The content as it was appended. See `json()` and `message()`."""
        return self._decoded().data

    @property
    def content_type(self) -> str:
        """Media type of the data. Never empty."""
        return self._decoded().content_type

    @property
    def tags(self) -> tuple[str, ...]:
        """What queries match."""
        return tuple(self._decoded().tags)

    @property
    def metadata(self) -> Mapping[str, str]:
        """About the event. Read-only."""
        return MappingProxyType(dict(self._decoded().metadata))

    @property
    def time(self) -> datetime | None:
        """When it happened by its author's clock, in UTC, cut to microseconds. None: not
        known."""
        time_ns = self.time_ns
        return None if time_ns is None else from_nanoseconds(time_ns)

    @property
    def time_ns(self) -> int | None:
        """`time` in nanoseconds since 1970, exactly as it was appended: authors in other
        languages may give a finer time than a datetime holds."""
        record = self._decoded()
        return record.time.ToNanoseconds() if record.HasField("time") else None

    @property
    def position(self) -> int:
        """Place in the log, from 1. Positions rise, with gaps where events were removed."""
        return self._decoded().position

    @property
    def stream(self) -> str:
        """The stream it belongs to. Empty: none."""
        return self._decoded().stream

    @property
    def version(self) -> int:
        """Place in its stream, from 1. 0: no stream."""
        return self._decoded().version

    @property
    def recorded_at(self) -> datetime:
        """When it was recorded, by the server's clock, in UTC. Never falls as position rises."""
        return from_nanoseconds(self._decoded().recorded_at.ToNanoseconds())

    @property
    def category(self) -> str:
        """The part of the stream's name before the first `-`; the whole name if there is
        none. Empty: no stream."""
        return self.stream.partition("-")[0]

    def json(self) -> object:
        """The data, parsed as JSON, whatever the content type says. None if there is no data.

        Raises:
            ValueError: It is no JSON.
        """
        data = self.data
        return json.loads(data) if data else None

    def message(self, message_type: Callable[[], MessageT]) -> MessageT:
        """The data, parsed as a protobuf message of the class given.

        Raises:
            ValueError: The bytes are no such message, or the content type names another one.
        """
        message = message_type()
        essence, _, named = self.content_type.partition("; type=")
        full_name = message.DESCRIPTOR.full_name
        if essence == PROTOBUF and named not in ("", full_name):
            raise ValueError(f"the event holds a {named}, not a {full_name}")
        try:
            message.ParseFromString(self.data)
        except DecodeError as error:
            raise ValueError(f"the event's data is no {full_name}: {error}") from error
        return message

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RecordedEvent):
            return NotImplemented
        return self._decoded() == other._decoded()

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        record = self._decoded()
        place = f"position={record.position}"
        if record.stream:
            place += f", stream={record.stream!r}, version={record.version}"
        tagged = f", tags={self.tags!r}" if record.tags else ""
        return (
            f"RecordedEvent({place}, type={record.type!r}, id={record.id}, "
            f"{len(record.data)} bytes{tagged})"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return _recorded, (self._decoded().SerializeToString(),)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise FrozenInstanceError(f"cannot delete field {name!r}")


# The slot's own setter, which passes by the __setattr__ that freezes the class.
_set_record = RecordedEvent.__dict__["_record"].__set__


def _recorded(record: bytes) -> RecordedEvent:
    """Undoes `RecordedEvent.__reduce__`."""
    (event,) = recorded_events([record])
    return event


def recorded_events(records: Iterable[bytes]) -> list[RecordedEvent]:
    """The records of one response, encoded, as what callers get."""
    new, set_record = object.__new__, _set_record
    events = []
    for record in records:
        event = new(RecordedEvent)
        set_record(event, record)
        events.append(event)
    return events


def _encode(data: object, content_type: str | None) -> tuple[bytes, str]:
    """The bytes to record and their media type."""
    if data is None:
        return b"", content_type or JSON
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data), content_type or OCTETS
    if isinstance(data, Message):
        # Deterministic, so that a repeat from another process has the same bytes.
        content = data.SerializeToString(deterministic=True)
        return content, content_type or f"{PROTOBUF}; type={data.DESCRIPTOR.full_name}"
    if content_type is not None and not _is_json(content_type):
        if isinstance(data, str):
            return data.encode(), content_type
        raise ValueError(
            f"data of type {_name(data)} is recorded as JSON; "
            f"for {content_type} give bytes or a string"
        )
    if hasattr(data, "model_dump_json"):
        return cast(_PydanticModel, data).model_dump_json().encode(), content_type or JSON
    return _to_json(data).encode(), content_type or JSON


def _is_json(content_type: str) -> bool:
    essence = content_type.partition(";")[0].strip().lower()
    return essence == JSON or essence.endswith("+json")


def _frozen_metadata(metadata: Mapping[str, str]) -> Mapping[str, str]:
    copy = dict(metadata)
    for key, value in copy.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise TypeError(f"metadata must be strings, not {key!r}: {value!r}")
    return MappingProxyType(copy)


def _name(value: object) -> str:
    return type(value).__name__
