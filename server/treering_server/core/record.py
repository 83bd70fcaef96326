"""Records: how events are encoded, once, for as long as the log lasts.

A record is an event's bytes (its body, encoded when the request arrived) followed by those
of its envelope (its place, encoded inside the write). The fields of both parts have numbers
that don't meet, so the two parse as one `RecordedEvent`. The record is what the database
keeps and what readers are sent; it is never built again. This file alone in the core knows
protobuf.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from treering.v1.event_pb2 import Event, RecordedEvent
from treering_server.core.query import Terms
from treering_server.core.tail import TailEvent


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the core needs to know of a record."""

    id: UUID
    terms: Terms
    position: int
    version: int
    """0 for an event of no stream."""
    recorded_at: int

    @property
    def in_tail(self) -> TailEvent:
        """What the end of the log in memory keeps of it."""
        return self.terms, self.version, self.recorded_at


def encode_body(event: Event) -> bytes:
    """The first part of an event's record."""
    return event.SerializeToString()


class EnvelopeEncoder:
    """Encodes the second part of records.

    Sets the fields of one message again and again: three times as fast as a message for each
    event, and as fast as varints by hand. So it belongs to one thread.
    """

    def __init__(self) -> None:
        self._envelope = RecordedEvent()
        self._time = self._envelope.recorded_at
        self._encode = self._envelope.SerializeToString
        self._stream = ""
        self._recorded_at = -1

    def encode(self, position: int, stream: str, version: int, recorded_at: int) -> bytes:
        """The envelope of the event at `position`. Without a stream, "" and 0."""
        envelope = self._envelope
        envelope.position = position
        envelope.version = version
        # Events of one append share their time, and most share their stream.
        if stream != self._stream:
            envelope.stream = self._stream = stream
        if recorded_at != self._recorded_at:
            self._time.seconds, microseconds = divmod(recorded_at, 1_000_000)
            self._time.nanos = microseconds * 1_000
            self._recorded_at = recorded_at
        return self._encode()


def parse(record: bytes) -> Recorded:
    """What the core needs to know of a record."""
    event = RecordedEvent.FromString(record)
    time = event.recorded_at
    return Recorded(
        id=UUID(event.id),
        terms=Terms(event.stream, event.type, frozenset(event.tags[:])),
        position=event.position,
        version=event.version,
        recorded_at=time.seconds * 1_000_000 + time.nanos // 1_000,
    )


def same_event(body: bytes, record: bytes) -> bool:
    """Whether an event says what a recorded one says, as a repeat of its append would.

    Metadata and time are not compared: tracing changes them from one attempt to the next.
    """
    event, recorded = Event.FromString(body), RecordedEvent.FromString(record)
    return (
        event.type == recorded.type
        and event.content_type == recorded.content_type
        and event.data == recorded.data
        and set(event.tags) == set(recorded.tags)
    )


class _Headers(dict[int, bytes]):
    """By length: what stands before a value that is field 1 of its message."""

    def __missing__(self, length: int) -> bytes:
        header = bytearray(b"\x0a")
        rest = length
        while rest > 0x7F:
            header.append(rest & 0x7F | 0x80)
            rest >>= 7
        header.append(rest)
        if length < 16_384:  # Most lengths; of longer ones there are too many to keep.
            self[length] = bytes(header)
        return bytes(header)


_HEADERS = _Headers()


def join(records: Sequence[bytes]) -> bytes:
    """The records as the repeated field 1 of a message, which `events` is in all of ours."""
    parts = [b""] * (2 * len(records))
    parts[::2] = map(_HEADERS.__getitem__, map(len, records))
    parts[1::2] = records
    return b"".join(parts)


def batch_of(joined: bytes) -> bytes:
    """Joined records as what a subscriber is sent: an `EventBatch`, which is its field 1."""
    return join((joined,)) if joined else b""
