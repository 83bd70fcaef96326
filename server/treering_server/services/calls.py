"""What every call has in common: how it ends, and the one line that the log gets of it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias, TypeVar
from uuid import uuid4

import grpc
import structlog
from grpc import aio

from treering_server.core.errors import Overloaded, Refusal, ShuttingDown
from treering_server.core.turns import caller
from treering_server.core.writer import DeadlinePassed
from treering_server.services.intake import Context, Decode, Intake
from treering_server.services.statuses import status_of

Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"
T = TypeVar("T")
UnaryCall: TypeAlias = Callable[[T, Context], Awaitable[bytes]]
StreamCall: TypeAlias = Callable[[T, Context], Awaitable[None]]
ManyCall: TypeAlias = Callable[[AsyncIterator[bytes], Context], Awaitable[None]]

OPEN_CALLS = 20_000
"""At a time, subscriptions included: each has its place in memory, whatever it does."""


class Calls:
    """Makes handlers of a service's methods."""

    def __init__(self, stopping: "asyncio.Future[None]", intake: Intake) -> None:
        """Calls that come once `stopping` is done are refused."""
        self._stopping = stopping
        self._intake = intake
        self._open = 0
        # Bound once: to bind it anew takes longer than to see that a line is not wanted.
        self._log = structlog.get_logger("treering.calls").bind()

    # To gRPC every method is one of many requests, which looks the same on the wire: so that a
    # request is received when there is room for it, and not before.

    def unary(self, name: str, decode: Decode[T], method: UnaryCall[T]) -> Handler:
        """A handler for one request and one response. Both are bytes: so malformed ones are
        ours to answer, and records are sent as they are stored."""

        async def handle(_requests: object, context: Context) -> bytes:
            response = b""

            async def call() -> None:
                nonlocal response
                request = await self._intake.receive(context, decode)
                response = await method(request, context)

            await self._end(name, context, call)
            return response

        return grpc.stream_unary_rpc_method_handler(handle)

    def server_stream(self, name: str, decode: Decode[T], method: StreamCall[T]) -> Handler:
        """A handler for one request and many responses."""

        async def handle(_requests: object, context: Context) -> None:
            async def call() -> None:
                request = await self._intake.receive(context, decode)
                await method(request, context)

            await self._end(name, context, call)

        return grpc.stream_stream_rpc_method_handler(handle)

    def both_stream(self, name: str, method: ManyCall) -> Handler:
        """A handler for many requests and many responses."""

        async def handle(requests: AsyncIterator[bytes], context: Context) -> None:
            await self._end(name, context, lambda: method(requests, context))

        return grpc.stream_stream_rpc_method_handler(handle)

    async def _end(self, name: str, context: Context, call: Callable[[], Awaitable[None]]) -> None:
        """Sees a call to its end, whatever that is, and logs it."""
        began = time.monotonic()
        code, reason = grpc.StatusCode.OK, None
        caller.set(context.peer())
        self._open += 1
        try:
            if self._stopping.done():
                raise ShuttingDown
            if self._open > OPEN_CALLS:
                raise Overloaded(f"this server has {self._open} open calls")
            await call()
        except Refusal as refusal:
            code, message, trailers = status_of(refusal.alone())
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
        except aio.InternalError:
            # What was to be sent could not be: the caller is gone, and gRPC has not said so yet.
            code = grpc.StatusCode.CANCELLED
            raise
        except Exception:  # noqa: BLE001 - the last net: a defect of ours
            code = grpc.StatusCode.INTERNAL
            reference = uuid4().hex[:12]
            self._log.exception("defect", rpc=name, reference=reference)
            await context.abort(
                code, f"a defect of the server, reference {reference} in its log: report it"
            )
        finally:
            self._open -= 1
            facts = {} if reason is None else {"reason": reason}
            milliseconds = round((time.monotonic() - began) * 1000, 1)
            self._log.debug("call", rpc=name, code=code.name, ms=milliseconds, **facts)
