"""Server reflection, in both versions that tools ask for.

The library serves v1alpha only. v1 is the same protocol, message by message, under another
package; so its descriptors are made from the library's. Requests are decoded here, since what is
no request is an error of the caller's, and the library would log it as its own.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from google.protobuf.message import DecodeError
from grpc import aio
from grpc_reflection.v1alpha import reflection, reflection_pb2

from treering_server.services.decoding import no_message

V1_NAME = "grpc.reflection.v1.ServerReflection"
METHOD = "ServerReflectionInfo"


def add_to(server: aio.Server, service_names: Sequence[str]) -> None:
    """Serves reflection of the named services, and of itself."""
    names = (*service_names, reflection.SERVICE_NAME, V1_NAME)
    _describe_v1()
    servicer: Any = reflection.aio.ReflectionServicer(names)

    async def answer(
        requests: AsyncIterator[bytes], context: Any
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        async for response in servicer.ServerReflectionInfo(_decoded(requests, context), context):
            yield response

    handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(
        answer, response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString
    )
    for name in (reflection.SERVICE_NAME, V1_NAME):
        server.add_registered_method_handlers(name, {METHOD: handler})


async def _decoded(
    requests: AsyncIterator[bytes], context: Any
) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
    async for data in requests:
        try:
            yield reflection_pb2.ServerReflectionRequest.FromString(data)
        except DecodeError:
            message = no_message(reflection_pb2.ServerReflectionRequest)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)


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
