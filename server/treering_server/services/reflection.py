"""Server reflection, in both versions that tools ask for.

The library serves v1alpha only. v1 is the same protocol, message by message, under another
package; so its descriptors are made from the library's.
"""

from collections.abc import Sequence

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc import aio
from grpc_reflection.v1alpha import reflection, reflection_pb2

V1_NAME = "grpc.reflection.v1.ServerReflection"
METHOD = "ServerReflectionInfo"


def add_to(server: aio.Server, service_names: Sequence[str]) -> None:
    """Serves reflection of the named services, and of itself."""
    names = (*service_names, reflection.SERVICE_NAME, V1_NAME)
    _describe_v1()
    reflection.enable_server_reflection(names, server)
    servicer = reflection.aio.ReflectionServicer(names)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_registered_method_handlers(V1_NAME, {METHOD: handler})


def _describe_v1() -> None:
    """Makes v1's descriptors known, unless they are."""
    pool = descriptor_pool.Default()
    try:
        pool.FindFileContainingSymbol(V1_NAME)
    except KeyError:
        v1alpha = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(v1alpha)
        text = text_format.MessageToString(v1alpha).replace("v1alpha", "v1")
        pool.Add(text_format.Parse(text, descriptor_pb2.FileDescriptorProto()))
