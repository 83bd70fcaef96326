"""Requests: from the bytes of a message to a value of the core, with every check.

What is wrong is told with the path of its field, as much of it as an answer holds, in the
order of the request. A limit of the whole request has an empty path and comes first. What
lies past a limit on a count is counted but not looked at, so that a refusal costs no more
than the largest good request.
"""

import base64
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from treering.ids import uuid7
from treering.v1 import event_store_service_pb2 as pb
from treering.v1 import stream_service_pb2 as stream_pb
from treering.v1.event_pb2 import Event
from treering_server.core.errors import InvalidRequest, Refusal, Violation
from treering_server.core.limits import Limits
from treering_server.core.model import (
    MAX_POSITION,
    AfterPosition,
    AfterTime,
    AfterVersion,
    Append,
    AppendCondition,
    DeleteStream,
    EventId,
    Expectation,
    ExpectedExists,
    ExpectedVersion,
    FromHead,
    ListStreams,
    NewEvent,
    Read,
    Retention,
    StreamAppend,
    Subscribe,
    UntilPosition,
    UntilTime,
    UpdateStream,
)
from treering_server.core.query import EVERYTHING
from treering_server.core.record import encode_body
from treering_server.services.checks import (
    CONTROL_CHARACTER,
    NIL_ID,
    UUID_FORM,
    Checks,
    over_limit,
    refuse_other_logs,
)
from treering_server.services.decoding import (
    decode,
    discard_unknown_fields,
    parse,
    refuse_unknown_fields,
    unknown_fields_of,
)
from treering_server.services.statuses import MAX_VIOLATIONS

DEFAULT_CONTENT_TYPE = "application/json"
DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000
DEFAULT_HEARTBEAT_SECONDS = 10.0

_DIRECTIONS = frozenset(pb.Direction.values())
_NOTHING = StreamAppend("", None, ())
_RESERVED_IDS = (NIL_ID.bytes, UUID(int=2**128 - 1).bytes)


class AppendItem(NamedTuple):
    """One append of many, or what is wrong with it."""

    request_id: int
    append: Append | Refusal


def read_append(data: bytes, limits: Limits) -> Append:
    """Reads an `AppendRequest`."""
    _refuse_oversize(len(data), limits)
    return _AppendChecks(limits).append(parse(pb.AppendRequest, data), len(data))


def read_append_many(data: bytes, limits: Limits) -> list[AppendItem]:
    """Reads an `AppendManyRequest`.

    What is wrong with an append is in its item; what is wrong outside of the appends is
    raised. That no `request_id` is used twice while unanswered is the caller's to check.
    """
    message = decode(pb.AppendManyRequest, data)
    unknown_somewhere = discard_unknown_fields(message)
    if unknown_somewhere:
        message = decode(pb.AppendManyRequest, data)
    wrong = unknown_fields_of(message, "") if unknown_somewhere else []
    for index, item in enumerate(message.items):
        if unknown_somewhere:
            wrong += unknown_fields_of(item, f"items[{index}]")
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
            refuse_unknown_fields(message)
        return _AppendChecks(limits).append(message, size)
    except Refusal as refusal:
        return refusal.alone()


def _refuse_oversize(size: int, limits: Limits) -> None:
    """Refuses an append that is too large to be worth a look."""
    if size > limits.append_bytes:
        raise InvalidRequest((over_limit("", "bytes", limits.append_bytes, size),))


def read_read(data: bytes, limits: Limits) -> Read:
    """Reads a `ReadRequest`."""
    message = parse(pb.ReadRequest, data)
    checks = Checks(limits)
    source = checks.source(message)
    backwards = message.direction == pb.DIRECTION_BACKWARDS
    if message.direction not in _DIRECTIONS:
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
    message = parse(pb.SubscribeRequest, data)
    checks = Checks(limits)
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
    return Subscribe(
        source, start, heartbeat_seconds, expected_log_id, after_event_id, size=len(data)
    )


