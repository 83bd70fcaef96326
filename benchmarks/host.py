"""Where a contestant's data is, and the server in front of it."""

import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import psycopg

from contestants.contestant import Contestant, Place
from databases import PostgresServer, free_port
from ports import listens
from processes import Processes
from servers import environment
from tools import programs

START_SECONDS = 30.0
STOP_SECONDS = 60.0
PAUSE_SECONDS = 0.01
BLOCK = 4096
ZEROS = bytes(BLOCK)

TABLES = """
SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class WHERE relkind = 'r'
AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
"""


class Host:
    """A fresh directory and, where the contestant needs one, a fresh database. Its server can be
    stopped and started again."""

    def __init__(self, contestant: type[Contestant], postgres: PostgresServer | None) -> None:
        self.contestant = contestant
        self._postgres = postgres if contestant.on_postgresql else None
        self._directory = TemporaryDirectory(prefix="treering-bench-")
        directory = Path(self._directory.name)
        database = "" if self._postgres is None else self._postgres.create_database()
        served = Place(directory, free_port(), database)
        self._command = contestant.server(served, programs(contestant))
        embedded = Place(directory, 0 if self._postgres is None else self._postgres.port, database)
        self.place = served if self._command else embedded
        self._server: subprocess.Popen[bytes] | None = None
        self._log = directory / "server.log"
        self.streams = 0
        """How many its log was filled with."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            if self._postgres is not None:
                self._postgres.drop_database(self.place.database)
            self._directory.cleanup()

    @property
    def processes(self) -> Processes:
        """Those that serve."""
        postgres = self._postgres
        return Processes(
            None if self._server is None else self._server.pid,
            None if postgres is None else _main_pid(postgres),
        )

    @property
    def runs(self) -> bool:
        """Whether its server runs, or there is none."""
        return self._server is not None or not self._command

    def start(self) -> None:
        """Starts the server, if there is one, and does not wait for it."""
        if self._command:
            with self._log.open("ab") as log:
                self._server = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.place.directory,
                    env=environment(),
                    # Ctrl-C is for the run, which then ends it in its own time.
                    start_new_session=True,
                )

    def wait(self) -> None:
        """Waits until it listens.

        Raises:
            RuntimeError: It does not.
        """
        deadline = time.monotonic() + START_SECONDS
        while self._server is not None and not listens(self.place.port):
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.contestant.name} does not serve\n{self.text}")
            time.sleep(PAUSE_SECONDS)

    def stop(self) -> None:
        """Stops the server in its own way."""
        if self._server is not None:
            self._server.terminate()
            try:
                self._server.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._server.kill()
                raise
            self._server = None

    def stop_all(self) -> None:
        """Stops the server, and PostgreSQL where that is the server."""
        self.stop()
        if self._postgres is not None and not self._command:
            self._postgres.stop()

    def start_all(self) -> None:
        """Starts what `stop_all` stopped."""
        self.start()
        if self._postgres is not None and not self._command:
            self._postgres.start()

    @property
    def text(self) -> str:
        """What the server has written."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._command else ""

    def stored_bytes(self) -> int:
        """What the data takes on the disk: of PostgreSQL tables and indexes, of files the blocks
        that hold anything, since some are made larger than they need be. The server must be
        stopped."""
        if self._postgres is not None:
            with psycopg.connect(self.place.database, autocommit=True) as connection:
                connection.execute("VACUUM")
                found = connection.execute(TABLES).fetchone()
                assert found is not None
                return int(found[0])
        self._log.unlink(missing_ok=True)
        files = (file for file in self.place.directory.rglob("*") if file.is_file())
        return sum(map(_used_bytes, files))


def _used_bytes(file: Path) -> int:
    used = 0
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            used += 0 if block == ZEROS[: len(block)] else len(block)
    return used


def _main_pid(postgres: PostgresServer) -> int:
    return int((postgres.data / "postmaster.pid").read_text(encoding="utf-8").split()[0])
