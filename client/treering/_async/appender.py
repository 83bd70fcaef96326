"""Appends, pipelined: those under way at the same time travel over one `AppendMany` call.

    append() ──> waiting ──(sender)──> unanswered ──(receiver)──> append() returns
                    ^                      │
                    └──── the call broke ──┘

One task, started by the first append, keeps a call open: it receives the results, and a child
of it sends what waits, as much as is there and fits into a message, while the last one is on
its way. So a lone append goes out at once, and many cost little more than one. An append has no
task or timer of its own.

When a call ends, what it left unanswered is sent again, in order and before anything newer,
over a new one: the events carry ids, so what was recorded is found and answered. Results come
in the order sent; order among the appends of one client is that of their submission.

An append leaves by itself: when its caller is cancelled or its time is up, its future is done,
and it is passed over from then on. It may be recorded all the same.
"""

import asyncio
import copy
import logging
import time
from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import cast

import grpc
import grpc.aio

from treering import errors
from treering._async import io
from treering._async.connection import Connection
from treering.channels import DEAD_AFTER_SECONDS
from treering.retry import DOUBTFUL, Attempts, Backoff, may_pass
from treering.v1 import event_store_service_pb2 as pb

log = logging.getLogger("treering")

# One message holds what waits, up to this; a larger append travels alone.
MESSAGE_BYTES = 512 * 1024
# What may be under way unanswered. More only waits in the server instead of here.
UNANSWERED_BYTES = 8 * 1024 * 1024
UNANSWERED_APPENDS = 4096
# Timers may fire a little early.
TIMER_PRECISION_SECONDS = 0.002

