"""Floor: what SQLite does with one table and two unique indexes, and nothing in between."""

import sqlite3
import threading
import uuid
from collections.abc import Iterable, Sequence
from typing import ClassVar

from contestants.contestant import Contestant, Kind, NewEvent, Place, Stored

COLUMNS = "stream, version, id, type, data"
PATIENCE_SECONDS = 120


class RawSqlite(Contestant):
    """`sqlite3`, in the process of the caller; a connection for each thread."""

    name = "raw-sqlite"
    kind: ClassVar[Kind] = "floor"
    tools = "own"
    durable = "a library, no server: WAL, synchronous=FULL, one flush for each append"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._local = threading.local()
        # Only one can write anyway, and who waits for SQLite's own lock waits in naps.
        self._writing = threading.Lock()

    async def open(self) -> None:
        """Makes the table."""
        connection = self._connection
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS events (position INTEGER PRIMARY KEY, stream TEXT, "
            "version INTEGER, id BLOB UNIQUE, type TEXT, data BLOB, UNIQUE (stream, version))"
        )

    async def close(self) -> None:
        """Closes this thread's connection."""
        self._connection.close()

    async def append(self, events: Sequence[NewEvent]) -> int:
        """Reads the version and checks it, in one transaction."""
        connection = self._connection
        with self._writing, connection:
            connection.execute("BEGIN IMMEDIATE")
            (version,) = connection.execute(
                "SELECT coalesce(max(version), 0) FROM events WHERE stream = ?",
                (events[0].stream,),
            ).fetchone()
            if version != events[0].version - 1:
                raise RuntimeError(f"{events[0].stream} has version {version}")
            return self._insert(events)

    async def append_mixed(self, events: Sequence[NewEvent]) -> None:
        """One transaction."""
        with self._writing, self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            self._insert(events)

    async def read_log(self) -> int:
        """Row by row."""
        query = f"SELECT position, {COLUMNS} FROM events ORDER BY position"
        return sum(1 for _ in self._connection.execute(query))

    async def load(self, stream: str) -> int:
        """Rows of a stream."""
        query = f"SELECT position, {COLUMNS} FROM events WHERE stream = ? ORDER BY version"
        return len(self._connection.execute(query, (stream,)).fetchall())

    async def log(self, after: int) -> Iterable[Stored]:
        """Rows after one."""
        rows = self._connection.execute(
            "SELECT position, version, data FROM events WHERE position > ? ORDER BY position",
            (after,),
        )
        return [Stored(*row) for row in rows]

    @property
    def _connection(self) -> sqlite3.Connection:
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            found = sqlite3.connect(
                self.place.directory / "events.db", PATIENCE_SECONDS, isolation_level=None
            )
            found.execute("PRAGMA synchronous = FULL")
            self._local.connection = found
        return found

    def _insert(self, events: Sequence[NewEvent]) -> int:
        connection = self._connection
        connection.executemany(
            f"INSERT INTO events ({COLUMNS}) VALUES (?, ?, ?, ?, ?)",
            [
                (each.stream, each.version, uuid.uuid4().bytes, each.type, each.data)
                for each in events
            ],
        )
        (position,) = connection.execute("SELECT max(position) FROM events").fetchone()
        return int(position)
