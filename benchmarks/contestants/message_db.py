"""message-db: functions in PostgreSQL, as its package for Node has them, called by psycopg."""

import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from contestants.contestant import Contestant, NewEvent, Received, Stored
from contestants.pool import open_pool

PAGE = 1000
POLLED_SECONDS = 0.1
"""How often its consumers ask for what is new, by default."""

SQL = Path(__file__).parents[2] / "build/peers/node_modules/@eventide/message-db/database"
SCRIPTS = (
    "roles/message-store.sql",
    "schema/message-store.sql",
    "tables/messages.sql",
    "types/message.sql",
    "functions/*.sql",
    "indexes/*.sql",
    "views/*.sql",
)
"""In the order of its own installation, but for the extension pgcrypto: what it was for has been
in PostgreSQL itself since version 13."""

WRITE = "SELECT message_store.write_message(%s, %s, %s, %s::jsonb, NULL, %s)"
"""The version that it expects is that of the last event, counted from 0."""


class MessageDB(Contestant):
    """It has no function for several events: so many calls in one transaction."""

    name = "message-db"
    durable = "PostgreSQL, fsync and synchronous_commit on: one commit for each append"
    on_postgresql = True

    async def open(self) -> None:
        """Connects, and installs what is not there yet."""
        self._pool = open_pool(self.place, "-c search_path=message_store,public")
        with self._pool.connection() as connection:
            (there,) = connection.execute(
                "SELECT to_regclass('message_store.messages') IS NOT NULL"
            ).fetchone()
            if not there:
                for pattern in SCRIPTS:
                    for script in sorted(SQL.glob(pattern)):
                        connection.execute(script.read_bytes())

    async def close(self) -> None:
        """Closes the connections."""
        self._pool.close()

    async def append(self, events: Sequence[NewEvent]) -> int | None:
        """Gives no position of the log."""
        with self._pool.connection() as connection:
            if len(events) == 1:
                connection.execute(WRITE, _parameters(events[0]))
            else:
                _write(connection, events)
        return None

    async def append_mixed(self, events: Sequence[NewEvent]) -> None:
        """The same."""
        with self._pool.connection() as connection:
            _write(connection, events)

    async def read_log(self) -> int:
        """Page by page from its table, since it has a function for categories only."""
        count = last = 0
        with self._pool.connection() as connection:
            while page := _page(connection, last):
                count += len(page)
                last = page[-1][4]
        return count

    async def load(self, stream: str) -> int:
        """Its function."""
        with self._pool.connection() as connection:
            query = "SELECT * FROM message_store.get_stream_messages(%s)"
            return len(connection.execute(query, (stream,)).fetchall())

    async def read_category(self, category: str) -> int:
        """Its function."""
        with self._pool.connection() as connection:
            query = "SELECT * FROM message_store.get_category_messages(%s, 1, -1)"
            return len(connection.execute(query, (category,)).fetchall())

    async def follow(self, received: Received) -> None:
        """Asks for pages again and again, and waits where one was not full."""
        with self._pool.connection() as connection:
            (last,) = connection.execute(
                "SELECT coalesce(max(global_position), 0) FROM message_store.messages"
            ).fetchone()
        while True:
            with self._pool.connection() as connection:
                page = _page(connection, last)
            for row in page:
                last = row[4]
                if received(row[5].encode()):
                    return
            if len(page) < PAGE:
                await self.concurrency.sleep(POLLED_SECONDS)

    async def log(self, after: int) -> Iterable[Stored]:
        """From its table; its versions begin with 0."""
        with self._pool.connection() as connection:
            rows = connection.execute(
                "SELECT global_position, position + 1, data::text FROM message_store.messages "
                "WHERE global_position > %s ORDER BY global_position",
                (after,),
            )
            return [Stored(position, version, text.encode()) for position, version, text in rows]


def _write(connection: Any, events: Sequence[NewEvent]) -> None:
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(WRITE, [_parameters(event) for event in events])


def _page(connection: Any, after: int) -> Sequence[Any]:
    found: Sequence[Any] = connection.execute(
        "SELECT id, stream_name, type, position, global_position, data::varchar, "
        "metadata::varchar, time FROM message_store.messages WHERE global_position > %s "
        "ORDER BY global_position LIMIT %s",
        (after, PAGE),
    ).fetchall()
    return found


def _parameters(event: NewEvent) -> tuple[object, ...]:
    text = event.data.decode()
    return str(uuid.uuid4()), event.stream, event.type, text, event.version - 2
