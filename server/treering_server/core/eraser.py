"""Erases the content of removed events, soon after they were removed.

A task on the event loop that works in the loop's threads, some events at a time, and rests
as long as it worked: appends go on meanwhile. What was erased is marked with it, in one
transaction, so that it can be interrupted at any moment and goes on from there. Of several
servers over one database one erases at a time.

Runs when a stream was changed, and every now and then for what became too old or too many;
ends with `stop`.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog

from treering_server.core.errors import Refusal
from treering_server.core.record import parse
from treering_server.core.storage import CommitUnknown, ErasableEvent, RemovingStream, Storage

PERIOD_SECONDS = 1.0
"""Between two looks for what became too old or too many."""
LEAST_REST = 10
"""So many times as long as a look took it rests: with very many streams to look at, a look
takes long."""
LOCK_SECONDS = 5.0
STREAMS = 100
"""Streams looked at by one statement."""
ERASED_EVENTS, ERASED_BYTES = 500, 1024 * 1024
"""Erased in one transaction. Records are read for their tags."""

Result = TypeVar("Result")

_log = structlog.get_logger("treering.eraser")


@dataclass(slots=True)
class _Counts:
    events: int = 0
    streams: int = 0


class _Busy(Exception):
    """Another server erases."""


class Eraser:
    """Erases what is removed."""

    def __init__(self, storage: Storage) -> None:
        """Erases in a storage, once `start` is called."""
        self._storage = storage
        self._nudge = asyncio.Event()
        self._is_shredded = True
        self._erasing: asyncio.Task[None] | None = None
        self._work: asyncio.Future[Any] | None = None

    def start(self) -> None:
        """Begins."""
        self._erasing = asyncio.create_task(self._erase_for_ever())

    async def stop(self) -> None:
        """Ends, after the transaction that is open."""
        if self._erasing is not None:
            self._erasing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._erasing
        if self._work is not None:
            await asyncio.wait({self._work})

    def nudge(self) -> None:
        """Looks for something to erase now."""
        self._nudge.set()

    async def _in_thread(self, work: Callable[..., Result], *arguments: object) -> Result:
        """Does some work in a thread, which a stop waits for."""
        doing = asyncio.get_running_loop().run_in_executor(None, lambda: work(*arguments))
        self._work = doing
        # Where a stop comes in between, nobody asks how it ended.
        doing.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(doing)

    async def _erase_for_ever(self) -> None:
        pause = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._nudge.wait()
            self._nudge.clear()
            began = time.monotonic()
            try:
                while await self._erase_all():
                    began = time.monotonic()
            except _Busy:
                pass
            except (Refusal, CommitUnknown):
                pass  # The database is away, or full: others tell of it.
            except Exception:  # noqa: BLE001 - goes on with the next look
                _log.exception("defect in erasure")
            pause = max(PERIOD_SECONDS, LEAST_REST * (time.monotonic() - began))

    async def _erase_all(self) -> bool:
        """Erases what is removed now. False: there was nothing."""
        began = time.monotonic()
        counts = _Counts()
        try:
            after_id = 0
            while streams := await self._in_thread(self._storage.removing, after_id, STREAMS):
                await self._erase_some(streams, counts)
                after_id = streams[-1].id
        finally:
            if counts.events:
                self._is_shredded = False
                seconds = round(time.monotonic() - began, 3)
                _log.info("erased", events=counts.events, streams=counts.streams, seconds=seconds)
        if not self._is_shredded:
            self._is_shredded = await self._in_thread(self._storage.shred)
        return counts.events > 0

    async def _erase_some(self, streams: Sequence[RemovingStream], counts: _Counts) -> None:
        floors = {
            stream.id: stream.removed_version
            for stream in streams
            if stream.removed_version > stream.floor_version
        }
        if floors:
            await self._in_thread(self._raise_floors, floors)
        settled = []
        for stream in streams:
            if await self._erase_stream(stream, counts):
                counts.streams += 1
            if not stream.is_moving:
                settled.append(stream.id)
        if settled:
            await self._in_thread(self._settle, settled)

    async def _erase_stream(self, stream: RemovingStream, counts: _Counts) -> bool:
        """Erases a stream's removed events. False: there were none."""
        any_erased = False
        while stream.erased_version < stream.removed_version:
            began = time.monotonic()
            erased = await self._in_thread(self._erase_window, stream)
            stream = replace(stream, erased_version=erased[-1].version)
            counts.events += len(erased)
            any_erased = True
            await asyncio.sleep(time.monotonic() - began)
        return any_erased

    # What follows runs in a thread.

    def _raise_floors(self, floors: dict[int, int]) -> None:
        with self._storage.write(LOCK_SECONDS) as transaction:
            transaction.raise_floors(floors)
            transaction.commit()

    def _settle(self, stream_ids: Sequence[int]) -> None:
        with self._storage.write(LOCK_SECONDS) as transaction:
            transaction.settle(stream_ids)
            transaction.commit()

    def _erase_window(self, stream: RemovingStream) -> list[ErasableEvent]:
        events = self._storage.erasable(stream, ERASED_EVENTS, max_bytes=ERASED_BYTES)
        tags = [
            (tag, event.position)
            for event in events
            if event.record is not None
            for tag in parse(event.record).terms.tags
        ]
        if not self._storage.erase(stream.id, events, tags):
            raise _Busy
        return events
