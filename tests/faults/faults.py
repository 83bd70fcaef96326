"""What breaks in a trial. Three hands do it, at the same time and each by a choice of its own: one
at the servers, one at the ways between, one at the database."""

import asyncio
import fcntl
import os
import random
import resource
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import psutil
import psycopg

from clocks import Clock
from grounds import Ground, PostgresGround, SqliteGround, connected
from proxy import FAST, Pace, Proxy
from sites import Site

Fault = Callable[[], Awaitable[None]]
Note = Callable[[str], None]

PAUSES = (0.1, 0.3, 0.5, 0.1, 0.3, 0.5, 0.1, 0.3, 0.5, 0.1, 3.0, 6.5)
"""Some longer than the append lock may be held idle, one three times that long."""
HOLDS = (0.2, 0.5, 0.2, 0.5, 0.2, 0.5, 1.0, 6.5)
"""Some longer than the append lock is waited for."""
USUAL_START_SECONDS = 1.0
"""What a server takes to start on two cores that nobody else uses, and some more."""
HOUR, DAY = 3_600, 86_400
PACES = (Pace(0.3), Pace(0.0, 1), Pace(0.02, 1_000))
"""Far away; one byte at a time; little bandwidth."""


class Hand:
    """Breaks one thing after another. Each kind has its turn before any comes again."""

    faults: Sequence[Fault]
    rest_seconds: float
    """Between two faults at most, so that something is done in the meantime."""

    def __init__(self, rng: random.Random, note: Note, sites: Sequence[Site]) -> None:
        self.rng = rng
        self.note = note
        self.sites = sites

    async def run(self, until: float) -> None:
        """Goes on until then; what it began is mended at the end."""
        deck: list[Fault] = []
        while time.monotonic() < until:
            await asyncio.sleep(self.rng.random() * self.rest_seconds + self._slowness)
            deck = deck or self.rng.sample(self.faults, len(self.faults))
            await deck.pop()()

    @property
    def _slowness(self) -> float:
        """On a busy machine a server would be killed before it has done anything."""
        slowest = max(site.start_seconds for site in self.sites)
        return max(0.0, slowest - USUAL_START_SECONDS)


@asynccontextmanager
async def tended(rng: random.Random, note: Note, sites: Sequence[Site]) -> AsyncIterator[None]:
    """While what was begun goes on: starts those servers again that died of their fate, and lets
    those go on that froze by it. Who waits for one of them must be in here."""
    tending = asyncio.create_task(_tend(rng, note, sites))
    try:
        yield
    finally:
        await end(tending)


async def _tend(rng: random.Random, note: Note, sites: Sequence[Site]) -> None:
    while True:
        await asyncio.sleep(0.05)
        for site in sites:
            fate = site.fate
            if site.is_busy or site.process is None:
                continue
            if not site.process.is_running:
                if fate is not None and site.process.wait() == -signal.SIGKILL:
                    note("server killed")
                    note(f"server killed {fate.step.replace('_', ' ')}")
                await site.restart(rng)
            elif fate is not None and not fate.is_death and site.is_frozen:
                site.fate = None
                note("lock holder paused" if fate.holds_lock else "server paused")
                await asyncio.sleep(rng.choice(PAUSES))
                site.resume()


