"""What is known about a stream."""

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta

from treering.times import to_datetime, to_timedelta
from treering.v1 import stream_service_pb2 as pb


class Deletion(enum.Enum):
    """Whether a stream is deleted."""

    NONE = "none"
    """It is not."""
    DELETED = "deleted"
    """It is; the name can be used again."""
    PERMANENT = "permanent"
    """It is, and the name can never be used again."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a stream's events are kept. What any part excludes can't be read."""

    max_age: timedelta | None = None
    """Not older than this, by the time at which they were recorded. None: no bound."""
    max_count: int | None = None
    """Not more than this many, the newest. None: no bound."""
    truncate_before: int = 0
    """Not those with a lower version than this."""

    @classmethod
    def from_proto(cls, message: pb.Retention) -> "Retention":
        """Reads the server's answer."""
        return cls(
            max_age=to_timedelta(message.max_age) if message.HasField("max_age") else None,
            max_count=message.max_count if message.HasField("max_count") else None,
            truncate_before=message.truncate_before,
        )


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream that was written to at least once."""

    name: str
    version: int
    """Version of its last event. 0: it is deleted."""
    first_version: int
    """The oldest version that can be read. 0: none."""
    next_version: int
    """The version that its next event gets: after a deletion versions go on."""
    retention: Retention | None
    """None: its events are kept for ever."""
    deletion: Deletion
    recorded_at: datetime | None
    """When its last event was recorded."""

    @classmethod
    def from_proto(cls, message: pb.StreamInfo) -> "Stream":
        """Reads the server's answer."""
        return cls(
            name=message.stream,
            version=message.version,
            first_version=message.first_version,
            next_version=message.next_version,
            retention=(
                Retention.from_proto(message.retention) if message.HasField("retention") else None
            ),
            deletion=_DELETIONS.get(message.deletion, Deletion.DELETED),
            recorded_at=(
                to_datetime(message.recorded_at) if message.HasField("recorded_at") else None
            ),
        )


# A state that a newer server knows and this client does not is some kind of deletion.
_DELETIONS: dict[int, Deletion] = {
    pb.DELETION_STATE_UNSPECIFIED: Deletion.NONE,
    pb.DELETION_STATE_DELETED: Deletion.DELETED,
    pb.DELETION_STATE_PERMANENT: Deletion.PERMANENT,
}
