"""A trial: servers over a database, callers who write down what they are told, and faults, all
chosen by a seed; then the verdict over what happened. What is behind a verdict of guilty is
kept in a folder. `soak.py` makes trials from the command line."""

import asyncio
import os
import random
import signal
import sqlite3
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit
from uuid import UUID

import psycopg

from checks import PROMISES, BrokenPromise
from databases import START_SECONDS, PostgresServer, free_port, sqlite_url, url_at
from history import Calling, Peer, World, logged
from proxy import Proxy
from records import History, Logged, keep_log
from servers import ServerProcess
from traffic import connect, stub
from treering.v1.event_pb2 import RecordedEvent
from treering.v1.stream_service_pb2_grpc import StreamServiceStub
from treering_server.core.failpoints import STEPS

Kind = Literal["sqlite", "postgresql"]

KEPT = Path("build") / "faults"
"""Where that of a guilty trial is kept, unless said otherwise."""

FEEDS = (3_000, 10_000, 60_000)
"""So small a ring that subscribers fall out of it, and cross the seam again and again."""


@dataclass(frozen=True)
class Plan:
    """What a trial is to be like. The same plan chooses the same faults and calls."""

    kind: Kind
    servers: int
    seed: int
    seconds: float

    @property
    def name(self) -> str:
        """For folders and messages."""
        return f"{self.kind}-{self.servers}-{self.seed}"


@dataclass
class Verdict:
    """What came of it."""

    plan: Plan
    calls: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    events: int = 0
    seconds: float = 0
    broken: dict[str, str] = field(default_factory=dict)
    """By promise: how it was broken."""
    folder: Path | None = None
    """Where everything was kept, if one was."""

    def __str__(self) -> str:
        """One line."""
        faults = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        calls = ", ".join(f"{count} {name}" for name, count in sorted(self.calls.items()))
        broken = "; ".join(f"BROKEN {name}: {how}" for name, how in self.broken.items())
        return (
            f"{self.plan.name}: {self.events} events in {self.seconds:.0f} s "
            f"({self.events / max(self.seconds, 1):.0f}/s); appends and others: "
            f"{calls}; faults: {faults}; {broken or 'every promise kept'}"
            + (f"; see {self.folder}" if self.folder else "")
        )

    def count(self, history: History, log: Sequence[Logged]) -> None:
        """Counts what happened."""
        self.events = len(log)
        self.calls.update(attempt.outcome for attempt in history.attempts)
        self.calls["reads"] += len(history.reads)
        self.calls["subscriptions"] += len(history.subscriptions)
        self.calls["changes"] += len(history.changes)


