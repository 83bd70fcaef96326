"""Where the log is, and where a consumer is in it: heads, checkpoints, and the signs that a
subscription gives between events."""

import re
from dataclasses import dataclass
from datetime import datetime

from treering.times import to_datetime
from treering.v1 import event_store_service_pb2 as pb

_TEXT = re.compile(r"([^/\s]*)/([0-9]{1,19})/([^/\s]*)")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Up to where a consumer is done.

    Keep it with what the consumer makes of the events, in the same transaction, and give it
    back to `subscribe(after=...)`.
    """

    log_id: str
    """The log that was read, in the incarnation that was read. Empty: not checked."""
    position: int
    """Everything up to here is done. 0: nothing is."""
    event_id: str = ""
    """Id of the event there, with which the server finds out that a log was restored without
    its noticing. Empty: not known, not checked."""

    def to_str(self) -> str:
        """One line of text to store in a file or a column: `<log id>/<position>/<event id>`."""
        return f"{self.log_id}/{self.position}/{self.event_id}"

    @classmethod
    def from_str(cls, text: str) -> "Checkpoint":
        """The checkpoint that `to_str` wrote. White space around it does no harm.

        Raises:
            ValueError: The text is no checkpoint.
        """
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is no checkpoint: <log id>/<position>/<event id>")
        log_id, position, event_id = match.groups()
        return cls(log_id, int(position), event_id)

    def __str__(self) -> str:
        return self.to_str()


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the log."""

    position: int
    """Position of the last event. 0: the log is empty."""
    log_id: str
    recorded_at: datetime | None
    """When the last event was recorded. None: the log is empty."""

    @classmethod
    def from_proto(cls, message: pb.GetHeadResponse) -> "Head":
        """Reads the server's answer."""
        recorded_at = message.recorded_at if message.HasField("recorded_at") else None
        return cls(
            position=message.head_position,
            log_id=message.log_id,
            recorded_at=None if recorded_at is None else to_datetime(recorded_at),
        )


@dataclass(frozen=True, slots=True)
class Started:
    """The subscription stands. Given once for each connection: the first time, and each time
    that the client had to connect again; then events go on where they had stopped."""

    log_id: str
    after_position: int
    """Events after this position follow."""
    head_position: int
    """Position of the log's last event at that time."""


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """All history was handed out; what follows is live. Given at each change from history to
    live, so again after `FellBehind` and after `Started`."""

    checkpoint: Checkpoint
    """Everything up to here was looked at."""


@dataclass(frozen=True, slots=True)
class FellBehind:
    """The subscriber gets history again: it reads more slowly than events come, or the log
    began a new incarnation (a failover, a restore) that has all it was sent. Nothing is lost;
    `CaughtUp` follows when it has caught up."""

    position: int
    """Events after this position follow."""
    log_id: str = ""
    """Id of the log's new incarnation, which is that of the subscription's checkpoint from here
    on. Empty: it is still the same."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing matched for a while. Worth storing for a narrow query: its checkpoint moves on
    although no event comes."""

    checkpoint: Checkpoint
    """Everything up to here was looked at."""


Sign = Started | CaughtUp | FellBehind | Heartbeat
"""What a subscription hands out besides events."""
