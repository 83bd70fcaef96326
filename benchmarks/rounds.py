"""One round: a fresh database and server, everything measured on it, and the log checked."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from appends import measure_appends
from databases import PostgresServer, sqlite_url
from delivery import measure_delivery
from figures import Figure
from imports import measure_import
from options import Options
from processes import Processes
from reads import measure_client_read, measure_raw_read
from servers import ServerProcess
from startup import start
from verify import verify

STOP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Round:
    """What came out of a round."""

    database: str
    """SQLite or PostgreSQL, with its version, as the server names it."""
    durability: str
    """What an acknowledged append survives, as the server says it."""
    load: float
    """The machine's load when it began: how much else was going on."""
    figures: list[Figure]


@contextmanager
def fresh_database(postgres: PostgresServer | None) -> Iterator[str]:
    """URL of an empty database: in PostgreSQL, or a file for SQLite."""
    if postgres is None:
        with TemporaryDirectory(prefix="treering-bench-") as directory:
            yield sqlite_url(Path(directory))
    else:
        url = postgres.create_database()
        try:
            yield url
        finally:
            postgres.drop_database(url)


def warm_up(postgres: PostgresServer | None, file: Path) -> None:
    """Starts what a round starts, for nothing but the bytecode and the caches that it leaves."""
    with fresh_database(postgres) as url:
        server, _ = start(url, "")
        try:
            measure_import(server.address, file, Processes(server.pid, _main_pid(postgres)))
            _stop(server)
        finally:
            server.kill()


def run_round(
    postgres: PostgresServer | None, file: Path, options: Options, runner: asyncio.Runner
) -> Round:
    """Measures everything once; on SQLite where there is no PostgreSQL.

    Args:
        postgres: Where the database is made.
        file: What is imported.
        options: How much is measured.
        runner: Of one event loop for all rounds: gRPC is not at ease with several.

    Raises:
        BrokenPromise: The log is not what it must be.
        RuntimeError: Something did not work.
    """
    load = os.getloadavg()[0]
    with fresh_database(postgres) as url:
        server, begun = start(url, "start, empty log")
        try:
            processes = Processes(server.pid, _main_pid(postgres))
            imported, figures = measure_import(server.address, file, processes)
            acknowledged, more = runner.run(_measure(server.address, imported, options, processes))
            facts = server.wait_for_log("database")
            _stop(server)
        finally:
            server.kill()
        # What is checked is what a restart leaves.
        server, begun_again = start(url, "start, that log")
        try:
            verify(server.address, imported, acknowledged)
            _stop(server)
        finally:
            server.kill()
    return Round(facts["kind"], facts["durability"], load, [*begun, *begun_again, *figures, *more])


async def _measure(
    address: str, events: int, options: Options, processes: Processes
) -> tuple[dict[str, int], list[Figure]]:
    seconds = options.seconds
    figures = await measure_raw_read(address, events, seconds, processes)
    figures += await measure_client_read(address, events, seconds, processes)
    acknowledged: dict[str, int] = {}
    for in_flight in sorted({1, options.in_flight}):
        appended, more = await measure_appends(address, in_flight, seconds, processes)
        acknowledged |= appended
        figures += more
    appended, more = await measure_delivery(address, options.rate, seconds)
    return acknowledged | appended, figures + more


def _stop(server: ServerProcess) -> None:
    code = server.terminate(STOP_SECONDS)
    if code != 0:
        raise RuntimeError(f"the server ended with {code}\n{server.text}")


def _main_pid(postgres: PostgresServer | None) -> int | None:
    if postgres is None:
        return None
    return int((postgres.data / "postmaster.pid").read_text(encoding="utf-8").split()[0])
