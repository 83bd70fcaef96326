"""What can be asked of an append besides its events, and what it answers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from treering.checkpoints import Checkpoint
from treering.events import Event
from treering.queries import Query
from treering.times import to_datetime
from treering.v1 import event_store_service_pb2 as pb


@dataclass(frozen=True, slots=True, init=False)
class StreamAppend:
    """One stream's part in an append that writes to several.

    Args:
        stream: Name of the stream, 1 to 255 bytes of UTF-8; `$` first is reserved.
        events: Its events, in order. None: only the expectation is checked.
        expected_version: The version that the stream must have. 0: no such stream, or deleted.
        expected_exists: True: the stream must exist; False: it must not.

    A stream may come more than once in an append, so that events can be interleaved; only its
    first may have an expectation, which looks at the state before the append.

    Raises:
        ValueError: Both expectations are given.
        TypeError: Something among the events is no `Event`.
    """

    stream: str
    events: tuple[Event, ...]
    expected_version: int | None
    expected_exists: bool | None

    def __init__(
        self,
        stream: str,
        events: Event | Iterable[Event] = (),
        *,
        expected_version: int | None = None,
        expected_exists: bool | None = None,
    ) -> None:
        if expected_version is not None and expected_exists is not None:
            raise ValueError("give expected_version or expected_exists, not both")
        keep = object.__setattr__
        keep(self, "stream", stream)
        keep(self, "events", _events(events))
        keep(self, "expected_version", expected_version)
        keep(self, "expected_exists", expected_exists)

    def write_to(self, message: pb.StreamAppend) -> None:
        """Fills in the (empty) message that travels."""
        message.stream = self.stream
        if self.expected_version is not None:
            message.expected_version = self.expected_version
        if self.expected_exists is not None:
            message.expected_exists = self.expected_exists
        add = message.events.add
        for event in self.events:
            event.write_to(add())


@dataclass(frozen=True, slots=True)
class Condition:
    """A dynamic consistency boundary: the append fails with `ConditionFailed` if an event that
    matches was recorded after a position.

    ```python
    reading = client.read(query=query)
    events = reading.to_list()
    ...  # decide
    client.append(None, event, conditions=[Condition(query, reading.head_position)])
    ```
    """

    fail_if_match: Query
    after_position: int
    """Usually the `head_position` of the read that was decided on."""


@dataclass(frozen=True, slots=True)
class Appended:
    """Where the events of an append are. They lie next to one another: the n-th of them, those
    of streams before those of none, is at `first_position` + n."""

    first_position: int
    last_position: int
    versions: Mapping[str, int]
    """Version of each stream written to, after this append, in order of first appearance."""
    recorded_at: datetime
    duplicate: bool
    """The events were there already, from an earlier append; all of this is of that one."""
    log_id: str
    last_event_id: str = ""
    """Id of the event at `last_position`."""

    @property
    def checkpoint(self) -> Checkpoint:
        """Right after the last of the events."""
        return Checkpoint(self.log_id, self.last_position, self.last_event_id)

    @classmethod
    def from_proto(cls, message: pb.AppendResponse, request: pb.AppendRequest) -> "Appended":
        """Reads the server's answer to a request."""
        return cls(
            first_position=message.first_position,
            last_position=message.last_position,
            versions=MappingProxyType({each.stream: each.version for each in message.versions}),
            recorded_at=to_datetime(message.recorded_at),
            duplicate=message.duplicate,
            log_id=message.log_id,
            last_event_id=_last_event_id(request),
        )


def write_append(
    message: pb.AppendRequest,
    target: str | Sequence[StreamAppend] | None,
    events: Event | Iterable[Event],
    *,
    expected_version: int | None,
    expected_exists: bool | None,
    conditions: Iterable[Condition],
    expected_log_id: str | None,
) -> None:
    """Fills in the (empty) message from what a caller gave to `append`.

    Raises:
        ValueError: The arguments contradict one another, or a number is out of range.
        TypeError: An argument is of the wrong type.
    """
    if isinstance(target, str):
        part = StreamAppend(
            target, events, expected_version=expected_version, expected_exists=expected_exists
        )
        part.write_to(message.appends.add())
    else:
        if expected_version is not None or expected_exists is not None:
            raise ValueError(
                "an expectation is about one stream: give its name, "
                "or the expectation to its StreamAppend"
            )
        for part in target or ():
            if not isinstance(part, StreamAppend):
                raise TypeError(
                    "append takes a stream's name, None or several StreamAppend, "
                    f"not {type(part).__name__}"
                )
            part.write_to(message.appends.add())
        for event in _events(events):
            event.write_to(message.events.add())
    for condition in conditions:
        message.conditions.add(
            fail_if_match=condition.fail_if_match.to_proto(),
            after_position=condition.after_position,
        )
    if expected_log_id is not None:
        message.expected_log_id = expected_log_id


def _last_event_id(request: pb.AppendRequest) -> str:
    """Of the event that is recorded last: those of no stream come after all others."""
    if request.events:
        return request.events[-1].id
    with_events = (part for part in reversed(request.appends) if part.events)
    last = next(with_events, None)
    return "" if last is None else last.events[-1].id


def _events(events: Event | Iterable[Event]) -> tuple[Event, ...]:
    if isinstance(events, Event):
        return (events,)
    kept = tuple(events)
    for event in kept:
        if not isinstance(event, Event):
            raise TypeError(f"events must be of type Event, not {type(event).__name__}")
    return kept