# A call that ends with one of these may have been ended by one append among many.
_ONE_MAY_BE_GUILTY = DOUBTFUL | {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


class _Append:
    """One append under way."""

    __slots__ = ("attempts", "encoded", "outcome", "request_id", "sent_at")

    def __init__(
        self,
        request_id: int,
        encoded: bytes,
        outcome: "asyncio.Future[pb.AppendResult]",
        attempts: Attempts,
    ) -> None:
        self.request_id = request_id
        self.encoded = encoded
        self.outcome = outcome
        self.attempts = attempts
        self.sent_at: float | None = None


class Appender:
    """Takes a client's appends to the server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: deque[_Append] = deque()
        self._unanswered: dict[int, _Append] = {}
        self._unanswered_bytes = 0
        self._last_request_id = 0
        self._one_by_one = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._channel: io.Channel | None = None
        self._call: grpc.aio.StreamStreamCall[bytes, pb.AppendManyResponse] | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._sweep_at = 0.0
        self._last_failure: errors.TreeringError | None = None
        self._closing = False

    async def append(self, request: pb.AppendRequest, timeout: float | None) -> pb.AppendResponse:
        """Sends an append and waits for its result.

        Raises:
            TreeringError: It was refused, or its time was up.
        """
        self._connection.channel()  # Raises if the client is closed, or of another event loop.
        if self._closing:
            raise errors.ClientClosed("the client is closed")
        self._last_request_id = request_id = self._last_request_id + 1
        # Messages one after the other are one message with all their items, so that each is
        # encoded once, however often and in whatever company it is sent.
        message = pb.AppendManyRequest()
        item = message.items.add()
        item.request_id = request_id
        item.append.CopyFrom(request)
        loop = asyncio.get_running_loop()
        append = _Append(
            request_id,
            message.SerializeToString(),
            loop.create_future(),
            self._connection.attempts(timeout),
        )
        self._waiting.append(append)
        self._wake.set()
        self._sweep_by(append.attempts.deadline)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run())
        result = await append.outcome
        if result.HasField("failure"):
            raise errors.from_failure(result.failure)
        return result.appended

    async def close(self, grace: float) -> None:
        """Takes no more appends, waits so many seconds for those under way, ends the call."""
        self._closing = True
        under_way = [each.outcome for each in self._all() if not each.outcome.done()]
        if under_way and grace > 0:
            await asyncio.wait(under_way, timeout=grace)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._sweep is not None:
            self._sweep.cancel()
        self._fail_all(errors.ClientClosed("the client was closed"))

    def _all(self) -> Iterator[_Append]:
        return chain(self._unanswered.values(), self._waiting)

    async def _run(self) -> None:
        """Keeps a call open for as long as there are appends."""
        backoff = Backoff()
        try:
            while True:
                if not self._waiting:
                    self._wake.clear()
                    await self._wake.wait()
                failure = await self._over_one_call(backoff)
                delay = backoff.next(failure.retry_after)
                self._send_again_after(failure, delay)
                if self._waiting:
                    log.info("%s; sending appends again in %.2f s", failure, delay)
                    await asyncio.sleep(delay)
        except Exception as error:
            # A defect of ours must not leave anyone waiting for ever.
            self._fail_all(errors.TreeringError(f"the client failed: {error!r}"))
            raise

    async def _over_one_call(self, backoff: Backoff) -> errors.TreeringError:
        """Sends and receives until the call ends; answers why it did."""
        self._channel = self._connection.channel()
        self._call = call = self._channel.append_many()
        sender = asyncio.get_running_loop().create_task(self._send(call))
        try:
            while True:
                response = await call.read()
                if response is grpc.aio.EOF:
                    return _broken("the server ended the call")
                backoff.reset()
                self._answered(cast(pb.AppendManyResponse, response))
        except grpc.aio.AioRpcError as error:
            return io.failure(error)
        except asyncio.CancelledError:
            if io.task_is_cancelled():
                raise
            return _broken("nothing was answered in time")  # See _expire.
        finally:
            call.cancel()
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            self._call = None

    async def _send(self, call: "grpc.aio.StreamStreamCall[bytes, pb.AppendManyResponse]") -> None:
        """Sends what waits, whenever something does, until it is cancelled or the call ends,
        of which the receiver hears more."""
        while True:
            message = self._next_message()
            if message:
                await call.write(message)
            else:
                self._wake.clear()
                await self._wake.wait()

    def _next_message(self) -> bytes:
        """What to send now, and from now on unanswered. Empty: nothing."""
        parts: list[bytes] = []
        size = 0
        now = time.monotonic()
        while self._waiting:
            append = self._waiting[0]
            if append.outcome.done():  # Cancelled, or out of time.
                self._waiting.popleft()
                continue
            length = len(append.encoded)
            if parts and (self._one_by_one or size + length > MESSAGE_BYTES):
                break
            if self._unanswered and (
                self._one_by_one
                or len(self._unanswered) >= UNANSWERED_APPENDS
                or self._unanswered_bytes + length > UNANSWERED_BYTES
            ):
                break
            self._waiting.popleft()
            self._unanswered[append.request_id] = append
            self._unanswered_bytes += length
            append.sent_at = now
            parts.append(append.encoded)
            size += length
        if parts and self._one_by_one:
            self._one_by_one -= 1
        return b"".join(parts)

    def _answered(self, response: pb.AppendManyResponse) -> None:
        """Hands the results to those who wait for them."""
        for result in response.results:
            append = self._unanswered.pop(result.request_id, None)
            if append is None:
                continue
            self._unanswered_bytes -= len(append.encoded)
            if not append.outcome.done():
                append.outcome.set_result(result)
        if self._waiting:
            self._wake.set()

    def _send_again_after(self, failure: errors.TreeringError, delay: float) -> None:
        """Puts what the broken call left unanswered back in front, but for those that give
        up."""
        # The last results may have been on their way, and lost with the call.
        failure.outcome_unknown = True
        self._last_failure = failure
        left = [each for each in self._unanswered.values() if not each.outcome.done()]
        self._unanswered.clear()
        self._unanswered_bytes = 0
        if len(left) > 1 and failure.code in _ONE_MAY_BE_GUILTY and not may_pass(failure):
            # Sent one by one, the guilty one fails alone.
            self._one_by_one = len(left)
            again = left
        else:
            again = []
            now = time.monotonic()
            for append in left:
                own = copy.copy(failure)  # Each caller raises its own.
                if append.attempts.gives_up(own, delay, now):
                    append.outcome.set_exception(own)
                else:
                    again.append(append)
        self._waiting.extendleft(reversed(again))

    def _sweep_by(self, deadline: float | None) -> None:
        """Sees to it that appends whose time is up are told by then. One timer serves all."""
        if deadline is None or (self._sweep is not None and self._sweep_at <= deadline):
            return
        if self._sweep is not None:
            self._sweep.cancel()
        self._sweep_at = deadline
        delay = max(0.0, deadline - time.monotonic())
        self._sweep = asyncio.get_running_loop().call_later(delay, self._expire)

    def _expire(self) -> None:
        """Tells the appends whose time is up."""
        self._sweep = None
        now = time.monotonic() + TIMER_PRECISION_SECONDS
        next_deadline: float | None = None
        longest_wait: float | None = None
        for append in self._all():
            deadline = append.attempts.deadline
            if deadline is None or append.outcome.done():
                continue
            if deadline <= now:
                append.outcome.set_exception(self._out_of_time(append))
                if append.sent_at is not None:
                    longest_wait = max(longest_wait or 0.0, now - append.sent_at)
            elif next_deadline is None or deadline < next_deadline:
                next_deadline = deadline
        self._sweep_by(next_deadline)
        if (
            longest_wait is not None
            and self._call is not None
            and all(each.outcome.done() for each in self._unanswered.values())
        ):
            # Nothing that was sent is answered in time. A server that is stuck may forget what
            # nobody waits for, and if it has been long, the connection may be dead.
            if longest_wait >= DEAD_AFTER_SECONDS and self._channel is not None:
                self._connection.leave(self._channel)
            self._call.cancel()

    def _out_of_time(self, append: _Append) -> errors.TreeringError:
        sent = append.sent_at is not None
        if sent:
            message = "no answer in time: the append may have been recorded; repeat it with the "
            message += "same event ids"
        else:
            message = "the append could not be sent in time; nothing of it was recorded"
        error = errors.DeadlineExceeded(
            message, code=grpc.StatusCode.DEADLINE_EXCEEDED, outcome_unknown=sent
        )
        error.__cause__ = self._last_failure
        return error

    def _fail_all(self, error: errors.TreeringError) -> None:
        for append in self._all():
            if not append.outcome.done():
                own = copy.copy(error)
                own.outcome_unknown = append.sent_at is not None
                append.outcome.set_exception(own)
        self._unanswered.clear()
        self._unanswered_bytes = 0
        self._waiting.clear()


def _broken(message: str) -> errors.TreeringError:
    return errors.Unavailable(message, code=grpc.StatusCode.UNAVAILABLE, outcome_unknown=True)
