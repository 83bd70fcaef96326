"""What is known about a stream, and how long its events are kept."""

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta

from treering.times import from_timedelta, to_datetime, to_timedelta
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
    """How long a stream's events are kept. What any part excludes can't be read.

    ```python
    Retention(max_age=timedelta(days=30), max_count=1000)
    Retention(truncate_before=snapshot.version)
    Retention()  # for ever
    ```
    """

    max_age: timedelta | None = None
    """Not older than this, by the time at which they were recorded. None: no bound."""
    max_count: int | None = None
    """Not more than this many, the newest. None: no bound."""
    truncate_before: int = 0
    """Not those with a lower version than this. It never goes down: a lower one leaves the
    stream's as it is. At most the stream's version + 1."""

    def to_proto(self) -> pb.Retention:
        """The message that travels.

        Raises:
            ValueError: An age that is not above 0, a count of 0, or a number out of range.
            TypeError: A part is of the wrong type.
        """
        message = pb.Retention(max_count=self.max_count, truncate_before=self.truncate_before)
        if self.max_age is not None:
            if not isinstance(self.max_age, timedelta):
                raise TypeError(f"max_age must be a timedelta, not {type(self.max_age).__name__}")
            if self.max_age <= timedelta(0):
                raise ValueError(f"max_age is {self.max_age}: give one above 0")
            message.max_age.CopyFrom(from_timedelta(self.max_age))
        if self.max_count == 0:
            raise ValueError("max_count is 0: keep at least 1, or delete the stream")
        return message

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
    """A stream that was written to at least once, or whose name was deleted for good; in the
    answer of `delete_stream` also one that never was, whose `next_version` is 1."""

    name: str
    version: int
    """Version of its last event. 0: it is deleted, or never was."""
    first_version: int
    """The oldest version that can be read. 0: none."""
    next_version: int
    """The version that its next event gets: after a deletion versions go on."""
    retention: Retention | None
    """None: its events are kept for ever."""
    deletion: Deletion
    recorded_at: datetime | None
    """When its last event was recorded. None: it never had one."""

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
