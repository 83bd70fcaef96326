"""Python's library `eventsourcing`: its recorders, which an application uses in its own process,
on SQLite and on PostgreSQL. Names of streams are made into the UUIDs that it wants."""

import uuid
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from contestants.contestant import Contestant, NewEvent, Place, Received, Stored

PAGE = 1000
CONNECTIONS = 32
SUBSCRIBERS = 250
"""Each holds a connection."""
PATIENCE_SECONDS = 120


class Eventsourcing(Contestant):
    """What both have in common."""

    _recorder: Any
    _datastore: Any

    async def close(self) -> None:
        """Closes the pool."""
        self._datastore.close()

    async def append(self, events: Sequence[NewEvent]) -> int:
        """The version is checked by the table's key."""
        ids: Sequence[int] = self._recorder.insert_events([_stored(event) for event in events])
        return ids[-1]

    async def append_mixed(self, events: Sequence[NewEvent]) -> None:
        """The same."""
        self._recorder.insert_events([_stored(event) for event in events])

    async def read_log(self) -> int:
        """Page by page."""
        count = last = 0
        while page := self._page(last):
            count += len(page)
            last = page[-1].id
        return count

    async def load(self, stream: str) -> int:
        """Of one originator."""
        return len(self._recorder.select_events(_id(stream)))

    async def log(self, after: int) -> Iterable[Stored]:
        """Page by page."""
        found: list[Stored] = []
        while page := self._page(found[-1].position if found else after):
            found += [Stored(each.id, each.originator_version, each.state) for each in page]
        return found

    def _page(self, last: int) -> Sequence[Any]:
        found: Sequence[Any] = self._recorder.select_notifications(
            last, PAGE, inclusive_of_start=False
        )
        return found


class EventsourcingSqlite(Eventsourcing):
    """On SQLite."""

    name = "eventsourcing-sqlite"
    durable = "a library, no server: WAL, synchronous=FULL, one flush for each append"

    async def open(self) -> None:
        """Makes the table."""
        from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

        self._datastore = SQLiteDatastore(
            str(self.place.directory / "events.db"),
            lock_timeout=PATIENCE_SECONDS,
            max_overflow=CONNECTIONS,
            pool_timeout=PATIENCE_SECONDS,
        )
        self._recorder = SQLiteApplicationRecorder(self._datastore)
        self._recorder.create_table()


class EventsourcingPostgresql(Eventsourcing):
    """On PostgreSQL, with the recorder as it comes: with a lock, so that nobody who follows the
    log misses an event."""

    name = "eventsourcing-postgresql"
    durable = "PostgreSQL, fsync and synchronous_commit on: one commit for each append"
    on_postgresql = True

    async def open(self) -> None:
        """Makes the table."""
        from eventsourcing.postgres import PostgresApplicationRecorder

        self._datastore = datastore(self.place, CONNECTIONS)
        self._recorder = PostgresApplicationRecorder(self._datastore)
        self._recorder.create_table()
        self._followers = datastore(self.place, SUBSCRIBERS)

    async def close(self) -> None:
        """Closes the pools."""
        self._followers.close()
        await super().close()

    async def follow(self, received: Received) -> None:
        """A subscription after the last event."""
        from eventsourcing.postgres import PostgresApplicationRecorder

        after = self._recorder.max_notification_id()
        with PostgresApplicationRecorder(self._followers).subscribe(after) as subscription:
            for event in subscription:
                if received(event.state):
                    return


def datastore(place: Place, connections: int) -> Any:
    """At most so many connections to PostgreSQL."""
    from eventsourcing.postgres import PostgresDatastore

    url = urlsplit(place.database)
    return PostgresDatastore(
        dbname=url.path.removeprefix("/"),
        host=str(url.hostname),
        port=url.port or 0,
        user=str(url.username),
        password="",
        pool_size=1,
        max_overflow=connections - 1,
        connect_timeout=PATIENCE_SECONDS,
    )


@cache
def _id(stream: str) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_URL, stream)


def _stored(event: NewEvent) -> Any:
    from eventsourcing.persistence import StoredEvent

    return StoredEvent(_id(event.stream), event.version, event.type, event.data)