async def end(task: asyncio.Task[None]) -> None:
    """Cancels a task, and raises what it died of before."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


class AtServers(Hand):
    """Kills, freezes, and sets clocks."""

    rest_seconds = 1.4

    def __init__(self, rng: random.Random, note: Note, sites: Sequence[Site], ground: Ground):
        super().__init__(rng, note, sites)
        self._ground = ground
        self.faults = [self._kill] * 4 + [self._pause] * 2
        if isinstance(ground, PostgresGround):
            self.faults.append(self._pause_lock_holder)
        if ground.setting == "clocks":
            self.faults += [self._set_clock] * 3

    async def _kill(self) -> None:
        site = self.rng.choice(self.sites)
        self.note("server killed")
        await site.restart(self.rng)

    async def _pause(self) -> None:
        site, seconds = self.rng.choice(self.sites), self.rng.choice(PAUSES)
        if site.process is not None and site.is_running:
            self.note("server paused")
            site.process.pause()
            await asyncio.sleep(seconds)
            site.resume()

    async def _pause_lock_holder(self) -> None:
        """Freezes a server again and again until it is between two statements of an append."""
        site, seconds = self.rng.choice(self.sites), self.rng.choice(PAUSES)
        for _ in range(20):
            if site.process is None or not site.is_running:
                return
            site.process.pause()
            try:
                # What it had sent is done by the database in no time; it then waits.
                first = await asyncio.to_thread(held_idle, self._ground.url)
                await asyncio.sleep(0.05)
                if first and first == await asyncio.to_thread(held_idle, self._ground.url):
                    self.note("lock holder paused")
                    await asyncio.sleep(seconds)
                    return
            except psycopg.Error:
                return
            finally:
                site.resume()
            await asyncio.sleep(0.02)

    async def _set_clock(self) -> None:
        clock = self.rng.choice(self.sites).clock
        assert clock is not None
        self.note("clock of a server set")
        clock.set(moved(self.rng))


def moved(rng: random.Random) -> int:
    """Where a clock may be set to, in seconds from now."""
    to_1970 = -int(time.time()) + 60
    return rng.choice([HOUR, -HOUR, DAY, -DAY, to_1970, 0, rng.randrange(-5, 5)])


class AtWays(Hand):
    """Cuts, delays and slices what goes between clients, servers and the database."""

    rest_seconds = 1.2

    def __init__(self, rng: random.Random, note: Note, sites: Sequence[Site]):
        super().__init__(rng, note, sites)
        self._ways = [(site.to_clients, "clients") for site in sites]
        self._ways += [(site.to_database, "the database") for site in sites if site.to_database]
        self.faults = [self._cut, self._cut, self._lose_answers, self._lose_answers]
        self.faults += [self._freeze, *(self._slow_down for _ in PACES)]
        self._paces: list[Pace] = []

    def _way(self, what: str) -> Proxy:
        way, whom = self.rng.choice(self._ways)
        self.note(f"{what} {whom}")
        return way

    async def _cut(self) -> None:
        way = self._way("cut off from")
        way.refuse()
        await asyncio.sleep(self.rng.random() * 0.3)
        way.accept()

    async def _lose_answers(self) -> None:
        way = self._way("answers lost to")
        way.hold_answers()
        await asyncio.sleep(self.rng.random() * 0.3)
        way.cut()
        way.flow()

    async def _freeze(self) -> None:
        """Half-open: nobody is told. By the end who has keepalive would have given it up."""
        way = self._way("half-open to")
        way.freeze()
        await asyncio.sleep(self.rng.random() * 2)
        way.cut()

    async def _slow_down(self) -> None:
        self._paces = self._paces or self.rng.sample(PACES, len(PACES))
        way = self._way("slow to")
        way.go(self._paces.pop())
        await asyncio.sleep(self.rng.random())
        way.go(FAST)


class AtSqlite(Hand):
    """Fills the disk, and locks the file as another program might."""

    rest_seconds = 4.0

    def __init__(
        self, rng: random.Random, note: Note, sites: Sequence[Site], ground: SqliteGround
    ) -> None:
        super().__init__(rng, note, sites)
        [self._site] = sites
        self._path = ground.path
        self.faults = [self._fill, self._fill, self._hold_lock]

    async def _fill(self) -> None:
        """No file of the server's may grow beyond what the largest has come to."""
        process = self._site.process
        if process is None or not self._site.is_running:
            return
        files = [self._path, self._path.with_name(self._path.name + "-wal")]
        sizes = [file.stat().st_size for file in files if file.exists()]
        with suppress(psutil.NoSuchProcess):
            limited = psutil.Process(process.pid)
            limited.rlimit(resource.RLIMIT_FSIZE, (max(sizes, default=0), resource.RLIM_INFINITY))
            self.note("disk full")
            await asyncio.sleep(self.rng.random() * 1.5)
            unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            limited.rlimit(resource.RLIMIT_FSIZE, unlimited)

    async def _hold_lock(self) -> None:
        """The lock of those who write to the WAL file, by its place in the file beside it. A
        connection of ours might be the last one to be closed, and empty the WAL file."""
        with suppress(FileNotFoundError):
            shared = os.open(self._path.with_name(self._path.name + "-shm"), os.O_RDWR)
            try:
                await asyncio.to_thread(fcntl.lockf, shared, fcntl.LOCK_EX, 1, 120)
                self.note("append lock held by another")
                await asyncio.sleep(self.rng.choice(HOLDS))
            finally:
                os.close(shared)


