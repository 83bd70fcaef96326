"""What the servers of a trial stand on: a file, or a PostgreSQL as it may be set up."""

import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, Self
from uuid import UUID

import psycopg

import clocks
import disks
import poolers
from checks import BrokenPromise
from clocks import Clock
from databases import START_SECONDS, PostgresServer, sqlite_url, url_at, wait_for
from disks import SmallDisk
from history import logged
from poolers import Pooler
from records import Logged
from treering.v1.event_pb2 import RecordedEvent

Kind = Literal["sqlite", "postgresql"]
Setting = Literal["plain", "defaults", "pooler", "clocks", "full-disk", "standby"]
"""Defaults: of the role, such that they would weaken promises. Standby: a synchronous one, which
takes over again and again."""

MISSING: dict[str, Callable[[], str]] = {
    "pooler": lambda: poolers.MISSING,
    "clocks": clocks.missing,
    "full-disk": disks.missing,
}

ROLE_DEFAULTS = {
    "default_transaction_isolation": "repeatable read",
    "synchronous_commit": "off",
    "statement_timeout": "20s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "10s",
    "search_path": "public",
}
DISK_MEBIBYTES = 400
SMALL = {"max_wal_size": "64MB", "min_wal_size": "32MB"}
"""What leaves room on a small disk."""


def missing(setting: Setting) -> str:
    """Why a setting can't be had here; empty if it can."""
    return MISSING.get(setting, str)()


class Ground:
    """One log's database, from the outside. Use as a context."""

    url: str
    """Where the log is; behind the servers' back."""
    served_url: str
    """Where the servers look for it."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._lay(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _lay(self, stack: ExitStack) -> None:
        raise NotImplementedError

    def mend(self) -> None:
        """Mends what the last fault has left."""

    def log(self) -> list[Logged]:
        """The log as its rows are, read by nothing of ours."""
        raise NotImplementedError


class SqliteGround(Ground):
    """A file in a folder of its own."""

    def _lay(self, stack: ExitStack) -> None:
        self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.url = self.served_url = sqlite_url(self.directory)

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.url.removeprefix("sqlite:///"))

    def log(self) -> list[Logged]:
        with sqlite3.connect(self.path) as file:
            rows = file.execute(ROWS).fetchall()
            if file.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                raise BrokenPromise("SQLite finds its file corrupt")
        file.close()
        return [row_of(*row) for row in rows]


class PostgresGround(Ground):
    """A database in a PostgreSQL of its own, or in one that is given."""

    def __init__(self, setting: Setting, server: PostgresServer | None = None) -> None:
        super().__init__(setting)
        self._given = server
        self.disk: SmallDisk | None = None
        self.clock: Clock | None = None
        self.pooler: Pooler | None = None
        self.standby: PostgresServer | None = None

    def _lay(self, stack: ExitStack) -> None:
        if self.setting == "full-disk":
            self.disk = stack.enter_context(SmallDisk(DISK_MEBIBYTES))
        elif self.setting == "clocks":
            self.clock = stack.enter_context(Clock())
        if self._given is not None and self.setting in {"plain", "defaults"}:
            self.server = self._given
        else:
            self.server = PostgresServer(
                SMALL if self.disk else None,
                disk=self.disk and self.disk.directory,
                variables=self.clock and self.clock.variables,
            )
            stack.callback(self._remove_server)
            self.server.start()
        self.url = self.server.create_database()
        if self.server is self._given:
            stack.callback(self.server.drop_database, self.url)
        self.served_url = self.url
        if self.setting == "defaults":
            self._set_role_defaults()
        elif self.setting == "pooler":
            self.pooler = stack.enter_context(Pooler(self.server))
            self.served_url = url_at(self.url, self.pooler.port)
        elif self.setting == "standby":
            self.server.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            self.add_standby()

    def _remove_server(self) -> None:
        """Whichever it is by then, and its standby."""
        self.server.remove()
        if self.standby is not None:
            self.standby.remove()

    def _set_role_defaults(self) -> None:
        with connected(self.url) as connection:
            for name, value in ROLE_DEFAULTS.items():
                statement = f"ALTER ROLE postgres IN DATABASE {connection.info.dbname} SET {name}"
                connection.execute(f"{statement} = '{value}'".encode())

    def add_standby(self) -> None:
        """Gives the primary a standby, and waits until commits wait for it."""
        self.standby = self.server.standby()
        self.standby.start()
        self.server.execute("SELECT pg_reload_conf()")
        wait_for(self.url, HAS_SYNCHRONOUS_STANDBY)

    def fail_over(self) -> None:
        """The primary is lost with its machine, and the standby takes over. It has none of its
        own yet."""
        assert self.standby is not None
        self.server.kill()
        self.standby.promote()
        self.server.remove()
        self.server, self.standby = self.standby, None
        self.url = url_at(self.url, self.server.port)

    def mend(self) -> None:
        """Sees to it that there is room, and that it answers."""
        if self.disk is not None:
            self.disk.clear()
        deadline = time.monotonic() + START_SECONDS
        while self.server.is_running:
            try:
                psycopg.connect(self.url).close()
            except psycopg.OperationalError:
                # It recovers, or finds out that it can't.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return
        self.server.start()

    def execute(self, statement: str) -> int:
        """Runs a statement in the database: how many rows it answers, or touches."""
        with connected(self.url) as connection:
            return connection.execute(statement.encode()).rowcount

    def log(self) -> list[Logged]:
        with connected(self.url) as connection:
            rows = connection.execute(ROWS.encode()).fetchall()
        return [row_of(*row) for row in rows]


HAS_SYNCHRONOUS_STANDBY = (
    "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')"
)


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


ROWS = """
SELECT position, recorded_at, version, events.id, record, name
FROM events LEFT JOIN streams ON streams.id = events.stream_id ORDER BY position
"""


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


def ground(kind: Kind, setting: Setting, server: PostgresServer | None = None) -> Ground:
    """What such a trial stands on."""
    return SqliteGround(setting) if kind == "sqlite" else PostgresGround(setting, server)


SETTINGS: Sequence[tuple[Kind, int, Setting]] = (
    ("sqlite", 1, "plain"),
    ("postgresql", 1, "defaults"),
    ("postgresql", 2, "plain"),
    ("postgresql", 2, "standby"),
    ("sqlite", 1, "clocks"),
    ("postgresql", 2, "pooler"),
    ("postgresql", 2, "clocks"),
    ("postgresql", 1, "full-disk"),
    ("postgresql", 3, "plain"),
)
"""Kinds, numbers of servers and settings that trials go through."""
