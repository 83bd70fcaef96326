"""Threads that read: callers have their turns, and the event loop is woken once for many results.

The loop's own executor takes one caller's reads before the next one's, and wakes the loop for each.
"""

import asyncio
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

from treering_server.core.queue import FairQueue
from treering_server.core.turns import caller

T = TypeVar("T")


@dataclass(slots=True)
class _Read:
    """What is to be read, and who waits for it."""

    future: "asyncio.Future[Any]"
    work: Callable[..., Any]
    arguments: tuple[object, ...]


class ReadThreads:
    """So many reads at a time, each in a thread. When more wait, callers have their turns one
    after the other, however much each of them has waiting. Belongs to one loop."""

    def __init__(self, number: int) -> None:
        """Starts so many threads."""
        self._lock = threading.Lock()
        # How many may wait is the bound on open calls.
        self._waiting: FairQueue[_Read] = FairQueue(sys.maxsize)
        self._signals: SimpleQueue[bool] = SimpleQueue()
        """True for each that waits. False ends a thread."""
        self._done: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._loop_is_woken = False
        self._threads = [
            # One that waits for a database that does not answer must not keep the process.
            threading.Thread(target=self._run, name=f"reader-{n}", daemon=True)
            for n in range(number)
        ]
        for thread in self._threads:
            thread.start()

    async def read(self, work: Callable[..., T], *arguments: object) -> T:
        """Does some work that reads, when it is the caller's turn.

        Raises:
            Exception: What the work raises.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        who = caller.get()
        with self._lock:
            self._waiting.admit(who, 1)
            self._waiting.put(who, 1, _Read(future, work, arguments))
        self._signals.put(True)
        return await future

    def close(self, seconds: float) -> bool:
        """Ends the threads, which finish what waits before.

        Returns:
            Whether they did, in time.
        """
        for _ in self._threads:
            self._signals.put(False)
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _deliver(self) -> None:
        """Hands over what is there. In the loop."""
        # Before it is looked at: what comes from here on wakes the loop again.
        self._loop_is_woken = False
        while self._done:
            future, result, error = self._done.popleft()
            if future.done():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

    # What follows runs in the threads.

    def _run(self) -> None:
        while self._signals.get():
            self._read_next()

    def _read_next(self) -> None:
        with self._lock:
            read = self._waiting.take()
        future = read.future
        if future.done():
            # Who asked is gone.
            return
        try:
            self._done.append((future, read.work(*read.arguments), None))
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            self._done.append((future, None, error))
        if not self._loop_is_woken:
            self._loop_is_woken = True
            # The loop may be gone, and with it whoever asked.
            with suppress(RuntimeError):
                future.get_loop().call_soon_threadsafe(self._deliver)
