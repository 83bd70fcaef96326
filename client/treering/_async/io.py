"""Everything that differs between the two clients but for `async` and `await`: the channel,
one call, waiting. Its counterpart is _sync/io.py, with the same names.

All of it runs in the event loop that was running at the client's first use.
"""

import asyncio
import threading
from contextlib import suppress
from typing import Any, Generic, TypeVar, cast

import grpc
import grpc.aio

from treering import errors
from treering.channels import SERVICE, Options, channel_options
from treering.responses import READ, SUBSCRIBE, ReadResponse, SubscribeResponse
from treering.v1 import event_store_service_pb2 as pb
from treering.v1.event_store_service_pb2_grpc import EventStoreServiceStub
from treering.v1.stream_service_pb2_grpc import StreamServiceStub

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

Lock = threading.Lock
"""Never held over an `await`."""

UnaryMethod = grpc.aio.UnaryUnaryMultiCallable
StreamMethod = grpc.aio.UnaryStreamMultiCallable


class Flag:
    """Is set once, and can be waited for."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    async def wait(self, seconds: float) -> bool:
        """Waits until it is set, but not longer than that; answers whether it is."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            pass
        return self._event.is_set()


class Channel:
    """A gRPC channel, connected when it is first needed."""

    def __init__(
        self, address: str, credentials: grpc.ChannelCredentials | None, options: Options
    ) -> None:
        self._loop = asyncio.get_running_loop()
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(address, channel_options(options))
        else:
            self._channel = grpc.aio.secure_channel(address, credentials, channel_options(options))
        self.event_store = EventStoreServiceStub(self._channel)
        self.streams = StreamServiceStub(self._channel)
        # These two leave the events of their responses undecoded.
        self.read: grpc.aio.UnaryStreamMultiCallable[pb.ReadRequest, ReadResponse] = (
            self._channel.unary_stream(*READ)
        )
        self.subscribe: grpc.aio.UnaryStreamMultiCallable[
            pb.SubscribeRequest, SubscribeResponse
        ] = self._channel.unary_stream(*SUBSCRIBE)
        # Requests are joined from appends that were encoded one by one.
        self.append_many: grpc.aio.StreamStreamMultiCallable[bytes, pb.AppendManyResponse] = (
            self._channel.stream_stream(
                f"{SERVICE}/AppendMany",
                response_deserializer=pb.AppendManyResponse.FromString,
            )
        )

    def check_use(self) -> None:
        """Raises RuntimeError in another event loop than the one it was opened in."""
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                "an AsyncClient belongs to the event loop in which it was first used; "
                "make one for each loop"
            )

    async def close(self) -> None:
        await self._channel.close()


async def call_unary(
    method: UnaryMethod[RequestT, ResponseT], request: RequestT, timeout: float | None
) -> ResponseT:
    """One attempt at a call.

    Raises:
        TreeringError: It failed.
    """
    try:
        return await method(request, timeout=timeout)
    except grpc.aio.AioRpcError as error:
        raise failure(error) from error
    except (asyncio.CancelledError, grpc.aio.UsageError) as error:
        # A call that is cut off by the channel's end looks like a cancelled task.
        if isinstance(error, asyncio.CancelledError) and task_is_cancelled():
            raise
        raise errors.ClientClosed(
            "the client was closed during the call", outcome_unknown=True
        ) from error


class Responses(Generic[ResponseT]):
    """The responses of one streaming call.

    A response that is waited for by a task which is then cancelled is not lost: the read goes
    on, and the next caller of `next` gets it. So `asyncio.timeout` around one step of an
    iteration costs neither events nor a new call.
    """

    def __init__(self, method: StreamMethod[RequestT, ResponseT], request: RequestT) -> None:
        self._loop = asyncio.get_running_loop()
        self._call = method(request)
        self._read: asyncio.Task[ResponseT | Any] | None = None
        self._overdue_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timed_out = False

    async def next(self, patience: float | None) -> ResponseT | None:
        """The next response. None: the call has ended well.

        Args:
            patience: Seconds to wait; None: for ever.

        Raises:
            DeadlineExceeded: Nothing came in that time; the call is over.
            ClientClosed: `close` was called, or the channel closed.
            TreeringError: The call failed.
        """
        if self._read is None:
            self._read = self._loop.create_task(_read(self._call))
        self._watch(patience)
        try:
            await asyncio.wait((self._read,))
        finally:
            self._overdue_at = None
        read, self._read = self._read, None
        if read is None or read.cancelled():
            self._stop_watching()
            if self._timed_out:
                raise errors.DeadlineExceeded(
                    f"nothing came for {patience:g} s", code=grpc.StatusCode.DEADLINE_EXCEEDED
                )
            raise errors.ClientClosed("the call was closed")
        try:
            response = read.result()
        except grpc.aio.AioRpcError as error:
            self._stop_watching()
            raise failure(error) from error
        if response is grpc.aio.EOF:
            self._stop_watching()
            return None
        return cast(ResponseT, response)

    def close(self) -> None:
        """Ends the call, and with it a wait in `next`. Any thread may call it."""
        # A finaliser may run in any thread, and after the loop has ended, and with it the call.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        self._stop_watching()
        self._call.cancel()
        if self._read is not None and not self._read.cancel() and not self._read.cancelled():
            self._read.exception()  # Nobody will ask for it, and asyncio would complain.

    def _watch(self, patience: float | None) -> None:
        """Sees to it that the call ends when its caller has waited that long.

        One timer serves many reads: it is moved on when it fires, not with every response.
        """
        if patience is None:
            return
        self._overdue_at = self._loop.time() + patience
        if self._timer is not None:
            if self._timer.when() <= self._overdue_at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(self._overdue_at, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._overdue_at is None:
            return  # Nobody waits.
        if self._overdue_at > self._loop.time():
            self._timer = self._loop.call_at(self._overdue_at, self._look)
            return
        self._timed_out = True
        self._cancel()

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def _read(call: "grpc.aio.UnaryStreamCall[Any, ResponseT]") -> ResponseT | Any:
    return await call.read()


def failure(error: grpc.aio.AioRpcError) -> errors.TreeringError:
    """The exception for a call that failed."""
    return errors.from_status(error.code(), error.details(), error.trailing_metadata())


def task_is_cancelled() -> bool:
    """Whether the task that runs is being cancelled, and not only the call it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
