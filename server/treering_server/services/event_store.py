"""EventStoreService: append to the log, read it, follow it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from treering_server.core.errors import InvalidRequest, Overloaded, Refusal, ShuttingDown, Violation
from treering_server.core.feed import Feed
from treering_server.core.model import Append, Appended, Read, Subscribe
from treering_server.core.reader import Reader
from treering_server.core.subscription import (
    CaughtUp,
    Events,
    FellBehind,
    Heartbeat,
    Signal,
    Started,
    Subscription,
)
from treering_server.core.writer import AppendCall, Writer
from treering_server.services import requests, responses
from treering_server.services.calls import Calls, Handler
from treering_server.services.intake import Context, Intake
from treering_server.services.requests import AppendItem

NAME = "treering.v1.EventStoreService"

SUBSCRIPTIONS_BYTES = 64 * 1024 * 1024
"""Requests of all open subscriptions together, whose queries stay in memory."""
ANSWERED_ITEMS = 256
"""Results in one response at most: to encode them holds up the loop."""
SUBMITTED_ITEMS = 64
"""Items submitted together, before the loop has its turn."""
UNANSWERED_ITEMS = 2_048
UNANSWERED_BYTES = 8 * 1024 * 1024
"""What one AppendMany call may have waiting before the server reads on."""
FINAL_REASONS = frozenset(
    {
        "VERSION_CONFLICT",
        "CONDITION_FAILED",
        "EVENT_ID_CONFLICT",
        "STREAM_DELETED",
        "INVALID_REQUEST",
        "POSITION_AHEAD_OF_LOG",
        "LOG_MISMATCH",
        "LOG_DIVERGED",
        "NOT_FOUND",
        "CONDITION_TOO_COSTLY",
    }
)
"""Why an append of many can be refused without ending the call: repeating it never helps."""


class EventStoreService:
    """Translates, and decides nothing."""

    def __init__(
        self,
        writer: Writer,
        reader: Reader,
        feed: Feed,
        intake: Intake,
        stopping: "asyncio.Future[None]",
        *,
        most_subscriptions: int,
    ) -> None:
        """Serves what it is given. `stopping` is done when the server goes away."""
        self._writer = writer
        self._reader = reader
        self._feed = feed
        self._intake = intake
        self._stopping = stopping
        self._most_subscriptions = most_subscriptions
        self._subscriptions = 0
        self._subscriptions_bytes = 0

    def handlers(self, calls: Calls) -> dict[str, Handler]:
        """The methods by name."""
        return {
            "Append": calls.unary("Append", requests.read_append, self.append),
            "AppendMany": calls.both_stream("AppendMany", self.append_many),
            "Read": calls.server_stream("Read", requests.read_read, self.read),
            "Subscribe": calls.server_stream("Subscribe", requests.read_subscribe, self.subscribe),
            "GetHead": calls.unary("GetHead", requests.read_get_head, self.get_head),
        }

    async def append(self, append: Append, context: Context) -> bytes:
        """See the proto file, as for all methods."""
        answer = await self._writer.submit(append, AppendCall(), context.time_remaining())
        return responses.appended(await answer)

    async def append_many(self, messages: AsyncIterator[bytes], context: Context) -> None:
        """See the proto file."""
        await _ManyAppends(self._writer, self._intake, context, self._stopping).run(messages)

    async def read(self, read: Read, context: Context) -> None:
        """See the proto file."""
        reading = await self._reader.read(read, context.time_remaining())
        state = (reading.head_position, reading.stream_version, reading.log_id)
        answered = False
        async for page in self._reader.pages(reading, read.limit):
            if self._stopping.done():
                raise ShuttingDown
            await context.write(responses.read_response(page.payload, *state))
            answered = True
            # A call that waits for its turn keeps nothing that was sent.
            del page
        if not answered:
            await context.write(responses.read_response(b"", *state))

    async def subscribe(self, subscribe: Subscribe, context: Context) -> None:
        """See the proto file."""
        if self._subscriptions >= self._most_subscriptions:
            raise Overloaded(f"this server has {self._subscriptions} subscriptions, its limit")
        if self._subscriptions_bytes + subscribe.size > SUBSCRIPTIONS_BYTES:
            raise Overloaded("the queries of this server's subscriptions are as large as may be")
        self._subscriptions += 1
        self._subscriptions_bytes += subscribe.size
        try:
            subscription = Subscription(subscribe, self._reader, self._feed, self._stopping)
            async for signal in subscription.signals():
                await context.write(_subscribe_response(signal))
                # Nor does one that waits for events.
                del signal
        finally:
            self._subscriptions -= 1
            self._subscriptions_bytes -= subscribe.size

    async def get_head(self, _request: None, _context: Context) -> bytes:
        """See the proto file."""
        return responses.head(await self._reader.head())


def _subscribe_response(signal: Signal) -> bytes:
    match signal:
        case Events(payload, _):
            # Not copied once more: of thousands who read slowly each has one on its way.
            return payload
        case Heartbeat(position, event_id):
            return responses.heartbeat(position, event_id)
        case CaughtUp(position, event_id):
            return responses.caught_up(position, event_id)
        case FellBehind(position, log_id):
            return responses.fell_behind(position, log_id)
        case Started(log_id, after_position, head_position):
            return responses.started(log_id, after_position, head_position)


_Outcome: TypeAlias = "asyncio.Future[Appended] | Refusal"


@dataclass(slots=True)
class _Item:
    request_id: int
    size: int
    outcome: _Outcome

    @property
    def settled(self) -> bool:
        return isinstance(self.outcome, Refusal) or self.outcome.done()

    async def result(self) -> Appended | Refusal:
        """What is answered.

        Raises:
            Exception: What ends the call instead.
        """
        if isinstance(self.outcome, Refusal):
            return self.outcome
        try:
            return await self.outcome
        except Refusal as refusal:
            if refusal.reason not in FINAL_REASONS:
                raise
            return refusal.alone()


class _ManyAppends:
    """One AppendMany call: one task submits what comes, another answers in order.

    What ends the reading of requests is told only when everything before it is answered.
    """

    def __init__(
        self,
        writer: Writer,
        intake: Intake,
        context: Context,
        stopping: "asyncio.Future[None]",
    ) -> None:
        self._writer = writer
        self._intake = intake
        self._context = context
        self._stopping = stopping
        self._call = AppendCall()
        self._unanswered: deque[_Item] = deque()
        self._request_ids: set[int] = set()
        self._bytes = 0
        self._results = responses.AppendResults()
        self._submitted = asyncio.Event()
        self._answered = asyncio.Event()

    async def run(self, messages: AsyncIterator[bytes]) -> None:
        """Ends when all is answered, or raises what ends the call."""
        submitting = asyncio.create_task(self._submit_all(messages))
        submitting.add_done_callback(lambda _: self._submitted.set())
        ending = asyncio.create_task(self._stop_reading(submitting))
        try:
            await self._answer_all(submitting)
            if submitting.cancelled():
                raise ShuttingDown
            submitting.result()
        finally:
            # What still waits must not be recorded behind something that was not.
            self._call.broken = True
            submitting.cancel()
            ending.cancel()
            await asyncio.gather(submitting, ending, return_exceptions=True)
            for item in self._unanswered:
                if isinstance(item.outcome, asyncio.Future):
                    item.outcome.cancel()

    async def _stop_reading(self, submitting: "asyncio.Task[None]") -> None:
        await asyncio.wait({self._stopping, submitting}, return_when=asyncio.FIRST_COMPLETED)
        submitting.cancel()

    async def _submit_all(self, messages: AsyncIterator[bytes]) -> None:
        async for message in messages:
            items = await self._intake.decode(message, requests.read_append_many)
            for start in range(0, len(items), SUBMITTED_ITEMS):
                while len(self._unanswered) >= UNANSWERED_ITEMS or self._bytes >= UNANSWERED_BYTES:
                    self._answered.clear()
                    await self._answered.wait()
                await self._writer.room(self._call)
                some = items[start : start + SUBMITTED_ITEMS]
                await self._submit(some)
                if len(some) == SUBMITTED_ITEMS:
                    await asyncio.sleep(0)

    async def _submit(self, items: Sequence[AppendItem]) -> None:
        """Submits items in their order, those together that nothing comes between."""
        ready: list[tuple[int, Append]] = []
        for request_id, append in items:
            is_used = request_id in self._request_ids
            self._request_ids.add(request_id)
            if not is_used and isinstance(append, Append) and not self._writer.must_look(append):
                ready.append((request_id, append))
                continue
            self._queue(ready)
            ready = []
            if is_used:
                violation = Violation("items.request_id", f"{request_id} is not answered yet")
                raise InvalidRequest((violation,))
            if isinstance(append, Refusal):
                self._note(request_id, 0, append)
            else:
                seconds = self._context.time_remaining()
                answer = await self._writer.submit(append, self._call, seconds)
                self._note(request_id, append.size, answer)
        self._queue(ready)

    def _queue(self, ready: Sequence[tuple[int, Append]]) -> None:
        if ready:
            appends = [append for _, append in ready]
            seconds = self._context.time_remaining()
            answers = self._writer.submit_all(appends, self._call, seconds)
            for (request_id, append), answer in zip(ready, answers, strict=True):
                self._note(request_id, append.size, answer)

    def _note(self, request_id: int, size: int, outcome: "_Outcome") -> None:
        self._unanswered.append(_Item(request_id, size, outcome))
        self._bytes += size
        self._submitted.set()

    async def _answer_all(self, submitting: "asyncio.Task[None]") -> None:
        while self._unanswered or not submitting.done():
            if not self._unanswered:
                self._submitted.clear()
                await self._submitted.wait()
                continue
            results: list[bytes] = []
            try:
                while (
                    self._unanswered
                    and len(results) < ANSWERED_ITEMS
                    and (not results or self._unanswered[0].settled)
                ):
                    item = self._unanswered[0]
                    results.append(self._results.encode(item.request_id, await item.result()))
                    self._unanswered.popleft()
                    self._request_ids.discard(item.request_id)
                    self._bytes -= item.size
            finally:
                self._answered.set()
                if results:
                    await self._context.write(responses.append_many(results))
