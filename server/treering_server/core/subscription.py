"""One subscription: history first, then live, and back when it falls behind.

Runs on the event loop, driven by whoever takes what it yields: it makes the next batch
only when the one before was taken, so that a slow subscriber costs one batch of memory.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

from treering_server.core.errors import ShuttingDown
from treering_server.core.feed import Feed, FellOut, LiveQuery
from treering_server.core.model import StreamSource, Subscribe
from treering_server.core.pages import Page
from treering_server.core.query import events_of_stream
from treering_server.core.reader import Reader


@dataclass(frozen=True, slots=True)
class Started:
    """The subscription is accepted."""

    log_id: UUID
    after_position: int
    head_position: int


@dataclass(frozen=True, slots=True)
class Events:
    """Matching events, joined as they are sent."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """All history was sent."""

    position: int
    event_id: UUID | None


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Nothing was sent for a while."""

    position: int
    event_id: UUID | None


@dataclass(frozen=True, slots=True)
class FellBehind:
    """It reads history again."""

    position: int


Signal: TypeAlias = Started | Events | CaughtUp | Heartbeat | FellBehind


class Subscription:
    """What one subscriber gets."""

    def __init__(
        self, subscribe: Subscribe, reader: Reader, feed: Feed, stopping: "asyncio.Future[None]"
    ) -> None:
        """Nothing is looked at before `signals` is iterated.

        Args:
            subscribe: What to follow.
            reader: Reads history.
            feed: The live end.
            stopping: Done when the server goes away.
        """
        self._subscribe = subscribe
        self._source = subscribe.source
        self._reader = reader
        self._feed = feed
        self._stopping = stopping
        self._position = 0
        """Everything up to here was looked at, and sent if it matched."""
        self._sent_at = time.monotonic()

    async def signals(self) -> AsyncIterator[Signal]:
        """All that is to be sent, for ever.

        Raises:
            Refusal: Why it was refused, or why it ends.
        """
        head, self._position = await self._reader.start(self._subscribe)
        yield Started(head.log_id, self._position, head.position)
        self._sent_at = time.monotonic()
        until = head.position
        query = (
            events_of_stream(self._source.stream)
            if isinstance(self._source, StreamSource)
            else self._source
        )
        with self._feed.live(query) as live:
            while True:
                async for signal in self._history(until):
                    yield signal
                    self._sent_at = time.monotonic()
                if self._feed.holds_after(self._position):
                    yield CaughtUp(self._position, await self._event_id())
                    self._sent_at = time.monotonic()
                    async for signal in self._live(live):
                        yield signal
                        self._sent_at = time.monotonic()
                    yield FellBehind(self._position)
                    self._sent_at = time.monotonic()
                until = self._feed.head

    async def _history(self, until: int) -> AsyncIterator[Signal]:
        """What matches up to a position."""
        if self._position >= until:
            return
        walk = await self._reader.history(self._source, self._position, until)
        last = False
        while not last:
            reading = asyncio.create_task(self._reader.history_page(walk))
            try:
                while not await self._done_in_time(reading):
                    yield await self._heartbeat()
                page = reading.result()
            finally:
                reading.cancel()
            last = page.last
            self._position = until if last else page.looked_to
            if page.count:
                yield Events(page.payload)
            elif self._silence_left() <= 0:
                yield await self._heartbeat()

    async def _done_in_time(self, reading: "asyncio.Task[Page]") -> bool:
        """Waits for a page, or until it is time for a heartbeat."""
        self._check_stopping()
        ends: set[asyncio.Future[Any]] = {reading, self._stopping}
        await asyncio.wait(
            ends,
            timeout=max(self._silence_left(), 0),
            return_when=asyncio.FIRST_COMPLETED,
        )
        self._check_stopping()
        return reading.done()

    async def _live(self, live: LiveQuery) -> AsyncIterator[Signal]:
        """What comes, until the subscriber falls out of the ring."""
        while True:
            self._check_stopping()
            woken = live.woken
            try:
                batch = self._feed.batch(live, self._position)
            except FellOut:
                return
            self._position = batch.position
            if batch.payload:
                yield Events(batch.payload)
            elif self._silence_left() <= 0:
                yield await self._heartbeat()
            elif self._position >= self._feed.head:
                await self._wait(woken)

    async def _wait(self, woken: "asyncio.Future[int]") -> None:
        """Waits for a match, silence or the end; meanwhile nothing matched, however far the
        ring moved on."""
        ends: set[asyncio.Future[Any]] = {woken, self._stopping}
        await asyncio.wait(
            ends,
            timeout=max(self._silence_left(), 0),
            return_when=asyncio.FIRST_COMPLETED,
        )
        quiet_to = woken.result() if woken.done() else self._feed.head
        self._position = max(self._position, quiet_to)

    def _silence_left(self) -> float:
        return self._sent_at + self._subscribe.heartbeat_seconds - time.monotonic()

    def _check_stopping(self) -> None:
        if self._stopping.done():
            raise ShuttingDown

    async def _heartbeat(self) -> Heartbeat:
        return Heartbeat(self._position, await self._event_id())

    async def _event_id(self) -> UUID | None:
        if self._position == 0:
            return None
        return self._feed.event_id(self._position) or await self._reader.event_id(self._position)