class AtPostgres(Hand):
    """Ends connections, restarts, locks, fills the disk, sets the clock, fails over: what the
    setting has."""

    rest_seconds = 2.0

    def __init__(
        self, rng: random.Random, note: Note, sites: Sequence[Site], ground: PostgresGround
    ) -> None:
        super().__init__(rng, note, sites)
        self._ground = ground
        self.faults = [self._hold_append_lock, self._lock_tables]
        if ground.setting == "standby":
            # What ends a wait for the standby makes visible what a failover may lose: nobody who
            # relies on a standby may do that.
            self.faults += [self._fail_over] * 2 + [self._lose_standby]
            return
        self.faults += [self._terminate_backends] * 4 + [self._terminate_writer] * 4
        self.faults += [self._stop_database, self._kill_database, self._crash_backend]
        if ground.setting == "pooler":
            self.faults += [self._kill_pooler] * 2
        elif ground.setting == "full-disk":
            self.faults += [self._fill] * 3
        elif ground.setting == "clocks":
            self.faults += [self._set_clock] * 3

    async def _terminate_backends(self) -> None:
        await self._terminate(ANY_BACKEND)

    async def _terminate_writer(self) -> None:
        await self._terminate(WRITERS_BACKEND)

    async def _terminate(self, statement: str) -> None:
        with suppress(psycopg.Error):
            for _ in range(await asyncio.to_thread(self._ground.execute, statement)):
                self.note("backend terminated")

    async def _stop_database(self) -> None:
        """Without a checkpoint, so that it has to recover."""
        self.note("database killed")
        await asyncio.to_thread(self._ground.server.restart, "immediate")

    async def _kill_database(self) -> None:
        self.note("database killed")
        await asyncio.to_thread(self._ground.server.kill)
        await asyncio.to_thread(self._ground.server.start)

    async def _crash_backend(self) -> None:
        """PostgreSQL then ends all others, and recovers."""
        found = await asyncio.to_thread(self._asked, BACKEND)
        if found is not None:
            self.note("backend crashed")
            with suppress(ProcessLookupError):
                os.kill(found[0], signal.SIGKILL)

    def _asked(self, statement: str) -> Any:
        with connected(self._ground.url) as connection:
            return connection.execute(statement.encode()).fetchone()

    async def _hold_append_lock(self) -> None:
        await self._hold("append lock held by another", TAKE_APPEND_LOCK)

    async def _lock_tables(self) -> None:
        """As a migration of somebody's own does, or VACUUM FULL."""
        await self._hold("tables locked", LOCK_TABLES)

    async def _hold(self, name: str, statement: str) -> None:
        seconds = self.rng.choice(HOLDS)
        # A connection of ours is no safer than theirs.
        with suppress(psycopg.Error):
            connection = await asyncio.to_thread(connected, self._ground.url)
            with connection, connection.transaction():
                connection.execute("SET LOCAL lock_timeout = '3s'")
                await asyncio.to_thread(connection.execute, statement.encode())
                self.note(name)
                await asyncio.sleep(seconds)

    async def _kill_pooler(self) -> None:
        pooler = self._ground.pooler
        assert pooler is not None
        self.note("pooler killed")
        await asyncio.to_thread(pooler.kill)
        await asyncio.to_thread(pooler.start)

    async def _fill(self) -> None:
        disk = self._ground.disk
        assert disk is not None
        self.note("disk full")
        await asyncio.to_thread(disk.fill)
        await asyncio.sleep(self.rng.random() * 2)
        await asyncio.to_thread(self._ground.mend)

    async def _set_clock(self) -> None:
        clock: Clock | None = self._ground.clock
        assert clock is not None
        self.note("clock of the database set")
        clock.set(moved(self.rng))

    async def _fail_over(self) -> None:
        self.note("failover")
        await asyncio.to_thread(self._ground.fail_over)
        for site in self.sites:
            assert site.to_database is not None
            site.to_database.turn_to(self._ground.server)
        # Until there is one, commits wait.
        await asyncio.to_thread(self._ground.add_standby)

    async def _lose_standby(self) -> None:
        """Commits wait, some of them longer than the callers do."""
        standby = self._ground.standby
        assert standby is not None
        self.note("standby lost for a while")
        await asyncio.to_thread(standby.kill)
        await asyncio.sleep(self.rng.choice(HOLDS))
        await asyncio.to_thread(standby.start)


ANY_BACKEND = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'treering%'
ORDER BY random() LIMIT 3
"""
HOLDERS = """
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND datname = current_database()
  AND application_name = 'treering'
"""
WRITERS_BACKEND = f"SELECT pg_terminate_backend(pid) {HOLDERS}"
HELD_IDLE = f"SELECT pid, xact_start {HOLDERS} AND state = 'idle in transaction'"
BACKEND = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'treering' ORDER BY random() LIMIT 1
"""
TAKE_APPEND_LOCK = """
SELECT pg_advisory_xact_lock('log'::regclass::oid::bigint + (x'74726565'::bigint << 32))
"""
LOCK_TABLES = "LOCK TABLE events, streams, event_tags IN ACCESS EXCLUSIVE MODE"


def held_idle(url: str) -> list[Any]:
    """Who holds the append lock and waits for a next statement."""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(HELD_IDLE.encode()).fetchall()


def hands(seed: str, note: Note, sites: Sequence[Site], ground: Ground) -> Sequence[Hand]:
    """All three, each with choices of its own by the seed."""

    def rng(name: str) -> random.Random:
        return random.Random(f"{seed} {name}")

    at_database: Hand
    if isinstance(ground, SqliteGround):
        at_database = AtSqlite(rng("database"), note, sites, ground)
    else:
        assert isinstance(ground, PostgresGround)
        at_database = AtPostgres(rng("database"), note, sites, ground)
    return (
        AtServers(rng("servers"), note, sites, ground),
        AtWays(rng("ways"), note, sites),
        at_database,
    )
