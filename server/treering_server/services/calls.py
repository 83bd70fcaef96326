"""What every call has in common: how it ends, and the one line that the log gets of it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias
from uuid import uuid4

import grpc
import structlog
from grpc import aio

from treering_server.core.errors import Refusal, ShuttingDown
from treering_server.core.writer import DeadlinePassed
from treering_server.services.statuses import status_of

Context: TypeAlias = "aio.ServicerContext[bytes, bytes]"
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"
UnaryCall: TypeAlias = Callable[[bytes, Context], Awaitable[bytes]]
StreamCall: TypeAlias = Callable[[bytes, Context], Awaitable[None]]
ManyCall: TypeAlias = Callable[[AsyncIterator[bytes], Context], Awaitable[None]]

_log = structlog.get_logger("treering.calls")


class Calls:
    """Makes handlers of a service's methods."""

    def __init__(self, stopping: "asyncio.Future[None]") -> None:
        """Calls that come once `stopping` is done are refused."""
        self._stopping = stopping

    def unary(self, name: str, method: UnaryCall) -> Handler:
        """A handler for one request and one response. Both are bytes: so malformed ones are
        ours to answer, and records are sent as they are stored."""

        async def handle(request: bytes, context: Context) -> bytes:
            response = b""

            async def call() -> None:
                nonlocal response
                response = await method(request, context)

            await self._end(name, context, call())
            return response

        return grpc.unary_unary_rpc_method_handler(handle)

    def server_stream(self, name: str, method: StreamCall) -> Handler:
        """A handler for one request and many responses."""

        async def handle(request: bytes, context: Context) -> None:
            await self._end(name, context, method(request, context))

        return grpc.unary_stream_rpc_method_handler(handle)

    def both_stream(self, name: str, method: ManyCall) -> Handler:
        """A handler for many requests and many responses."""

        async def handle(requests: AsyncIterator[bytes], context: Context) -> None:
            await self._end(name, context, method(requests, context))

        return grpc.stream_stream_rpc_method_handler(handle)

    async def _end(self, name: str, context: Context, call: Awaitable[None]) -> None:
        """Sees a call to its end, whatever that is, and logs it."""
        began = time.monotonic()
        code, reason = grpc.StatusCode.OK, None
        try:
            if self._stopping.done():
                raise ShuttingDown
            await call
        except Refusal as refusal:
            code, message, trailers = status_of(refusal)
            reason = refusal.reason
            context.set_trailing_metadata(trailers)
            await context.abort(code, message)
        except DeadlinePassed:
            code = grpc.StatusCode.DEADLINE_EXCEEDED
            await context.abort(code, "the deadline passed while the append waited: not written")
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except aio.AbortError:
            raise
        except Exception:  # noqa: BLE001 - the last net: a defect of ours
            code = grpc.StatusCode.INTERNAL
            reference = uuid4().hex[:12]
            _log.exception("defect", rpc=name, reference=reference)
            await context.abort(
                code, f"a defect of the server, reference {reference} in its log: report it"
            )
        finally:
            facts = {} if reason is None else {"reason": reason}
            milliseconds = round((time.monotonic() - began) * 1000, 1)
            _log.info("call", rpc=name, code=code.name, ms=milliseconds, **facts)
