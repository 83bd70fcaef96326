"""A server that callers of every kind use for minutes: what it takes from its machine and from the
database stays what it was."""

import asyncio
from pathlib import Path
from statistics import linear_regression

import psutil
import psycopg
import pytest

from calls import append, append_to, make_event
from history import Calling, Peer, World
from runs import LONG
from servers import ServerProcess
from traffic import connect, stub
from treering.v1.stream_service_pb2_grpc import StreamServiceStub

SECONDS = 360.0 if LONG else 20.0
SAMPLES = 40
MIB = 1024 * 1024
MOST_GROWTH = 1.0
"""In MiB a minute, once it has warmed up. In seconds nothing can be said about it."""
CONNECTIONS = 10
"""To a SQLite file, each with a cache of its own, which grows with the file."""
REMEMBERED_EVENTS = 20_000
"""What the writer keeps of the last events."""
MOST_SESSIONS = 12
"""What the guide says that a server holds."""
WAL_BYTES = 72 * MIB
"""What SQLite's second file is cut to, and some more for the batch that made it grow."""

SESSIONS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'treering%'
"""


class Taken:
    """What a server holds, looked at again and again."""

    def __init__(self, process: ServerProcess, url: str) -> None:
        self._process = psutil.Process(process.pid)
        self._url = url
        self.memory: list[float] = []
        """MiB."""
        self.files: list[int] = []
        self.threads: list[int] = []
        self.sessions: list[int] = []
        self.wal_bytes: list[int] = []
        self.database: list[float] = []
        """MiB, where the server keeps pages of it."""

    def look(self) -> None:
        self.memory.append(self._process.memory_info().rss / MIB)
        self.files.append(self._process.num_fds())
        self.threads.append(self._process.num_threads())
        if self._url.startswith("sqlite"):
            file = Path(self._url.removeprefix("sqlite:///"))
            self.wal_bytes.append(file.with_name(file.name + "-wal").stat().st_size)
            self.database.append((file.stat().st_size + self.wal_bytes[-1]) / MIB)
        else:
            with psycopg.connect(self._url, autocommit=True) as connection:
                [(sessions,)] = connection.execute(SESSIONS.encode()).fetchall()
                self.sessions.append(sessions)

    def growth(self, what: list[float]) -> float:
        """By how much it grows a minute, in the second half of the time."""
        half = len(what) // 2
        minutes = [n * SECONDS / SAMPLES / 60 for n in range(half)]
        return linear_regression(minutes, what[-half:]).slope if what else 0.0

    def __str__(self) -> str:
        return f"memory {self.memory}, files {self.files}, threads {self.threads}"


@pytest.mark.timeout(120 + 2 * SECONDS)
async def test_what_a_server_holds_stays_what_it_was(database_url, server_process, record_property):
    # Small, so that it is full before anything is looked at.
    process = server_process(database_url, feed_bytes=1_000_000)
    taken = Taken(process, database_url)
    async with connect(process.address) as channel:
        event_store = stub(channel)
        if LONG:
            for _ in range(REMEMBERED_EVENTS // 1_000):
                await append(event_store, append_to("warm", *(make_event() for _ in range(1_000))))
        world = World([Peer(event_store, StreamServiceStub(channel))], seed=1)
        async with Calling(world) as calling:
            for _ in range(SAMPLES):
                await asyncio.sleep(SECONDS / SAMPLES)
                calling.check()
                taken.look()
                # What was written down is not looked at here.
                for part in (world.history.attempts, world.history.reads):
                    part.clear()
                world.history.subscriptions.clear()
    growth, allowed = taken.growth(taken.memory), MOST_GROWTH
    allowed += CONNECTIONS * max(0.0, taken.growth(taken.database))
    record_property("MiB a minute", f"{growth:.2f}, allowed are {allowed:.2f}")
    if LONG:
        assert growth <= allowed, str(taken)
    half = SAMPLES // 2
    assert max(taken.files[half:]) <= max(taken.files[:half]) + 5, str(taken)
    assert max(taken.threads[half:]) <= max(taken.threads[:half]) + 3, str(taken)
    assert max(taken.sessions, default=0) <= MOST_SESSIONS
    assert max(taken.wal_bytes, default=0) <= WAL_BYTES
