"""Timestamps and durations between Python and protobuf."""

from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def from_nanoseconds(nanoseconds: int) -> datetime:
    """The time so many nanoseconds after 1970, in UTC, cut to microseconds."""
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)


def to_nanoseconds(time: datetime, what: str) -> int:
    """Nanoseconds between 1970 and a time.

    Raises:
        ValueError: It has no time zone; `what` names it in the message.
    """
    require_zone(time, what)
    return (time - _EPOCH) // _MICROSECOND * 1000


def require_zone(time: datetime, what: str) -> None:
    """Raises ValueError if a time has no time zone; `what` names it in the message."""
    if time.utcoffset() is None:
        raise ValueError(f"{what} needs a time zone, as in datetime.now(UTC)")


def to_datetime(timestamp: Timestamp) -> datetime:
    """The time in UTC, cut to microseconds."""
    return _EPOCH + timedelta(seconds=timestamp.seconds, microseconds=timestamp.nanos // 1000)


def to_timestamp(time: datetime, what: str) -> Timestamp:
    """The message for a time.

    Raises:
        ValueError: It has no time zone; `what` names it in the message.
    """
    require_zone(time, what)
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return timestamp


def to_timedelta(duration: Duration) -> timedelta:
    """The time span, cut to microseconds."""
    return timedelta(seconds=duration.seconds, microseconds=duration.nanos // 1000)


def to_duration(seconds: float) -> Duration:
    """The message for a number of seconds."""
    return from_timedelta(timedelta(seconds=seconds))


def from_timedelta(span: timedelta) -> Duration:
    """The message for a time span."""
    duration = Duration()
    duration.FromTimedelta(span)
    return duration
