"""Requests: from the bytes of a message to a value of the core, with every check.

What is wrong is told with the path of its field, as much of it as an answer holds, in the
order of the request. A limit of the whole request has an empty path and comes first. What
lies past a limit on a count is counted but not looked at, so that a refusal costs no more
than the largest good request.
"""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet

from treering.ids import uuid7
from treering.v1 import event_store_service_pb2 as pb
from treering.v1 import query_pb2, stream_service_pb2
from treering.v1.event_pb2 import Event
from treering_server.core.errors import InvalidRequest, NotFound, Refusal, Violation
from treering_server.core.limits import Limits
from treering_server.core.model import (
    MAX_POSITION,
    AfterPosition,
    AfterTime,
    AfterVersion,
    Append,
    AppendCondition,
    Expectation,
    ExpectedExists,
    ExpectedVersion,
    FromHead,
    ListStreams,
    NewEvent,
    Read,
    Source,
    StreamAppend,
    StreamSource,
    Subscribe,
    UntilPosition,
    UntilTime,
)
from treering_server.core.query import EVERYTHING, Query, QueryItem
from treering_server.core.record import encode_body
from treering_server.services.statuses import MAX_VIOLATIONS

DEFAULT_CONTENT_TYPE = "application/json"
DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000
DEFAULT_HEARTBEAT_SECONDS = 10.0

_UUID = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_CONTROL_CHARACTER = re.compile("[\x00-\x1f\x7f-\x9f]")
"""Unicode category Cc."""
_NIL_ID = UUID(int=0)
_NOTHING = StreamAppend("", None, ())
_RESERVED_IDS = (str(_NIL_ID), str(UUID(int=2**128 - 1)))

