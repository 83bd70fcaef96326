"""One subscription: history first, then live, and back when it falls behind.

Runs on the event loop, driven by whoever takes what it yields: it makes the next batch
only when the one before was taken, so that a slow subscriber costs one batch of memory.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID

from treering_server.core.errors import LogDiverged, ShuttingDown, StreamDeleted
from treering_server.core.feed import Feed, FellOut, LiveQuery
from treering_server.core.model import StreamSource, Subscribe
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
    """Matching events, as `core.record.batch_of` makes them."""

    payload: bytes
    last_position: int
    """Of the last of them."""


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
    log_id: UUID | None = None
    """If the log has begun a new incarnation: its id from here on."""


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
        self._told = 0
        """The highest position that the subscriber was told."""
        self._log_id: UUID | None = None
        self._sent_at = time.monotonic()

    async def signals(self) -> AsyncIterator[Signal]:
        """All that is to be sent, for ever.

        Raises:
            Refusal: Why it was refused, or why it ends.
        """
        source = self._source
        query = events_of_stream(source.stream) if isinstance(source, StreamSource) else source
        # Before it is looked whether the stream is deleted, so that no deletion is missed.
        with self._feed.live(query) as live:
            head, self._position = await self._reader.start(self._subscribe)
            self._log_id = head.log_id
            yield self._told_now(Started(head.log_id, self._position, head.position))
            until = head.position
            while True:
                # Here and below: one that waits keeps nothing that was sent.
                async for signal in self._history(live, until):
                    yield self._told_now(signal)
                    del signal
                if self._is_left_behind():
                    yield self._told_now(await self._follow_log())
                elif self._feed.holds_after(self._position):
                    caught_up = CaughtUp(self._position, await self._event_id())
                    yield self._told_now(caught_up)
                    async for signal in self._live(live):
                        yield self._told_now(signal)
                        del signal
                    if not self._is_left_behind():
                        yield self._told_now(FellBehind(self._position))
                until = self._feed.head

    def _told_now(self, signal: Signal) -> Signal:
        """What is sent, and from now on known to the subscriber."""
        match signal:
            case (
                Started(_, position, _)
                | Events(_, position)
                | CaughtUp(position)
                | Heartbeat(position)
                | FellBehind(position)
            ):
                self._told = max(self._told, position)
        self._sent_at = time.monotonic()
        return signal

    def _is_left_behind(self) -> bool:
        """Whether the log may have begun a new incarnation."""
        return self._reader.log_id != self._log_id or self._feed.log_id != self._log_id

    async def _follow_log(self) -> FellBehind:
        """Goes on in the log's new incarnation, if that has all that was sent.

        Raises:
            LogDiverged: It has not.
        """
        self._check_stopping()
        await self._feed.look_again()
        assert self._log_id is not None
        state, common = await self._reader.last_common_position(self._log_id)
        if self._told > common:
            raise LogDiverged(state, common)
        self._position = min(self._position, common)
        self._log_id = state.log_id
        return FellBehind(self._position, state.log_id)

    async def _history(self, live: LiveQuery, until: int) -> AsyncIterator[Signal]:
        """What matches up to a position."""
        if self._position >= until:
            return
        walk = await self._reader.history(self._source, self._position, until)
        last = False
        while not last:
            self._check_deleted(live)
            reading = asyncio.create_task(self._reader.history_page(walk))
            try:
                while not reading.done():
                    self._check_stopping()
                    if self._silence_left() <= 0:
                        yield await self._heartbeat()
                    else:
                        await live.sleep(self._silence_left(), reading)
                self._check_stopping()
                page = reading.result()
            finally:
                reading.cancel()
            if self._is_left_behind():
                # It may be of a history that the subscriber does not know.
                return
            last = page.last
            self._position = until if last else page.looked_to
            if page.count:
                with self._reader.outgoing.waiting(page.payload):
                    yield Events(page.payload, page.last_position)
                del page
            elif self._silence_left() <= 0:
                yield await self._heartbeat()

    async def _live(self, live: LiveQuery) -> AsyncIterator[Signal]:
        """What comes, until the subscriber falls out of the ring, or the log loses its end."""
        while True:
            self._check_stopping()
            self._check_deleted(live)
            woken = live.woken
            if self._position < self._feed.head and not self._feed.is_fresh:
                # What waited in the ring may have been removed meanwhile by another server.
                await self._feed.look_again()
            if self._is_left_behind():
                return
            try:
                most_bytes = self._reader.outgoing.page_bytes
                batch = self._feed.batch(live, self._position, most_bytes)
            except FellOut:
                return
            self._position = batch.position
            if batch.payload:
                with self._reader.outgoing.waiting(batch.payload):
                    yield Events(batch.payload, batch.last_position)
                del batch
            elif self._silence_left() <= 0:
                yield await self._heartbeat()
            elif self._position >= self._feed.head:
                await self._wait(live, woken)

    async def _wait(self, live: LiveQuery, woken: "asyncio.Future[int]") -> None:
        """Waits for a match, silence or the end; meanwhile nothing matched, however far the
        ring moved on."""
        if not woken.done():
            await live.sleep(self._silence_left())
        quiet_to = woken.result() if woken.done() else self._feed.head
        self._position = max(self._position, quiet_to)

    def _silence_left(self) -> float:
        return self._sent_at + self._subscribe.heartbeat_seconds - time.monotonic()

    def _check_stopping(self) -> None:
        if self._stopping.done():
            raise ShuttingDown

    def _check_deleted(self, live: LiveQuery) -> None:
        if live.is_deleted and isinstance(self._source, StreamSource):
            raise StreamDeleted(self._source.stream)

    async def _heartbeat(self) -> Heartbeat:
        return Heartbeat(self._position, await self._event_id())

    async def _event_id(self) -> UUID | None:
        if self._position == 0:
            return None
        return self._feed.event_id(self._position) or await self._reader.event_id(self._position)