def read_get_head(data: bytes, _limits: Limits) -> None:
    """Reads a `GetHeadRequest`, which says nothing more."""
    refuse_other_logs(parse(pb.GetHeadRequest, data).log)


def read_get_stream(data: bytes, limits: Limits) -> str:
    """Reads a `GetStreamRequest`: the stream's name."""
    message = parse(stream_pb.GetStreamRequest, data)
    checks = Checks(limits)
    checks.name(message.stream, "stream")
    checks.finish(message.log)
    return message.stream


def read_update_stream(data: bytes, limits: Limits) -> UpdateStream:
    """Reads an `UpdateStreamRequest`."""
    message = parse(stream_pb.UpdateStreamRequest, data)
    checks = Checks(limits)
    checks.name(message.stream, "stream", may_be_reserved=False)
    given = message.retention
    max_age = max_count = None
    if given.HasField("max_age"):
        max_age = checks.age(given.max_age, "retention.max_age")
    if given.HasField("max_count"):
        max_count = checks.number(given.max_count, "retention.max_count")
        if not max_count:
            checks.wrong("retention.max_count", "must be at least 1; to bound nothing, unset it")
    before = checks.number(given.truncate_before, "retention.truncate_before")
    checks.finish(message.log)
    return UpdateStream(message.stream, Retention(max_age, max_count, before))


def read_delete_stream(data: bytes, limits: Limits) -> DeleteStream:
    """Reads a `DeleteStreamRequest`."""
    message = parse(stream_pb.DeleteStreamRequest, data)
    checks = Checks(limits)
    checks.name(message.stream, "stream", may_be_reserved=False)
    expectation: Expectation | None = None
    match message.WhichOneof("expectation"):
        case "expected_version":
            version = checks.number(message.expected_version, "expected_version")
            expectation = ExpectedVersion(version)
        case "expected_exists":
            if not message.expected_exists:
                checks.wrong("expected_exists", "can only be true")
            expectation = ExpectedExists(exists=True)
    checks.finish(message.log)
    return DeleteStream(message.stream, expectation, message.permanent)


def read_list_streams(data: bytes, limits: Limits) -> ListStreams:
    """Reads a `ListStreamsRequest`."""
    message = parse(stream_pb.ListStreamsRequest, data)
    checks = Checks(limits)
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
    return name if ours and not CONTROL_CHARACTER.search(name) else None


class _AppendChecks(Checks):
    """Looks through one `AppendRequest`."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._ids: set[EventId] = set()
        self._streams: set[str] = set()
        self._types: set[str] = set()
        """Looked at already: most events of a request have one of a few."""
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
        if type_ not in self._types:
            self.name(type_, path, ".type", may_be_reserved=False)
            if not self._wrong:
                self._types.add(type_)
        size, limit = len(event.data), self._limits.event_data_bytes
        if size > limit:
            self.over(path + ".data", "bytes", limit, size)
        content_type = event.content_type
        if not content_type:
            event.content_type = DEFAULT_CONTENT_TYPE
        elif content_type != DEFAULT_CONTENT_TYPE:
            self.name(content_type, path, ".content_type")
        tags = self._tags(event.tags[:], path)
        if metadata := event.metadata:
            self._metadata(metadata, path + ".metadata")
        if event.HasField("time"):
            self.time(event.time, path + ".time")
        return NewEvent(event_id, type_, tags, encode_body(event))

    def _id(self, event: Event, path: str) -> EventId:
        given = event.id
        if not given:
            made = uuid7()
            event.id = str(made)
            return made.bytes
        if not UUID_FORM.fullmatch(given):
            self.malformed_uuid(path + ".id")
            return NIL_ID.bytes
        event_id = bytes.fromhex(given.replace("-", ""))
        if event_id in self._ids:
            self.wrong(path + ".id", "is the id of an earlier event of this request")
        if event_id in _RESERVED_IDS:
            self.wrong(path + ".id", "must not be the nil or max UUID")
        self._ids.add(event_id)
        if (text := given.lower()) != given:
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