_NANOSECONDS = 1_000_000_000
_TIMESTAMP_SECONDS = range(-62_135_596_800, 253_402_300_800)
"""From the year 1 to the year 9999."""
_HEARTBEAT_NANOSECONDS = range(_NANOSECONDS // 10, 3_600 * _NANOSECONDS + 1)

_MESSAGES_SEARCHED = 10_000
"""Messages within a request that are searched for the unknown field in it."""

_M = TypeVar("_M", bound=Message)


@dataclass(frozen=True, slots=True)
class AppendItem:
    """One append of many, or what is wrong with it."""

    request_id: int
    append: Append | Refusal


def read_append(data: bytes, limits: Limits) -> Append:
    """Reads an `AppendRequest`."""
    _refuse_oversize(len(data), limits)
    return _AppendChecks(limits).append(_parse(pb.AppendRequest, data), len(data))


def read_append_many(data: bytes, limits: Limits) -> list[AppendItem]:
    """Reads an `AppendManyRequest`.

    What is wrong with an append is in its item; what is wrong outside of the appends is
    raised. That no `request_id` is used twice while unanswered is the caller's to check.
    """
    message = _decode(pb.AppendManyRequest, data)
    unknown_somewhere = _discard_unknown_fields(message)
    if unknown_somewhere:
        message = _decode(pb.AppendManyRequest, data)
    wrong = _unknown_fields_of(message, "") if unknown_somewhere else []
    for index, item in enumerate(message.items):
        if unknown_somewhere:
            wrong += _unknown_fields_of(item, f"items[{index}]")
        if not item.HasField("append"):
            wrong.append(Violation(f"items[{index}].append", "is required"))
        if len(wrong) >= MAX_VIOLATIONS:
            break
    if wrong:
        raise InvalidRequest(tuple(wrong[:MAX_VIOLATIONS]))
    return [
        AppendItem(item.request_id, _append_or_refusal(item.append, limits, unknown_somewhere))
        for item in message.items
    ]


def _append_or_refusal(
    message: pb.AppendRequest, limits: Limits, may_have_unknown_fields: bool
) -> Append | Refusal:
    size = message.ByteSize()
    try:
        _refuse_oversize(size, limits)
        if may_have_unknown_fields:
            _refuse_unknown_fields(message)
        return _AppendChecks(limits).append(message, size)
    except Refusal as refusal:
        return refusal


def _refuse_oversize(size: int, limits: Limits) -> None:
    """Refuses an append that is too large to be worth a look."""
    if size > limits.append_bytes:
        raise InvalidRequest((_over_limit("", "bytes", limits.append_bytes, size),))


def read_read(data: bytes, limits: Limits) -> Read:
    """Reads a `ReadRequest`."""
    message = _parse(pb.ReadRequest, data)
    checks = _Checks(limits)
    source = checks.source(message)
    backwards = message.direction == pb.DIRECTION_BACKWARDS
    if message.direction not in pb.Direction.values():
        checks.wrong("direction", "is not a direction that this server knows")
    after = checks.after(message, message.WhichOneof("after"), backwards)
    until: UntilPosition | UntilTime | None = None
    match message.WhichOneof("until"):
        case "until_position":
            until = UntilPosition(checks.number(message.until_position, "until_position"))
        case "until_time":
            until = UntilTime(checks.time(message.until_time, "until_time"))
    read = Read(
        source=source,
        backwards=backwards,
        after=after,
        until=until,
        # No log holds more events than the highest position.
        limit=min(message.limit, MAX_POSITION) if message.HasField("limit") else None,
        min_position=checks.number(message.min_position, "min_position"),
        expected_log_id=checks.optional_uuid(message.expected_log_id, "expected_log_id"),
    )
    checks.finish(message.log)
    return read


def read_subscribe(data: bytes, limits: Limits) -> Subscribe:
    """Reads a `SubscribeRequest`."""
    message = _parse(pb.SubscribeRequest, data)
    checks = _Checks(limits)
    source = checks.source(message)
    variant = message.WhichOneof("start")
    start: AfterPosition | AfterVersion | AfterTime | FromHead
    if variant == "from_head":
        start = FromHead()
        if not message.from_head:
            checks.wrong("from_head", "can only be true")
    else:
        start = checks.after(message, variant, backwards=False) or AfterPosition(0)
    heartbeat_seconds = DEFAULT_HEARTBEAT_SECONDS
    if message.HasField("heartbeat_interval"):
        heartbeat_seconds = checks.heartbeat(message.heartbeat_interval, "heartbeat_interval")
    expected_log_id = checks.optional_uuid(message.expected_log_id, "expected_log_id")
    after_event_id = checks.optional_uuid(message.after_event_id, "after_event_id")
    if message.after_event_id and variant != "after_position":
        checks.wrong("after_event_id", "needs after_position, the position of that event")
    elif message.after_event_id and message.after_position == 0:
        checks.wrong("after_event_id", "must be empty with after_position 0: no event is there")
    checks.finish(message.log)
    return Subscribe(source, start, heartbeat_seconds, expected_log_id, after_event_id)


def read_get_head(data: bytes) -> None:
    """Reads a `GetHeadRequest`, which says nothing more."""
    _refuse_other_logs(_parse(pb.GetHeadRequest, data).log)


def read_get_stream(data: bytes, limits: Limits) -> str:
    """Reads a `GetStreamRequest`: the stream's name."""
    message = _parse(stream_service_pb2.GetStreamRequest, data)
    checks = _Checks(limits)
    checks.name(message.stream, "stream")
    checks.finish(message.log)
    return message.stream


def read_list_streams(data: bytes, limits: Limits) -> ListStreams:
    """Reads a `ListStreamsRequest`."""
    message = _parse(stream_service_pb2.ListStreamsRequest, data)
    checks = _Checks(limits)
    if message.prefix:
        checks.name(message.prefix, "prefix")
    if message.page_size < 0:
        checks.wrong("page_size", "must not be negative")
    after_name = None
    if message.page_token:
        after_name = _name_in(message.page_token, message.prefix)
        if after_name is None:
            checks.wrong("page_token", "is not from an answer to a request with this prefix")
    checks.finish(message.log)
    return ListStreams(
        prefix=message.prefix,
        page_size=min(message.page_size, MAX_PAGE_SIZE) or DEFAULT_PAGE_SIZE,
        after_name=after_name,
        show_deleted=message.show_deleted,
    )


def next_page_token(prefix: str, last_name: str) -> str:
    """The token of the page that follows the stream `last_name`, which may be gone by then."""
    # No name holds a control character, so the two can be told apart.
    return base64.urlsafe_b64encode(f"{prefix}\0{last_name}".encode()).decode()


def _name_in(page_token: str, prefix: str) -> str | None:
    try:
        _, _, name = base64.urlsafe_b64decode(page_token).decode().partition("\0")
    except ValueError:
        return None
    # Decoding forgives much, and anyone can encode: only what we make ourselves will do.
    ours = name.startswith(prefix) and next_page_token(prefix, name) == page_token
    return name if ours and not _CONTROL_CHARACTER.search(name) else None


class _Checks:
    """Looks through one request and notes what is wrong with it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._wrong_as_a_whole: list[Violation] = []
        self._wrong: list[Violation] = []
        self._query_strings = 0

    def wrong(self, field: str, description: str) -> None:
        """Notes something malformed or contradictory."""
        self._note(Violation(field, description))

    def over(self, field: str, what: str, limit: int, actual: int) -> None:
        """Notes that a limit is exceeded."""
        self._note(_over_limit(field, what, limit, actual))

    def _note(self, violation: Violation) -> None:
        self._wrong.append(violation)
        if len(self._wrong) == MAX_VIOLATIONS:
            raise InvalidRequest(tuple(self._wrong))

    def finish(self, log: str) -> None:
        """Refuses the request if anything is wrong with it, or else if it is for another log."""
        self.whole("strings in queries", self._limits.query_strings, self._query_strings)
        if wrong := self._wrong_as_a_whole + self._wrong:
            raise InvalidRequest(tuple(wrong[:MAX_VIOLATIONS]))
        _refuse_other_logs(log)

    def whole(self, what: str, limit: int, actual: int) -> None:
        """Checks a limit of the whole request."""
        if actual > limit:
            self._wrong_as_a_whole.append(_over_limit("", what, limit, actual))

    def name(self, name: str, path: str, field: str = "", *, may_be_reserved: bool = True) -> None:
        """Checks a name, type, tag or content type, or what a query says of one.

        The path comes in two parts so that it is put together only where it is told.
        """
        size, limit = len(name.encode()), self._limits.name_bytes
        if 0 < size <= limit and name.isprintable() and (may_be_reserved or name[0] != "$"):
            return
        if not name:
            self.wrong(path + field, "must not be empty")
        if size > limit:
            self.over(path + field, "bytes", limit, size)
        self.characters(name, path + field, may_be_reserved)

    def characters(self, name: str, field: str, may_be_reserved: bool) -> None:
        """Checks what a name is made of."""
        if _CONTROL_CHARACTER.search(name):
            self.wrong(field, "must not contain control characters")
        if not may_be_reserved and name.startswith("$"):
            self.wrong(field, 'must not begin with "$", which is reserved')

    def number(self, number: int, field: str) -> int:
        """Checks a position, version or count."""
        if number > MAX_POSITION:
            self.wrong(field, "must be at most 2^63-1")
        return number

    def uuid(self, text: str, path: str, field: str = "") -> UUID:
        """Checks and takes a UUID, in any case."""
        if _UUID.fullmatch(text):
            return UUID(text)
        self.wrong(path + field, "must be a UUID in the form 8-4-4-4-12")
        return _NIL_ID  # The request is refused: any will do.

    def optional_uuid(self, text: str, field: str) -> UUID | None:
        """Checks and takes a UUID, if there is one."""
        return self.uuid(text, field) if text else None

    def time(self, time: Timestamp, field: str) -> int:
        """Checks and takes a time: its nanoseconds since 1970."""
        if time.seconds not in _TIMESTAMP_SECONDS or not 0 <= time.nanos < _NANOSECONDS:
            self.wrong(field, "must lie in the years 1 to 9999, with 0 to 999,999,999 nanos")
        return time.seconds * _NANOSECONDS + time.nanos

    def heartbeat(self, interval: Duration, field: str) -> float:
        """Checks and takes a heartbeat interval: its seconds."""
        nanoseconds = interval.seconds * _NANOSECONDS + interval.nanos
        if not 0 <= interval.nanos < _NANOSECONDS or nanoseconds not in _HEARTBEAT_NANOSECONDS:
            self.wrong(field, "must be 0.1 s to 1 h")
        return nanoseconds / _NANOSECONDS

    def source(self, message: pb.ReadRequest | pb.SubscribeRequest) -> Source:
        """Checks and takes what is read or followed."""
        match message.WhichOneof("source"):
            case "stream":
                self.name(message.stream, "stream")
                return StreamSource(message.stream)
            case "query":
                return self.query(message.query, "query")
        self.wrong("source", "is required: give stream or query")
        return EVERYTHING

    def after(
        self, message: pb.ReadRequest | pb.SubscribeRequest, variant: str | None, backwards: bool
    ) -> AfterPosition | AfterVersion | AfterTime | None:
        """Checks and takes where to begin, which `variant` says in the message."""
        match variant:
            case "after_position" if backwards:
                return AfterPosition(min(message.after_position, MAX_POSITION))
            case "after_position":
                return AfterPosition(self.number(message.after_position, variant))
            case "after_version":
                if message.WhichOneof("source") == "query":
                    self.wrong(variant, "is for a stream only")
                return AfterVersion(self.number(message.after_version, variant))
            case "after_time":
                return AfterTime(self.time(message.after_time, variant))
        return None

    def query(self, query: query_pb2.Query, path: str) -> Query:
        """Checks and takes a query."""
        count, limit = len(query.items), self._limits.query_items
        if query.all == (count > 0):
            self.wrong(path, "must have either items or all, and not both")
        if count > limit:
            self.over(f"{path}.items", "items", limit, count)
        if count == 0:
            return EVERYTHING
        items = enumerate(islice(query.items, limit))
        return Query(tuple(self._query_item(item, f"{path}.items[{n}]") for n, item in items))

    def _query_item(self, item: query_pb2.QueryItem, path: str) -> QueryItem:
        parts = {field.name: strings for field, strings in item.ListFields()}
        if not parts:
            self.wrong(path, "must have at least one part")
        self._query_strings += sum(map(len, parts.values()))
        if self._query_strings > self._limits.query_strings:
            return QueryItem()
        for part, strings in parts.items():
            for n, string in enumerate(strings):
                self.name(string, path, f".{part}[{n}]")
        return QueryItem(**{part: frozenset(strings) for part, strings in parts.items()})


class _AppendChecks(_Checks):
    """Looks through one `AppendRequest`."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._ids: set[str] = set()
        self._streams: set[str] = set()
        self._event_count = 0

    def append(self, message: pb.AppendRequest, size: int) -> Append:
        """Checks the whole request and takes it."""
        parts = enumerate(message.appends)
        append = Append(
            streams=tuple([self._stream_append(part, f"appends[{n}]") for n, part in parts]),
            events=self._events(message.events, "events"),
            conditions=self._conditions(message.conditions),
            expected_log_id=self.optional_uuid(message.expected_log_id, "expected_log_id"),
            size=size,
        )
        if self._event_count == 0 and not self._wrong:
            self.wrong("", "an append must have at least one event")
        self.whole("events", self._limits.append_events, self._event_count)
        self.whole("streams", self._limits.append_streams, len(self._streams))
        self.finish(message.log)
        return append

    def _past_limits(self) -> bool:
        limits = self._limits
        return (
            self._event_count > limits.append_events or len(self._streams) > limits.append_streams
        )

    def _stream_append(self, part: pb.StreamAppend, path: str) -> StreamAppend:
        stream, events = part.stream, part.events
        if self._past_limits():
            self._streams.add(stream)
            self._event_count += len(events)
            return _NOTHING
        self.name(stream, path, ".stream", may_be_reserved=False)
        expectation = self._expectation(part, path)
        self._streams.add(stream)
        if not events and expectation is None:
            self.wrong(path, "must have events or an expectation")
        return StreamAppend(stream, expectation, self._events(events, path + ".events"))

    def _expectation(self, part: pb.StreamAppend, path: str) -> Expectation | None:
        variant = part.WhichOneof("expectation")
        if variant is None:
            return None
        field = f"{path}.{variant}"
        if part.stream in self._streams:
            self.wrong(field, "only the first append to a stream may have an expectation")
        if variant == "expected_exists":
            return ExpectedExists(part.expected_exists)
        return ExpectedVersion(self.number(part.expected_version, field))

    def _events(self, events: Sequence[Event], path: str) -> tuple[NewEvent, ...]:
        count = len(events)
        self._event_count += count
        if count == 0 or self._past_limits():
            return ()
        return tuple([self._event(event, f"{path}[{n}]") for n, event in enumerate(events)])

    def _event(self, event: Event, path: str) -> NewEvent:
        event_id = self._id(event, path)
        type_ = event.type
        self.name(type_, path, ".type", may_be_reserved=False)
        size, limit = len(event.data), self._limits.event_data_bytes
        if size > limit:
            self.over(path + ".data", "bytes", limit, size)
        if content_type := event.content_type:
            self.name(content_type, path, ".content_type")
        else:
            event.content_type = DEFAULT_CONTENT_TYPE
        tags = self._tags(event.tags[:], path)
        if metadata := event.metadata:
            self._metadata(metadata, path + ".metadata")
        if event.HasField("time"):
            self.time(event.time, path + ".time")
        return NewEvent(event_id, type_, tags, encode_body(event))

    def _id(self, event: Event, path: str) -> UUID:
        given = event.id
        if not given:
            made = uuid7()
            event.id = str(made)
            return made
        event_id = self.uuid(given, path, ".id")
        text = given.lower()
        if text in self._ids:
            self.wrong(path + ".id", "is the id of an earlier event of this request")
        if text in _RESERVED_IDS:
            self.wrong(path + ".id", "must not be the nil or max UUID")
        self._ids.add(text)
        if text != given:
            event.id = text
        return event_id

    def _tags(self, given: Sequence[str], path: str) -> frozenset[str]:
        tags, limit = frozenset(given), self._limits.event_tags
        if len(tags) > limit:
            self.over(path + ".tags", "tags", limit, len(tags))
        else:
            for n, tag in enumerate(given):
                self.name(tag, path, f".tags[{n}]", may_be_reserved=False)
        return tags

    def _metadata(self, metadata: Mapping[str, str], field: str) -> None:
        size, limit = 0, self._limits.metadata_bytes
        for key in metadata:
            self.characters(key, field, may_be_reserved=False)
            size += len(key.encode()) + len(metadata[key].encode())
        if size > limit:
            self.over(field, "bytes", limit, size)

    def _conditions(self, conditions: Sequence[pb.AppendCondition]) -> tuple[AppendCondition, ...]:
        count, limit = len(conditions), self._limits.append_conditions
        if count == 0:
            return ()
        self.whole("conditions", limit, count)
        some = enumerate(islice(conditions, limit))
        return tuple([self._condition(condition, f"conditions[{n}]") for n, condition in some])

    def _condition(self, condition: pb.AppendCondition, path: str) -> AppendCondition:
        query = EVERYTHING
        if condition.HasField("fail_if_match"):
            query = self.query(condition.fail_if_match, path + ".fail_if_match")
        else:
            self.wrong(path + ".fail_if_match", "is required")
        after_position = self.number(condition.after_position, path + ".after_position")
        return AppendCondition(query, after_position)


def _refuse_other_logs(log: str) -> None:
    if log:
        raise NotFound("log", log[:255])


def _over_limit(field: str, what: str, limit: int, actual: int) -> Violation:
    return Violation(field, f"{actual} {what} are over the limit of {limit}", limit, actual)


def _parse(kind: type[_M], data: bytes) -> _M:
    """The message, which has no field that this server doesn't know, at any depth."""
    message = _decode(kind, data)
    if _discard_unknown_fields(message):
        _refuse_unknown_fields(_decode(kind, data))
    return message


def _decode(kind: type[_M], data: bytes) -> _M:
    try:
        return kind.FromString(data)
    except DecodeError:
        description = f"these bytes are no {kind.DESCRIPTOR.name}, or text in it is not UTF-8"
        raise InvalidRequest((Violation("", description),)) from None


def _discard_unknown_fields(message: Message) -> bool:
    """Whether there were any, anywhere in the message."""
    size = message.ByteSize()
    message.DiscardUnknownFields()
    return message.ByteSize() != size


def _refuse_unknown_fields(message: Message) -> None:
    """Refuses the message if it has any unknown fields, telling where."""
    violations: list[Violation] = []
    for part, path in islice(_messages_in(message, ""), _MESSAGES_SEARCHED):
        violations += _unknown_fields_of(part, path)
        if len(violations) >= MAX_VIOLATIONS:
            break
    if not violations and _discard_unknown_fields(message):
        violations = [Violation("", "fields deep within have numbers or types not known here")]
    if violations:
        raise InvalidRequest(tuple(violations[:MAX_VIOLATIONS]))


def _unknown_fields_of(message: Message, path: str) -> list[Violation]:
    fields = UnknownFieldSet(message)
    return [
        Violation(path, f"field {fields[n].field_number} has a number or type not known here")
        for n in range(min(len(fields), MAX_VIOLATIONS))
    ]


def _messages_in(message: Message, path: str) -> Iterator[tuple[Message, str]]:
    """The message and all within it, with their paths. Those of maps can't be looked into."""
    yield message, path
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        inner = f"{path}.{field.name}" if path else field.name
        if field.is_repeated:
            for index, item in enumerate(value):
                yield from _messages_in(item, f"{inner}[{index}]")
        else:
            yield from _messages_in(value, inner)
