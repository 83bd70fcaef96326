"""A server in a trial, and the two ways on which it can be cut off."""

import asyncio
import random
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psutil

from clocks import Clock
from databases import free_port, url_at
from failover import Switch
from proxy import Proxy
from servers import ServerProcess
from treering_server.core.failpoints import STEPS

FEEDS = (3_000, 10_000, 60_000)
"""So small a ring that subscribers fall out of it, and cross the seam again and again."""
ENDS = {-signal.SIGKILL, 1}
"""How a server may end: killed, or refusing to start over a database that is away."""
UNLOCKED = {"before_lock", "after_commit"}
"""Steps of an append at which the append lock is not held."""


@dataclass(frozen=True)
class Fate:
    """What a server comes to at a step of an append, when it is there for the n-th time."""

    step: str
    number: int
    is_death: bool
    """Or it freezes."""

    def __str__(self) -> str:
        """As the server takes it."""
        return f"{self.step}:{self.number}:{'SIGKILL' if self.is_death else 'SIGSTOP'}"

    @property
    def holds_lock(self) -> bool:
        """Whether it comes while the append lock is held."""
        return self.step not in UNLOCKED


def drawn(rng: random.Random) -> Fate | None:
    """A fate, or none."""
    fate = Fate(rng.choice(STEPS), rng.randrange(1, 30), rng.random() < 0.5)
    return fate if rng.random() < 0.7 else None


class Site:
    """One server, killed and started again at the same place."""

    def __init__(self, database_url: str, clock: Clock | None, stack: ExitStack) -> None:
        self._port = free_port()
        self._url = database_url
        self.clock = clock
        self.to_database: Switch | None = None
        if not database_url.startswith("sqlite"):
            target = urlsplit(database_url)
            self.to_database = stack.enter_context(Switch(f"{target.hostname}:{target.port}"))
            self._url = url_at(database_url, self.to_database.port)
        self.to_clients = stack.enter_context(Proxy(f"127.0.0.1:{self._port}"))
        self.process: ServerProcess | None = None
        self.fate: Fate | None = None
        self.start_seconds = 0.0
        """What the last start took."""
        self.logs: list[str] = []
        self._turn = asyncio.Lock()
        stack.callback(self.kill)

    @property
    def is_busy(self) -> bool:
        """Whether somebody is restarting it."""
        return self._turn.locked()

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self.process is not None and self.process.is_running

    @property
    def is_frozen(self) -> bool:
        """Whether it lives, and was stopped."""
        if self.process is None or not self.process.is_running:
            return False
        return bool(psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED)

    async def restart(self, rng: random.Random) -> None:
        """Kills it and starts it again, perhaps such that it dies, or freezes, at a step of an
        append."""
        feed_bytes, fate = rng.choice(FEEDS), drawn(rng)
        async with self._turn:
            await asyncio.to_thread(self.kill)
            await asyncio.to_thread(self.start, feed_bytes, fate)

    async def tend(self) -> None:
        """Sees to it that it runs."""
        async with self._turn:
            if self.is_running:
                self.resume()
            else:
                await asyncio.to_thread(self.kill)
                await asyncio.to_thread(self.start)

    def start(self, feed_bytes: int = FEEDS[0], fate: Fate | None = None) -> None:
        """Starts it, and waits until it listens or is dead."""
        began = time.monotonic()
        self.fate = fate
        settings: dict[str, Any] = {"fail_point": fate} if fate is not None else {}
        self.process = ServerProcess(
            self._url,
            listen=f"127.0.0.1:{self._port}",
            variables=None if self.clock is None else self.clock.variables,
            feed_bytes=feed_bytes,
            log_format="json",
            **settings,
        )
        try:
            self.process.wait_until_ready()
        except AssertionError:
            # At a fail point, or of a database that was away: then it is started again.
            if self.process.is_running:
                raise
        self.start_seconds = time.monotonic() - began

    def resume(self) -> None:
        """Lets it go on, if it was frozen."""
        if self.process is not None and self.process.is_running:
            self.process.resume()

    def kill(self) -> None:
        """Kills it, if it lives.

        Raises:
            AssertionError: It had crashed by itself.
        """
        if self.process is not None:
            if not self.process.is_running:
                code = self.process.wait()
                assert code in ENDS, f"a server ended with {code}: {self.process.text}"
            self.process.kill()
            self.logs += self.process.output
            self.process = None
