"""What a log must answer, by the contract alone: a list of events and nothing clever.

Takes the API's own requests and knows nothing of the server. What only a server can know
(when something was recorded, the ids that it made) it is told afterwards by `record`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp

from treering.v1.event_pb2 import Event, RecordedEvent
from treering.v1.event_store_service_pb2 import (
    DIRECTION_BACKWARDS,
    AppendRequest,
    ReadRequest,
    StreamAppend,
)
from treering.v1.query_pb2 import Query, QueryItem
from treering.v1.stream_service_pb2 import (
    DELETION_STATE_DELETED,
    DELETION_STATE_PERMANENT,
    DELETION_STATE_UNSPECIFIED,
    DeleteStreamRequest,
    Retention,
    StreamInfo,
    UpdateStreamRequest,
)

LONG_SECONDS = 60
"""An age from here on no event reaches while a comparison lasts. A lower one has to be so
short that every event has it by the time that anybody can ask."""


@dataclass(frozen=True)
class Refusal(Exception):
    """Why the contract refuses a request, and the facts it promises."""

    reason: str
    facts: tuple = ()


@dataclass(frozen=True)
class Repeat:
    """The append is there already, at these positions."""

    first_position: int
    last_position: int
    versions: list[tuple[str, int]]


@dataclass(frozen=True)
class State:
    """The state that a read tells, and its events."""

    events: list[RecordedEvent]
    head_position: int
    stream_version: int


def nanoseconds(time: Timestamp) -> int:
    """Nanoseconds since 1970, exactly."""
    return time.seconds * 10**9 + time.nanos


def placed(request: AppendRequest) -> list[tuple[str, Event]]:
    """The events of an append with their streams, in the order of recording."""
    return [(part.stream, event) for part in request.appends for event in part.events] + [
        ("", event) for event in request.events
    ]


def matches_item(item: QueryItem, event: RecordedEvent) -> bool:
    """All given parts must hold."""
    in_stream = event.stream != ""
    category = event.stream.split("-")[0]
    return (
        (not item.streams or event.stream in item.streams)
        and (
            not item.stream_prefixes
            or (in_stream and any(event.stream.startswith(p) for p in item.stream_prefixes))
        )
        and (not item.types or event.type in item.types)
        and all(tag in event.tags for tag in item.tags)
        and (not item.categories or (in_stream and category in item.categories))
    )


def matches(query: Query, event: RecordedEvent) -> bool:
    """An event matches if any item matches."""
    return query.all or any(matches_item(item, event) for item in query.items)


@dataclass
class Kept:
    """What is kept of a stream."""

    floor: int = 0
    """Versions up to here are removed for good."""
    deleted_version: int = 0
    """Versions up to here were removed by a deletion."""
    deletion: int = DELETION_STATE_UNSPECIFIED
    retention: Retention = field(default_factory=Retention)

    def removed(self, last_version: int) -> int:
        """Versions up to here are removed now."""
        bounds = [self.floor, self.retention.truncate_before - 1]
        if self.retention.HasField("max_count"):
            bounds.append(last_version - self.retention.max_count)
        if self.is_short:
            bounds.append(last_version)
        return max(bounds)

    @property
    def is_short(self) -> bool:
        """Whether events are removed as soon as they are recorded."""
        age = self.retention.max_age
        return self.retention.HasField("max_age") and age.seconds < LONG_SECONDS


@dataclass
class Model:
    """A log in memory."""

    log_id: str
    events: list[RecordedEvent] = field(default_factory=list)
    """All that were ever recorded. An id that the server made and nobody saw is empty."""
    kept: defaultdict[str, Kept] = field(default_factory=lambda: defaultdict(Kept))

    @property
    def head(self) -> int:
        """Position of the last event."""
        return len(self.events)

    def last_version(self, stream: str, until: int | None = None) -> int:
        """The last version given in a stream, up to a position."""
        return sum(event.stream == stream for event in self.events[:until])

    def version(self, stream: str, until: int | None = None) -> int:
        """Version of a stream, in the log as it stood at a position."""
        version = self.last_version(stream, until)
        return 0 if version <= self.kept[stream].deleted_version else version

    def seen(self, after: int = 0, until: int | None = None) -> list[RecordedEvent]:
        """Events between two positions that are not removed now. Events of no stream never
        are."""
        removed = {
            stream: self.kept[stream].removed(self.last_version(stream)) for stream in self.names()
        }
        return [
            e for e in self.events[after:until] if not e.stream or e.version > removed[e.stream]
        ]

    def names(self) -> list[str]:
        """Names of all that were ever streams, or never can be, byte by byte."""
        names = {event.stream for event in self.events if event.stream}
        names |= {n for n, k in self.kept.items() if k.deletion == DELETION_STATE_PERMANENT}
        return sorted(names, key=str.encode)

    # --- streams

    def info(self, stream: str) -> StreamInfo:
        """What is known of a stream; raises `Refusal`."""
        kept, last = self.kept[stream], self.last_version(stream)
        if last == 0 and kept.deletion != DELETION_STATE_PERMANENT:
            raise Refusal("NOT_FOUND")
        info = StreamInfo(
            stream=stream,
            version=self.version(stream),
            next_version=last + 1,
            deletion=kept.deletion,
            retention=kept.retention if kept.retention.ListFields() else None,
        )
        first = kept.removed(last) + 1
        if first <= last:
            info.first_version = first
        if last:
            recorded_at = [e.recorded_at for e in self.events if e.stream == stream][-1]
            info.recorded_at.CopyFrom(recorded_at)
        return info

    def update(self, request: UpdateStreamRequest) -> StreamInfo:
        """Sets a retention; raises `Refusal`."""
        kept, last = self.kept[request.stream], self.last_version(request.stream)
        if kept.deletion == DELETION_STATE_PERMANENT:
            raise Refusal("STREAM_DELETED")
        if self.version(request.stream) == 0:
            raise Refusal("NOT_FOUND")
        if request.retention.truncate_before > last + 1:
            raise Refusal("INVALID_REQUEST")
        kept.floor = kept.removed(last)
        truncate_before = kept.retention.truncate_before
        kept.retention = Retention()
        kept.retention.CopyFrom(request.retention)
        kept.retention.truncate_before = max(truncate_before, request.retention.truncate_before)
        return self.info(request.stream)

    def delete(self, request: DeleteStreamRequest) -> StreamInfo:
        """Deletes a stream; raises `Refusal`."""
        kept, last = self.kept[request.stream], self.last_version(request.stream)
        version = self.version(request.stream)
        match request.WhichOneof("expectation"):
            case "expected_version" if request.expected_version not in (
                {0, last} if version == 0 else {version}
            ):
                raise Refusal("VERSION_CONFLICT", (request.stream, version))
            case "expected_exists" if last == 0:
                raise Refusal("VERSION_CONFLICT", (request.stream, version))
        if request.permanent:
            kept.deletion = DELETION_STATE_PERMANENT
        elif last == 0 and kept.deletion != DELETION_STATE_PERMANENT:
            return StreamInfo(stream=request.stream, next_version=1)
        elif kept.deletion != DELETION_STATE_PERMANENT:
            kept.deletion = DELETION_STATE_DELETED
        kept.floor = kept.deleted_version = last
        kept.retention = Retention()
        return self.info(request.stream)

    # --- appends

    def check(self, request: AppendRequest) -> Repeat | None:
        """Decides an append: a repeat, None if it is to be recorded; raises `Refusal`."""
        known = {event.id: event for event in self.events if event.id}
        taken = [known.get(event.id.lower()) for _, event in placed(request)]
        if any(taken):
            return self._repeat(request, taken)
        if request.expected_log_id and request.expected_log_id.lower() != self.log_id:
            raise Refusal("LOG_MISMATCH")
        for stream, _ in placed(request):
            if self.kept[stream].deletion == DELETION_STATE_PERMANENT:
                raise Refusal("STREAM_DELETED")
        for part in request.appends:
            self._check_expectation(part)
        for index, condition in enumerate(request.conditions):
            if condition.after_position > self.head:
                raise Refusal("POSITION_AHEAD_OF_LOG")
            for event in self.seen(condition.after_position):
                if matches(condition.fail_if_match, event):
                    raise Refusal("CONDITION_FAILED", (event.position, index))
        return None

    def _repeat(self, request: AppendRequest, taken: list[RecordedEvent | None]) -> Repeat:
        first = taken[0].position if taken[0] else 0
        seen = {event.position for event in self.seen()}
        is_repeat = all(
            recorded is not None
            and recorded.position == first + n
            and recorded.stream == stream
            and (
                recorded.position not in seen
                or (
                    recorded.type == event.type
                    and recorded.content_type == (event.content_type or "application/json")
                    and recorded.data == event.data
                    and set(recorded.tags) == set(event.tags)
                )
            )
            for n, ((stream, event), recorded) in enumerate(
                zip(placed(request), taken, strict=True)
            )
        )
        if not is_repeat:
            conflict = next(recorded for recorded in taken if recorded)
            raise Refusal("EVENT_ID_CONFLICT", (conflict.id, conflict.position))
        last = first + len(taken) - 1
        return Repeat(first, last, self._versions(request, last))

    def _versions(self, request: AppendRequest, until: int) -> list[tuple[str, int]]:
        written = dict.fromkeys(stream for stream, _ in placed(request) if stream)
        return [(stream, self.last_version(stream, until)) for stream in written]

    def _check_expectation(self, part: StreamAppend) -> None:
        version = self.version(part.stream)
        match part.WhichOneof("expectation"):
            case "expected_version" if version != part.expected_version:
                raise Refusal("VERSION_CONFLICT", (part.stream, version))
            case "expected_exists" if (version > 0) != part.expected_exists:
                raise Refusal("VERSION_CONFLICT", (part.stream, version))

    def record(
        self, request: AppendRequest, recorded_at: Timestamp, made_ids: Iterable[str]
    ) -> list[tuple[str, int]]:
        """Records an append that was checked, and gives the versions it leads to. `made_ids`
        are the ids of its events that came without, empty if nobody can tell any more."""
        made = iter(made_ids)
        for stream, event in placed(request):
            self.events.append(
                RecordedEvent(
                    id=event.id.lower() or next(made),
                    type=event.type,
                    data=event.data,
                    content_type=event.content_type or "application/json",
                    tags=event.tags,
                    metadata=event.metadata,
                    time=event.time if event.HasField("time") else None,
                    position=self.head + 1,
                    stream=stream,
                    version=self.last_version(stream) + 1 if stream else 0,
                    recorded_at=recorded_at,
                )
            )
            self.kept[stream].deletion = DELETION_STATE_UNSPECIFIED
        return self._versions(request, self.head)

    # --- reads

    def selects(self, source: ReadRequest) -> Callable[[RecordedEvent], bool]:
        """Whether an event is of the source of a read or subscription."""
        if source.WhichOneof("source") == "stream":
            return lambda event: event.stream == source.stream
        return lambda event: matches(source.query, event)

    def read(self, request: ReadRequest) -> State:
        """What a read answers; raises `Refusal`."""
        backwards = request.direction == DIRECTION_BACKWARDS
        if request.expected_log_id and request.expected_log_id.lower() != self.log_id:
            raise Refusal("LOG_MISMATCH")
        if not backwards and (
            request.after_position > self.head
            or request.after_version > self.last_version(request.stream)
        ):
            raise Refusal("POSITION_AHEAD_OF_LOG")
        head = self._until(request)
        is_after = self._after(request, -1 if backwards else 1)
        is_selected = self.selects(request)
        events = [e for e in self.seen(until=head) if is_selected(e) and is_after(e)]
        if backwards:
            events.reverse()
        if request.HasField("limit"):
            events = events[: request.limit]
        return State(events, head, self.version(request.stream, head) if request.stream else 0)

    def _until(self, request: ReadRequest) -> int:
        match request.WhichOneof("until"):
            case "until_position":
                return min(request.until_position, self.head)
            case "until_time":
                time = nanoseconds(request.until_time)
                return sum(nanoseconds(event.recorded_at) <= time for event in self.events)
        return self.head

    def _after(self, request: ReadRequest, sign: int) -> Callable[[RecordedEvent], bool]:
        match request.WhichOneof("after"):
            case "after_position":
                return lambda e: sign * e.position > sign * request.after_position
            case "after_version":
                return lambda e: sign * e.version > sign * request.after_version
            case "after_time":
                time = nanoseconds(request.after_time)
                return lambda e: sign * nanoseconds(e.recorded_at) > sign * time
        return lambda _: True
