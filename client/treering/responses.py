"""The responses of Read and Subscribe, with their events left as they came.

To make an event of each record costs a client more than all the rest of a long read, and a
caller may look at few of them. On the wire a message in a field looks as bytes do: so a copy of
the API's own messages, in which `events` is of bytes, hands out each record undecoded.
"""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, cast

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from treering.channels import SERVICE
from treering.v1 import event_pb2
from treering.v1 import event_store_service_pb2 as pb


class ReadResponse(Protocol):
    """A `ReadResponse` with undecoded events."""

    events: Sequence[bytes]
    head_position: int
    stream_version: int
    log_id: str


class EventBatch(Protocol):
    """An `EventBatch` with undecoded events."""

    events: Sequence[bytes]


class SubscribeResponse(Protocol):
    """A `SubscribeResponse` with undecoded events."""

    events: EventBatch
    started: pb.SubscriptionStarted
    caught_up: pb.CaughtUp
    heartbeat: pb.Heartbeat
    fell_behind: pb.FellBehind

    def WhichOneof(self, oneof_group: Literal["content"]) -> str | None:  # noqa: N802 - protobuf's
        """Name of the field that is set. None: one that is not known yet."""


def _copy(file: FileDescriptor, pool: DescriptorPool) -> None:
    """Adds a file to a pool, after all that it needs, with the records in it as bytes."""
    for needed in file.dependencies:
        _copy(needed, pool)
    copied = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(copied)
    for message in copied.message_type:
        for field in message.field:
            if field.type_name == f".{_RECORD}":
                field.type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
                field.ClearField("type_name")
    pool.Add(copied)


_RECORD = event_pb2.RecordedEvent.DESCRIPTOR.full_name
_pool = DescriptorPool()
_copy(pb.DESCRIPTOR, _pool)


def _decoder(original: type[Message]) -> Callable[[bytes], object]:
    copy = _pool.FindMessageTypeByName(original.DESCRIPTOR.full_name)
    return GetMessageClass(copy).FromString


decode_read = cast("Callable[[bytes], ReadResponse]", _decoder(pb.ReadResponse))
decode_subscribe = cast("Callable[[bytes], SubscribeResponse]", _decoder(pb.SubscribeResponse))

# What a channel makes the methods of: path, encoder of the request, decoder of a response.
READ = (f"{SERVICE}/Read", pb.ReadRequest.SerializeToString, decode_read)
SUBSCRIBE = (f"{SERVICE}/Subscribe", pb.SubscribeRequest.SerializeToString, decode_subscribe)
