"""A subscription: history, then live, over as many connections as it takes."""

import logging
import math
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import grpc

from treering import errors
from treering._async import io
from treering._async.connection import Connection
from treering.channels import DEAD_AFTER_SECONDS
from treering.checkpoints import (
    CaughtUp,
    Checkpoint,
    FellBehind,
    Heartbeat,
    Sign,
    Started,
)
from treering.events import RecordedEvent, recorded_events
from treering.responses import SubscribeResponse
from treering.resume import SubscriptionProgress
from treering.retry import Attempts, Backoff
from treering.times import to_timedelta
from treering.v1 import event_store_service_pb2 as pb

log = logging.getLogger("treering")

# The server's, where a subscription asks for no other.
HEARTBEAT_SECONDS = 10.0
SILENT_HEARTBEATS = 3


class AsyncSubscription:
    """Events as they are recorded, after those that were: an iterator without end.

    ```python
    async with client.subscribe(query=query, after=stored_checkpoint) as subscription:
        async for event in subscription.events():
            await handle(event)
            await store(subscription.checkpoint)
    ```

    Iterating over the subscription itself also gives the signs between events: `Started`,
    `CaughtUp`, `FellBehind`, `Heartbeat`. Pass over what you don't know: newer versions may
    give more.

    Every matching event comes exactly once and in order, also over broken connections and
    restarts of the server: the subscription connects again by itself, for as long as it takes,
    and goes on after the last event handed out. It ends when it or its client is closed, and
    with an exception when going on makes no sense (`LogDiverged`, `StreamDeleted`, …) or when
    no connection could be made at all in the beginning.
    """

    def __init__(
        self,
        connection: Connection,
        request: pb.SubscribeRequest,
        *,
        max_silence: float | None,
        timeout: float | None,
    ) -> None:
        heartbeat = HEARTBEAT_SECONDS
        if request.HasField("heartbeat_interval"):
            heartbeat = to_timedelta(request.heartbeat_interval).total_seconds()
        self._connection = connection
        self._timeout = timeout
        self._max_silence = SILENT_HEARTBEATS * heartbeat if max_silence is None else max_silence
        self._progress = SubscriptionProgress(request)
        self._channel: io.Channel | None = None
        self._responses: io.Responses[SubscribeResponse] | None = None
        self._is_connected = False
        # Of the last response; those before the index were handed out.
        self._events: list[RecordedEvent] = []
        self._index = 0
        self._caught_up = False
        self._error: errors.TreeringError | None = None
        self._closed = io.Flag()
        self._ended = False  # The same, for a quick look with every event.
        # They outlive one step, which may be cancelled by its caller and taken again.
        self._attempts: Attempts | None = None
        self._backoff = Backoff()
        self._in_trouble = False
        connection.keep(self)

    @property
    def checkpoint(self) -> Checkpoint:
        """Up to where everything was handed out: what to store when the last item handed out
        is done with, and to give back as `subscribe(after=...)`. Heartbeats and the like move
        it, too. Its position is 0 and its log id is empty before the first `Started`, unless
        the subscription began with a checkpoint.
        """
        checkpoint = self._progress.checkpoint
        if self._index:
            event = self._events[self._index - 1]
            return Checkpoint(checkpoint.log_id, event.position, str(event.id))
        return checkpoint

    @property
    def caught_up(self) -> bool:
        """Whether all history was handed out and what comes is live. False again while the
        subscription connects anew or has fallen behind."""
        return self._caught_up

    async def events(self) -> AsyncIterator[RecordedEvent]:
        """The events alone, without the signs between them."""
        async for item in self:
            if isinstance(item, RecordedEvent):
                yield item

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RecordedEvent | Sign:
        while True:
            # Nothing is called between taking an event and returning it, so that Ctrl-C can't
            # strike in between and lose it.
            events, index = self._events, self._index
            if index < len(events) and not self._ended:
                self._index = index + 1
                return events[index]
            self._note_handed_out()
            try:
                response = await self._next_response()
                if response is None:
                    raise StopAsyncIteration
                sign = self._take(response)
            except KeyboardInterrupt:
                # A response may have been lost; a new call brings it again.
                self._drop_call()
                raise
            if sign is not None:
                return sign

    async def close(self) -> None:
        """Ends the subscription; iterating ends, too. Repeating it does nothing."""
        self.end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    def __del__(self) -> None:
        # An iterator that a loop was left with; a generator would be closed as well.
        responses = getattr(self, "_responses", None)
        if responses is not None:
            responses.close()

    def end(self) -> None:
        """What `close` does, for the client, which closes without waiting."""
        # What was fetched but not handed out is not lost: the checkpoint lies before it.
        self._ended = True
        self._closed.set()
        if self._responses is not None:
            self._responses.close()

    def _note_handed_out(self) -> None:
        """Moves the progress on to the last event handed out, before the next response."""
        if self._index:
            event = self._events[self._index - 1]
            self._progress.reached(event.position, str(event.id))
            self._events, self._index = [], 0

    def _take(self, response: SubscribeResponse) -> Sign | None:
        """Takes in a response. If it is a sign, and one that this version knows, answers it."""
        match response.WhichOneof("content"):
            case "events":
                self._recovered()
                events = recorded_events(response.events.events)
                self._events, self._index = events, 0
                return None
            case "caught_up":
                self._caught_up = True
                self._progress.reached(response.caught_up.position, response.caught_up.event_id)
                return CaughtUp(self._progress.checkpoint)
            case "heartbeat":
                self._recovered()
                self._progress.reached(response.heartbeat.position, response.heartbeat.event_id)
                return Heartbeat(self._progress.checkpoint)
            case "started":
                if not self._progress.started:
                    # The timeout is for getting there; from now on it is kept up for ever.
                    self._attempts = Attempts(None, None)
                self._progress.accepted(response.started)
                return Started(
                    log_id=response.started.log_id,
                    after_position=response.started.after_position,
                    head_position=response.started.head_position,
                )
            case "fell_behind":
                self._caught_up = False
                if response.fell_behind.log_id:
                    self._progress.forked(response.fell_behind.log_id)
                return FellBehind(response.fell_behind.position, response.fell_behind.log_id)
            case _:
                return None

    async def _next_response(self) -> SubscribeResponse | None:
        """The next response, over a new connection if the one at hand breaks. None: closed."""
        if self._attempts is None:
            self._attempts = self._connection.attempts(self._timeout)
        while not self._closed.is_set():
            if self._error is not None:
                raise self._error
            try:
                return await self._receive(self._attempts)
            except errors.TreeringError as error:
                self._responses = None
                self._caught_up = False
                if self._closed.is_set():
                    break
                delay = self._backoff.next(error.retry_after)
                if self._attempts.gives_up(error, delay, time.monotonic()):
                    self._error = error
                    raise
                self._in_trouble = True
                log.info("a subscription broke off and goes on in %.2f s: %s", delay, error)
            await self._closed.wait(delay)
        return None

    def _drop_call(self) -> None:
        if self._responses is not None:
            self._responses.close()
            self._responses = None

    async def _receive(self, attempts: Attempts) -> SubscribeResponse:
        """The next response of the connection at hand, which is made if there is none."""
        if self._responses is None:
            self._is_connected = False
            self._channel = self._connection.channel()
            self._responses = io.Responses(self._channel.subscribe, self._progress.next_request())
        patience = self._max_silence
        if not self._is_connected:
            patience = max(patience, DEAD_AFTER_SECONDS)
        remaining = attempts.remaining(time.monotonic())
        if remaining is not None:
            patience = min(patience, remaining)
        try:
            response = await self._responses.next(None if patience == math.inf else patience)
        except errors.DeadlineExceeded as error:
            # Silence where there should be heartbeats: the connection is dead.
            if self._channel is not None:
                self._connection.leave(self._channel)
                self._channel = None
            raise errors.Unavailable(error.message, code=grpc.StatusCode.UNAVAILABLE) from error
        if response is None:
            raise errors.Unavailable(
                "something ended the subscription that may not", code=grpc.StatusCode.UNAVAILABLE
            )
        self._is_connected = True
        return response

    def _recovered(self) -> None:
        """Notes that the connection is of use. A start alone does not count: a server may
        accept and fail again and again."""
        if self._in_trouble:
            self._in_trouble = False
            self._backoff.reset()
            self._attempts = Attempts(None, None)
