"""How many callers of one client go on side by side: as tasks of an event loop or as threads.

What is measured is written once, as coroutines. In a thread a coroutine runs to its end without
ever giving way, since what it awaits blocks instead.
"""

import asyncio
import os
import sys
import threading
import time
import traceback
from collections.abc import Coroutine, Iterable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

STACK_BYTES = 256 * 1024
"""Of a thread: with the usual 8 MiB thousands of them would not fit."""


class Concurrency(Protocol):
    """How a contestant's client is made to do several things at once."""

    @staticmethod
    def run(main: Coroutine[Any, Any, T]) -> T:
        """Runs everything."""
        ...

    @staticmethod
    async def all(parts: Iterable[Coroutine[Any, Any, None]]) -> None:
        """Runs these side by side, and raises the first error among them."""
        ...

    @staticmethod
    async def sleep(seconds: float) -> None:
        """Waits, not at all if it is too late."""
        ...


class Tasks:
    """For clients with asyncio."""

    @staticmethod
    def run(main: Coroutine[Any, Any, T]) -> T:
        """Runs everything in an event loop."""
        return asyncio.run(main)

    @staticmethod
    async def all(parts: Iterable[Coroutine[Any, Any, None]]) -> None:
        """Runs these as tasks."""
        await asyncio.gather(*parts)

    @staticmethod
    async def sleep(seconds: float) -> None:
        """Waits."""
        await asyncio.sleep(seconds)


class Threads:
    """For clients whose calls block."""

    @staticmethod
    def run(main: Coroutine[Any, Any, T]) -> T:
        """Runs everything here."""
        try:
            main.send(None)
        except StopIteration as stop:
            result: T = stop.value
            return result
        raise RuntimeError("a client that blocks waited for an event loop")

    @staticmethod
    async def all(parts: Iterable[Coroutine[Any, Any, None]]) -> None:
        """Runs each in a thread. An error ends the process at once: threads can't be ended,
        and some would wait for ever for the one that failed."""
        threading.stack_size(STACK_BYTES)
        threads = [threading.Thread(target=_run, args=(part,)) for part in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    @staticmethod
    async def sleep(seconds: float) -> None:
        """Waits."""
        time.sleep(max(0, seconds))  # noqa: ASYNC251


def _run(part: Coroutine[Any, Any, None]) -> None:
    try:
        Threads.run(part)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