class Site:
    """One server, and the two ways on which it can be cut off."""

    def __init__(self, database_url: str, stack: ExitStack) -> None:
        self._port = free_port()
        self._url = database_url
        self.to_database: Proxy | None = None
        if not database_url.startswith("sqlite"):
            target = urlsplit(database_url)
            self.to_database = stack.enter_context(Proxy(f"{target.hostname}:{target.port}"))
            self._url = url_at(database_url, int(self.to_database.address.rpartition(":")[2]))
        self.to_clients = stack.enter_context(Proxy(f"127.0.0.1:{self._port}"))
        self.process: ServerProcess | None = None
        self.logs: list[str] = []
        stack.callback(self.kill)

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self.process is not None and self.process.is_running

    def start(self, feed_bytes: int = FEEDS[0], **settings: Any) -> None:
        """Starts it, and waits until it listens or is dead."""
        self.process = ServerProcess(
            self._url,
            listen=f"127.0.0.1:{self._port}",
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

    def kill(self) -> None:
        """Kills it, if it lives."""
        if self.process is not None:
            self.process.kill()
            self.logs += self.process.output
            self.process = None


class Trial:
    """Everything that takes part. Use as a context; `run` does it all."""

    def __init__(self, plan: Plan, *, directory: Path, postgres: PostgresServer | None) -> None:
        self.plan = plan
        self.rng = random.Random(f"{plan.name} faults")
        self._postgres = postgres
        self._stack = ExitStack()
        if plan.kind == "sqlite":
            self.url = sqlite_url(directory)
        else:
            assert postgres is not None
            self.url = postgres.create_database()
        self.sites: list[Site] = []
        self.world = World((), plan.seed)
        self.log: list[Logged] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            if self._postgres is not None:
                stack.callback(self._postgres.drop_database, self.url)
            self.sites = [Site(self.url, stack) for _ in range(self.plan.servers)]
            for site in self.sites:
                site.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    async def run(self) -> Verdict:
        """Lets everybody call while things break; then judges."""
        verdict = Verdict(self.plan)
        began = time.monotonic()
        async with AsyncExitStack() as stack:
            peers = []
            for site in self.sites:
                channel = await stack.enter_async_context(connect(site.to_clients.address))
                peers.append(Peer(stub(channel), StreamServiceStub(channel)))
            self.world.peers = peers
            try:
                async with AsyncExitStack() as mending, Calling(self.world) as calling:
                    await self._break(calling, verdict)
                    mending.push_async_callback(end, asyncio.create_task(self._mend()))
            except Exception:  # noqa: BLE001 - a caller's complaint is a verdict too
                verdict.broken["calls"] = traceback.format_exc()
        for site in self.sites:
            # In the way that leaves the most to be recovered.
            await asyncio.to_thread(site.kill)
        verdict.seconds = time.monotonic() - began
        try:
            self.log = await asyncio.to_thread(log_of, self.url)
        except BrokenPromise as error:
            verdict.broken["rows"] = str(error)
        else:
            verdict.broken |= broken(self.world.history, self.log)
        verdict.count(self.world.history, self.log)
        return verdict

    async def _break(self, calling: Calling, verdict: Verdict) -> None:
        ends = time.monotonic() + self.plan.seconds
        faults = self._faults()
        deck: list[Callable[[], Awaitable[None]]] = []
        while time.monotonic() < ends:
            await asyncio.sleep(self.rng.random() * 0.6)
            calling.check()
            for site in self.sites:
                if not site.is_running:
                    verdict.faults["fail point"] += 1
                    await self._restart(site)
            # Each has its turn before any comes again.
            deck = deck or self.rng.sample(faults, len(faults))
            fault = deck.pop()
            name = fault.__name__.strip("_").replace("_", " ")
            self.world.history.faults.append((time.monotonic(), name))
            verdict.faults[name] += 1
            await fault()

    async def _mend(self) -> None:
        """Sees to it that all servers run, until everybody has what was asked for."""
        while True:
            for site in self.sites:
                if site.process is not None and site.is_running:
                    # One may have stopped at a fail point.
                    site.process.resume()
                else:
                    await asyncio.to_thread(site.kill)
                    await asyncio.to_thread(site.start)
            await asyncio.sleep(0.1)

    def _faults(self) -> Sequence[Callable[[], Awaitable[None]]]:
        faults = [
            self._kill,
            self._pause,
            self._pause,
            self._cut_from_clients,
            self._lose_answers_to_clients,
            self._freeze_connections_of_clients,
        ]
        if self.plan.kind == "postgresql":
            faults += [
                self._terminate_backends,
                self._terminate_backends,
                self._terminate_the_writer,
                self._terminate_the_writer,
                self._cut_from_database,
                self._cut_from_database,
                self._lose_answers_of_database,
                self._restart_database,
                self._crash_a_backend,
            ]
        return faults

    @property
    def _site(self) -> Site:
        return self.rng.choice(self.sites)

    async def _restart(self, site: Site) -> None:
        """Starts a server again, perhaps such that it dies, or freezes, at a step of an append."""
        await asyncio.to_thread(site.kill)
        step, number = self.rng.choice(STEPS), self.rng.randrange(1, 60)
        fate = self.rng.choice(["SIGKILL", "SIGKILL", "SIGSTOP"])
        settings = {"fail_point": f"{step}:{number}:{fate}"} if self.rng.random() < 0.6 else {}
        await asyncio.to_thread(site.start, self.rng.choice(FEEDS), **settings)

    async def _kill(self) -> None:
        await self._restart(self._site)

    async def _pause(self) -> None:
        """Also wakes a server that a fail point has frozen, perhaps with the lock."""
        site = self._site
        if site.process is not None and site.is_running:
            site.process.pause()
            await asyncio.sleep(self.rng.choice([0.1, 0.3, 0.5, 0.5, 3.0]))
        for each in self.sites:
            if each.process is not None and each.is_running:
                each.process.resume()

    async def _cut_from_clients(self) -> None:
        site = self._site
        site.to_clients.refuse()
        await asyncio.sleep(self.rng.random() * 0.5)
        site.to_clients.accept()

    async def _lose_answers_to_clients(self) -> None:
        await self._lose_answers(self._site.to_clients)

    async def _freeze_connections_of_clients(self) -> None:
        site = self._site
        site.to_clients.freeze()
        # By now a caller with keepalive would have given it up.
        await asyncio.sleep(self.rng.random() * 2)
        site.to_clients.cut()

    async def _lose_answers(self, proxy: Proxy) -> None:
        proxy.hold_answers()
        await asyncio.sleep(self.rng.random() * 0.3)
        proxy.cut()
        proxy.flow()

    async def _terminate_backends(self) -> None:
        await asyncio.to_thread(execute, self.url, ANY_BACKEND)

    async def _terminate_the_writer(self) -> None:
        await asyncio.to_thread(execute, self.url, WRITERS_BACKEND)

    async def _cut_from_database(self) -> None:
        proxy = self._site.to_database
        assert proxy is not None
        proxy.refuse()
        await asyncio.sleep(self.rng.random() * 0.5)
        proxy.accept()

    async def _lose_answers_of_database(self) -> None:
        proxy = self._site.to_database
        assert proxy is not None
        await self._lose_answers(proxy)

    async def _restart_database(self) -> None:
        assert self._postgres is not None
        if self.rng.random() < 0.5:
            await asyncio.to_thread(self._postgres.restart, "immediate")
        else:
            await asyncio.to_thread(self._postgres.kill)
            await asyncio.to_thread(self._postgres.start)

    async def _crash_a_backend(self) -> None:
        """PostgreSQL then ends all others, and recovers."""
        await asyncio.to_thread(crash_backend, self.url)


ANY_BACKEND = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'treering%'
ORDER BY random() LIMIT 3
"""
WRITERS_BACKEND = """
SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND datname = current_database()
  AND application_name = 'treering'
"""


BACKENDS = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'treering' ORDER BY random() LIMIT 1
"""


def connected(url: str) -> "psycopg.Connection[Any]":
    """A connection of our own, once the database takes one again."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return psycopg.connect(url, autocommit=True)
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def crash_backend(url: str) -> None:
    """Kills the process behind one connection of a server's."""
    with connected(url) as connection:
        found = connection.execute(BACKENDS).fetchone()
    if found is not None:
        with suppress(ProcessLookupError):
            os.kill(found[0], signal.SIGKILL)


def execute(url: str, statement: str) -> None:
    """Runs a statement in a database."""
    with connected(url) as connection:
        connection.execute(statement.encode())


ROWS = """
SELECT position, recorded_at, version, events.id, record, name
FROM events LEFT JOIN streams ON streams.id = events.stream_id ORDER BY position
"""


def log_of(url: str) -> list[Logged]:
    """The log as its rows are, read by nothing of ours."""
    if url.startswith("sqlite:///"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as file:
            rows = file.execute(ROWS).fetchall()
            assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        file.close()
    else:
        with connected(url) as connection:
            rows = connection.execute(ROWS.encode()).fetchall()
    return [row_of(*row) for row in rows]


def row_of(
    position: int, recorded_at: int, version: int | None, id: Any, record: Any, stream: str | None
) -> Logged:
    """An event from its row; what its record says must say the same."""
    event_id = str(id if isinstance(id, UUID) else UUID(bytes=bytes(id)))
    row = Logged(position, event_id, stream or "", version or 0, recorded_at, erased=True)
    if record is None:
        return row
    event = logged(RecordedEvent.FromString(bytes(record)))
    said = (event.position, event.id, event.stream, event.version, event.recorded_at)
    if said != (position, event_id, row.stream, row.version, recorded_at):
        raise BrokenPromise(f"the row of position {position} and its record differ: {event}")
    return event


def broken(history: History, log: Sequence[Logged]) -> dict[str, str]:
    """Asks every validator; by promise, how it was broken."""
    found = {}
    for promise, check in PROMISES.items():
        try:
            check(history, log)
        except BrokenPromise as error:
            found[promise] = str(error)
    return found


async def end(task: asyncio.Task[None]) -> None:
    """Cancels a task, and raises what it died of before."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def keep(trial: Trial, verdict: Verdict, folder: Path) -> Path:
    """Keeps all that is needed to see what happened, and to make it happen again."""
    folder = folder / trial.plan.name
    folder.mkdir(parents=True, exist_ok=True)
    trial.world.history.keep(folder / "history.jsonl")
    keep_log(trial.log, folder / "log.jsonl")
    plan = trial.plan
    again = (
        f"make soak ARGS='--database {plan.kind} --servers {plan.servers} --seed {plan.seed} "
        f"--seconds {plan.seconds}'"
    )
    (folder / "verdict.txt").write_text(f"{verdict}\n\n{again}\n", encoding="utf-8")
    for number, site in enumerate(trial.sites):
        (folder / f"server-{number}.log").write_text("\n".join(site.logs), encoding="utf-8")
    return folder


async def tried(plan: Plan, postgres: PostgresServer | None = None) -> Verdict:
    """Makes a trial; what is guilty is kept."""
    with ExitStack() as stack:
        if plan.kind == "postgresql" and postgres is None:
            postgres = stack.enter_context(PostgresServer())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        trial = await asyncio.to_thread(Trial, plan, directory=directory, postgres=postgres)
        await asyncio.to_thread(stack.enter_context, trial)
        verdict = await trial.run()
        if verdict.broken:
            verdict.folder = keep(trial, verdict, Path(os.environ.get("FAULT_FOLDER", KEPT)))
    return verdict
