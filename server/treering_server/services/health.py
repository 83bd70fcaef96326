"""Health. The library keeps it; requests are decoded here, since what is no request is an error
of the caller's, and the library would call it unknown and log it as its own."""

from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import aio
from grpc_health.v1 import health, health_pb2

from treering_server.services.decoding import no_message


class Health:
    """What is told of services, by name."""

    def __init__(self) -> None:
        self._servicer: Any = health.aio.HealthServicer()

    def add_to(self, server: aio.Server) -> None:
        """Serves it."""
        serialize = health_pb2.HealthCheckResponse.SerializeToString
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Check": grpc.unary_unary_rpc_method_handler(
                self._check, response_serializer=serialize
            ),
            "Watch": grpc.unary_stream_rpc_method_handler(
                self._watch, response_serializer=serialize
            ),
        }
        server.add_registered_method_handlers(health.SERVICE_NAME, handlers)

    async def set(self, name: str, *, serving: bool) -> None:
        """Tells it to whoever watches."""
        response = health_pb2.HealthCheckResponse
        await self._servicer.set(name, response.SERVING if serving else response.NOT_SERVING)

    async def enter_graceful_shutdown(self) -> None:
        """Tells of nothing but an end from now on."""
        await self._servicer.enter_graceful_shutdown()

    async def _check(self, data: bytes, context: Any) -> Any:
        return await self._servicer.Check(await _request(data, context), context)

    async def _watch(self, data: bytes, context: Any) -> None:
        await self._servicer.Watch(await _request(data, context), context)


async def _request(data: bytes, context: Any) -> health_pb2.HealthCheckRequest:
    try:
        return health_pb2.HealthCheckRequest.FromString(data)
    except DecodeError:
        message = no_message(health_pb2.HealthCheckRequest)
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)
        raise
