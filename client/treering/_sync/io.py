"""Everything that differs between the two clients but for `async` and `await`: the channel,
one call, waiting. Its counterpart is _async/io.py, with the same names.

Any thread may call any of it. Waiting is interrupted by Ctrl-C: gRPC wakes up several times a
second to look for signals.
"""

import os
import threading
import time
from typing import Any, Generic, TypeVar, cast
from weakref import WeakSet

import grpc

from treering import errors
from treering.channels import Options, channel_options
from treering.responses import READ, SUBSCRIBE, ReadResponse, SubscribeResponse
from treering.v1 import event_store_service_pb2 as pb
from treering.v1.event_store_service_pb2_grpc import EventStoreServiceStub
from treering.v1.stream_service_pb2_grpc import StreamServiceStub

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

Lock = threading.Lock
Flag = threading.Event

UnaryMethod = grpc.UnaryUnaryMultiCallable
StreamMethod = grpc.UnaryStreamMultiCallable


class Channel:
    """A gRPC channel, connected when it is first needed."""

    def __init__(
        self, address: str, credentials: grpc.ChannelCredentials | None, options: Options
    ) -> None:
        self._process_id = os.getpid()
        if credentials is None:
            self._channel = grpc.insecure_channel(address, channel_options(options))
        else:
            self._channel = grpc.secure_channel(address, credentials, channel_options(options))
        self.event_store = EventStoreServiceStub(self._channel)
        self.streams = StreamServiceStub(self._channel)
        # These two leave the events of their responses undecoded.
        self.read: grpc.UnaryStreamMultiCallable[pb.ReadRequest, ReadResponse] = (
            self._channel.unary_stream(*READ)
        )
        self.subscribe: grpc.UnaryStreamMultiCallable[pb.SubscribeRequest, SubscribeResponse] = (
            self._channel.unary_stream(*SUBSCRIBE)
        )

    def check_use(self) -> None:
        """Raises RuntimeError in another process than the one it was opened in."""
        if os.getpid() != self._process_id:
            # The threads that move a channel's data do not survive a fork: calls would hang.
            raise RuntimeError(
                "a Client does not survive a fork once it was used; make one in each process"
            )

    def close(self) -> None:
        self._channel.close()


def call_unary(
    method: "UnaryMethod[RequestT, ResponseT]", request: RequestT, timeout: float | None
) -> ResponseT:
    """One attempt at a call.

    Raises:
        TreeringError: It failed.
    """
    try:
        return method(request, timeout=timeout)
    except grpc.RpcError as error:
        raise failure(error) from error
    except ValueError as error:
        # gRPC's way to say that the channel is closed.
        raise errors.ClientClosed("the client is closed") from error


class Responses(Generic[ResponseT]):
    """The responses of one streaming call."""

    def __init__(self, method: "StreamMethod[RequestT, ResponseT]", request: RequestT) -> None:
        try:
            self._call = method(request)
        except ValueError as error:
            raise errors.ClientClosed("the client is closed") from error
        self._closed = False
        self._timed_out = False
        self.overdue_at: float | None = None
        """When its caller has waited too long; None: nobody waits, or for as long as it takes."""

    def next(self, patience: float | None) -> ResponseT | None:
        """The next response. None: the call has ended well.

        Args:
            patience: Seconds to wait; None: for ever.

        Raises:
            DeadlineExceeded: Nothing came in that time; the call is over.
            ClientClosed: `close` was called, or the channel closed.
            TreeringError: The call failed.
        """
        if patience is not None:
            self.overdue_at = time.monotonic() + patience
            _watch.over(self)
        try:
            return next(self._call)
        except StopIteration:
            return None
        except grpc.RpcError as error:
            if self._timed_out:
                raise errors.DeadlineExceeded(
                    f"nothing came for {patience:g} s", code=grpc.StatusCode.DEADLINE_EXCEEDED
                ) from None
            if self._closed:
                raise errors.ClientClosed("the call was closed") from None
            raise failure(error) from error
        finally:
            self.overdue_at = None

    def close(self) -> None:
        """Ends the call, and with it a wait in `next`. Any thread may call it."""
        self._closed = True
        self._call.cancel()

    def time_out(self) -> None:
        """Ends the call because nothing comes."""
        self._timed_out = True
        self._call.cancel()


class _Watch:
    """Ends calls that are waited for too long. gRPC can wait for a response for a limited time
    only if the whole call is limited, so one thread, the same for all, looks at the clock."""

    def __init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forgets everything, as after a fork: the thread is not there any more, and its lock
        may have been held at that moment."""
        self._condition = threading.Condition()
        self._watched: WeakSet[Responses[Any]] = WeakSet()
        self._wakes_at: float | None = None
        self._thread: threading.Thread | None = None

    def over(self, responses: Responses[Any]) -> None:
        """Sees to it that the call ends when it is overdue."""
        with self._condition:
            self._watched.add(responses)
            due = responses.overdue_at
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="treering-watch", daemon=True
                )
                self._thread.start()
            elif due is not None and (self._wakes_at is None or due < self._wakes_at):
                self._condition.notify()

    def _run(self) -> None:
        with self._condition:
            while True:
                self._wakes_at = earliest = self._look()
                now = time.monotonic()
                self._condition.wait(None if earliest is None else max(0.0, earliest - now))

    def _look(self) -> float | None:
        """Ends the calls that are overdue; answers when to look again. None: nobody waits."""
        now = time.monotonic()
        earliest: float | None = None
        for responses in list(self._watched):
            overdue_at = responses.overdue_at
            if overdue_at is None:
                self._watched.discard(responses)  # Back with its next wait.
            elif overdue_at <= now:
                self._watched.discard(responses)
                responses.time_out()
            elif earliest is None or overdue_at < earliest:
                earliest = overdue_at
        return earliest


def failure(error: grpc.RpcError) -> errors.TreeringError:
    """The exception for a call that failed."""
    call = cast(grpc.Call, error)
    return errors.from_status(call.code(), call.details(), call.trailing_metadata())


_watch = _Watch()
os.register_at_fork(after_in_child=_watch.begin_anew)
