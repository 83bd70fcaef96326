"""Responses: from values of the core to the bytes of a message.

Events are never built again: their records, joined by `core.record.join`, are the bytes of
the field that holds them, and the rest of the response is put behind.
"""

from collections.abc import Sequence
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from treering.v1 import event_store_service_pb2 as pb
from treering.v1 import stream_service_pb2
from treering.v1.stream_service_pb2 import (
    DELETION_STATE_DELETED,
    DELETION_STATE_PERMANENT,
    DELETION_STATE_UNSPECIFIED,
    Retention,
    StreamInfo,
)
from treering_server.core import model as core
from treering_server.core.errors import Refusal
from treering_server.core.model import Appended, Head, Stream
from treering_server.core.record import join
from treering_server.services.statuses import failure_of

_MICROSECONDS = 1_000_000
_DELETION_STATES = {
    "live": DELETION_STATE_UNSPECIFIED,
    "deleted": DELETION_STATE_DELETED,
    "permanent": DELETION_STATE_PERMANENT,
}


def appended(outcome: Appended) -> bytes:
    """An `AppendResponse`."""
    return AppendResults().response(outcome)


class AppendResults:
    """Encodes the results of one call's appends, to be joined.

    Sets the fields of one message again and again, as most answers are alike: a quarter of what
    it takes to make a message for each.
    """

    def __init__(self) -> None:
        """Nothing is set yet."""
        self._result = pb.AppendResult()
        self._appended = self._result.appended
        self._recorded_at = -1
        self._log_id: UUID | None = None

    def encode(self, request_id: int, outcome: Appended | Refusal) -> bytes:
        """An `AppendResult`."""
        if isinstance(outcome, Refusal):
            refused = pb.AppendResult(request_id=request_id, failure=failure_of(outcome))
            return refused.SerializeToString()
        self._result.request_id = request_id
        self._fill(outcome)
        return self._result.SerializeToString()

    def response(self, outcome: Appended) -> bytes:
        """The `AppendResponse` that a result holds."""
        self._fill(outcome)
        return self._appended.SerializeToString()

    def _fill(self, outcome: Appended) -> None:
        message = self._appended
        message.first_position = outcome.first_position
        message.last_position = outcome.last_position
        message.duplicate = outcome.duplicate
        if len(message.versions) != len(outcome.versions):
            del message.versions[:]
            message.versions.extend([pb.StreamVersion() for _ in outcome.versions])
        for each, (name, version) in zip(message.versions, outcome.versions, strict=True):
            each.stream = name
            each.version = version
        if outcome.recorded_at != self._recorded_at:
            self._recorded_at = outcome.recorded_at
            message.recorded_at.CopyFrom(_timestamp(outcome.recorded_at))
        if outcome.log_id is not self._log_id:
            self._log_id = outcome.log_id
            message.log_id = str(outcome.log_id)


def append_many(results: Sequence[bytes]) -> bytes:
    """An `AppendManyResponse` of encoded results."""
    return join(results)  # They are its field 1.


def read_response(events: bytes, head_position: int, stream_version: int, log_id: UUID) -> bytes:
    """A `ReadResponse` of joined records."""
    rest = pb.ReadResponse(
        head_position=head_position, stream_version=stream_version, log_id=str(log_id)
    )
    return events + rest.SerializeToString()


def started(log_id: UUID, after_position: int, head_position: int) -> bytes:
    """The first `SubscribeResponse`."""
    content = pb.SubscriptionStarted(
        log_id=str(log_id), after_position=after_position, head_position=head_position
    )
    return pb.SubscribeResponse(started=content).SerializeToString()


def caught_up(position: int, event_id: UUID | None) -> bytes:
    """The `SubscribeResponse` that history ends with."""
    content = pb.CaughtUp(position=position, event_id=_id(event_id))
    return pb.SubscribeResponse(caught_up=content).SerializeToString()


def fell_behind(position: int, log_id: UUID | None) -> bytes:
    """The `SubscribeResponse` that history begins again with."""
    content = pb.FellBehind(position=position, log_id=_id(log_id))
    return pb.SubscribeResponse(fell_behind=content).SerializeToString()


def heartbeat(position: int, event_id: UUID | None) -> bytes:
    """The `SubscribeResponse` that breaks a silence."""
    content = pb.Heartbeat(position=position, event_id=_id(event_id))
    return pb.SubscribeResponse(heartbeat=content).SerializeToString()


def head(head: Head) -> bytes:
    """A `GetHeadResponse`."""
    return pb.GetHeadResponse(
        head_position=head.position,
        log_id=str(head.log_id),
        recorded_at=_timestamp(head.recorded_at) if head.position else None,
    ).SerializeToString()


def stream(stream: Stream) -> bytes:
    """A `GetStreamResponse`."""
    return stream_service_pb2.GetStreamResponse(stream=_stream_info(stream)).SerializeToString()


def updated_stream(stream: Stream) -> bytes:
    """An `UpdateStreamResponse`."""
    return stream_service_pb2.UpdateStreamResponse(stream=_stream_info(stream)).SerializeToString()


def deleted_stream(stream: Stream) -> bytes:
    """A `DeleteStreamResponse`."""
    return stream_service_pb2.DeleteStreamResponse(stream=_stream_info(stream)).SerializeToString()


def streams(page: Sequence[Stream], next_page_token: str) -> bytes:
    """A `ListStreamsResponse`. The last page has an empty token."""
    return stream_service_pb2.ListStreamsResponse(
        streams=map(_stream_info, page), next_page_token=next_page_token
    ).SerializeToString()


def _stream_info(stream: Stream) -> StreamInfo:
    return StreamInfo(
        stream=stream.name,
        version=stream.version,
        first_version=stream.first_version,
        next_version=stream.next_version,
        retention=_retention(stream.retention),
        deletion=_DELETION_STATES[stream.deletion],
        recorded_at=_timestamp(stream.recorded_at) if stream.recorded_at else None,
    )


def _retention(retention: core.Retention) -> Retention | None:
    if retention == core.FOR_EVER:
        return None
    age = retention.max_age
    return Retention(
        max_age=None if age is None else Duration(**_seconds_and_nanos(age)),
        max_count=retention.max_count,
        truncate_before=retention.truncate_before,
    )


def _timestamp(microseconds: int) -> Timestamp:
    return Timestamp(**_seconds_and_nanos(microseconds))


def _seconds_and_nanos(microseconds: int) -> dict[str, int]:
    seconds, rest = divmod(microseconds, _MICROSECONDS)
    return {"seconds": seconds, "nanos": rest * 1_000}


def _id(given: UUID | None) -> str:
    return str(given) if given else ""
