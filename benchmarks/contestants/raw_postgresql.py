"""Floor: what PostgreSQL does with one table and two unique indexes, and only its driver in
between; COPY where there is more than one event."""

import uuid
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from contestants.contestant import Contestant, Kind, NewEvent, Stored
from contestants.pool import open_pool

COLUMNS = "stream, version, id, type, data"


class RawPostgresql(Contestant):
    """psycopg. That a stream has the expected version is left to the index."""

    name = "raw-postgresql"
    kind: ClassVar[Kind] = "floor"
    durable = "PostgreSQL, fsync and synchronous_commit on: one commit for each append"
    on_postgresql = True

    async def open(self) -> None:
        """Connects, and makes the table."""
        self._pool = open_pool(self.place)
        with self._pool.connection() as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS events (position bigserial PRIMARY KEY, stream text, "
                "version bigint, id uuid UNIQUE, type text, data bytea, UNIQUE (stream, version))"
            )

    async def close(self) -> None:
        """Closes the connections."""
        self._pool.close()

    async def append(self, events: Sequence[NewEvent]) -> int | None:
        """One statement."""
        with self._pool.connection() as connection:
            if len(events) == 1:
                found = connection.execute(
                    f"INSERT INTO events ({COLUMNS}) VALUES (%s, %s, %s, %s, %s) "
                    "RETURNING position",
                    _row(events[0]),
                ).fetchone()
                return int(found[0])
            _copy(connection, events)
            return None

    async def append_mixed(self, events: Sequence[NewEvent]) -> None:
        """The same."""
        with self._pool.connection() as connection:
            _copy(connection, events)

    async def read_log(self) -> int:
        """Row by row, by a cursor of the server."""
        with (
            self._pool.connection() as connection,
            connection.transaction(),
            connection.cursor("log", binary=True) as cursor,
        ):
            cursor.itersize = 1000
            cursor.execute(f"SELECT position, {COLUMNS} FROM events ORDER BY position")
            return sum(1 for _ in cursor)

    async def load(self, stream: str) -> int:
        """Rows of a stream."""
        with self._pool.connection() as connection:
            query = f"SELECT position, {COLUMNS} FROM events WHERE stream = %s ORDER BY version"
            return len(connection.execute(query, (stream,), binary=True).fetchall())

    async def log(self, after: int) -> Iterable[Stored]:
        """Rows after one."""
        query = "SELECT position, version, data FROM events WHERE position > %s ORDER BY position"
        with self._pool.connection() as connection:
            return [Stored(*row) for row in connection.execute(query, (after,), binary=True)]


def _copy(connection: Any, events: Sequence[NewEvent]) -> None:
    with connection.cursor().copy(f"COPY events ({COLUMNS}) FROM STDIN") as copy:
        for event in events:
            copy.write_row(_row(event))


def _row(event: NewEvent) -> tuple[object, ...]:
    return event.stream, event.version, uuid.uuid4(), event.type, event.data
