"""From the arguments of a call to the message that travels: for all calls but append."""

from datetime import datetime

from treering.checkpoints import Checkpoint
from treering.queries import Query
from treering.streams import Retention
from treering.times import to_duration, to_timestamp
from treering.v1 import event_store_service_pb2 as pb
from treering.v1 import stream_service_pb2 as stream_pb


def read_request(
    *,
    stream: str | None,
    query: Query | None,
    backwards: bool,
    after_position: int | None,
    after_version: int | None,
    after_time: datetime | None,
    until_position: int | None,
    until_time: datetime | None,
    limit: int | None,
    min_position: int,
    expected_log_id: str | None,
) -> pb.ReadRequest:
    """The request for a read.

    Raises:
        ValueError: Arguments exclude one another, or a number is out of range. (Of the members
            of a oneof the last one set would win: a filter would be lost silently.)
    """
    _at_most_one(stream=stream, query=query)
    _at_most_one(after_position=after_position, after_version=after_version, after_time=after_time)
    _at_most_one(until_position=until_position, until_time=until_time)
    request = pb.ReadRequest(
        direction=pb.DIRECTION_BACKWARDS if backwards else pb.DIRECTION_FORWARDS,
        limit=limit,
        min_position=min_position,
        expected_log_id=expected_log_id or "",
    )
    if stream is not None:
        request.stream = stream
    else:
        request.query.CopyFrom((query or Query.all()).to_proto())
    if after_position is not None:
        request.after_position = after_position
    elif after_version is not None:
        request.after_version = after_version
    elif after_time is not None:
        request.after_time.CopyFrom(to_timestamp(after_time, "after_time"))
    if until_position is not None:
        request.until_position = until_position
    elif until_time is not None:
        request.until_time.CopyFrom(to_timestamp(until_time, "until_time"))
    return request


def subscribe_request(
    *,
    stream: str | None,
    query: Query | None,
    after: Checkpoint | None,
    after_position: int | None,
    after_version: int | None,
    after_time: datetime | None,
    from_head: bool,
    heartbeat: float | None,
    expected_log_id: str | None,
) -> pb.SubscribeRequest:
    """The request for a subscription.

    Raises:
        ValueError: Arguments exclude one another, or a number is out of range.
    """
    _at_most_one(stream=stream, query=query)
    _at_most_one(
        after=after,
        after_position=after_position,
        after_version=after_version,
        after_time=after_time,
        from_head=from_head or None,
    )
    if after is not None:
        if expected_log_id not in (None, after.log_id):
            raise ValueError("expected_log_id is not the log id of the checkpoint")
        expected_log_id = after.log_id
    request = pb.SubscribeRequest(expected_log_id=expected_log_id or "")
    if stream is not None:
        request.stream = stream
    else:
        request.query.CopyFrom((query or Query.all()).to_proto())
    if after is not None:
        request.after_position = after.position
        request.after_event_id = after.event_id
    elif after_position is not None:
        request.after_position = after_position
    elif after_version is not None:
        request.after_version = after_version
    elif after_time is not None:
        request.after_time.CopyFrom(to_timestamp(after_time, "after_time"))
    elif from_head:
        request.from_head = True
    if heartbeat is not None:
        request.heartbeat_interval.CopyFrom(to_duration(heartbeat))
    return request


def update_stream_request(name: str, retention: Retention | None) -> stream_pb.UpdateStreamRequest:
    """The request that sets a stream's retention.

    Raises:
        ValueError: A part of the retention is out of range.
        TypeError: The retention, or a part of it, is of the wrong type.
    """
    if retention is None:
        retention = Retention()
    elif not isinstance(retention, Retention):
        raise TypeError(f"retention must be a Retention or None, not {type(retention).__name__}")
    return stream_pb.UpdateStreamRequest(stream=name, retention=retention.to_proto())


def delete_stream_request(
    name: str, *, expected_version: int | None, expected_exists: bool, permanent: bool
) -> stream_pb.DeleteStreamRequest:
    """The request that deletes a stream.

    Raises:
        ValueError: Both expectations are given, or a number is out of range.
    """
    _at_most_one(expected_version=expected_version, expected_exists=expected_exists or None)
    request = stream_pb.DeleteStreamRequest(stream=name, permanent=permanent)
    if expected_version is not None:
        request.expected_version = expected_version
    if expected_exists:
        request.expected_exists = True
    return request


def _at_most_one(**arguments: object) -> None:
    given = [name for name, value in arguments.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"give only one of {', '.join(given)}")
