"""The reads that SQLite and PostgreSQL do alike, and how a failing read ends."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

import sqlalchemy as sa

from treering_server.core.errors import StorageUnavailable
from treering_server.core.model import Head, ListStreams, Stream
from treering_server.core.query import QueryItem
from treering_server.core.storage import Incarnation, Matches
from treering_server.storage import matching, statements

Result = TypeVar("Result")

READ_ATTEMPTS = 2


class SqlReads(ABC):
    """Reads, each on a connection of the pool and in a transaction of its own."""

    def __init__(self, engine: sa.Engine) -> None:
        """Takes an engine whose connections are in autocommit."""
        self._engine = engine

    @abstractmethod
    def _translated(self, error: Exception) -> Exception:
        """What a driver's error means to the core."""

    def _read(self, work: Callable[[sa.Connection], Result]) -> Result:
        """Does some work on a connection; again, on a new one, if that had died."""
        attempt = 0
        while True:
            attempt += 1
            try:
                with self._engine.connect() as connection:
                    try:
                        return work(connection)
                    except Exception:
                        # Whatever it was, the next user of the connection must not inherit it.
                        connection.invalidate()
                        raise
            except Exception as error:
                translated = self._translated(error)
                if not isinstance(translated, StorageUnavailable) or attempt == READ_ATTEMPTS:
                    raise translated from error
                # What else the pool holds has died as well.
                self._engine.dispose()

    def head(self) -> Head:
        """See `Storage`, as for all that follow."""
        return self._read(statements.head)

    def incarnations(self) -> list[Incarnation]:  # noqa: D102
        return self._read(statements.all_incarnations)

    def event_id(self, position: int) -> UUID | None:  # noqa: D102
        return self._read(lambda connection: statements.event_id(connection, position))

    def position_at_time(self, microseconds: int) -> int:  # noqa: D102
        return self._read(lambda connection: statements.position_at_time(connection, microseconds))

    def version_at(self, stream: str, position: int) -> int:  # noqa: D102
        def work(connection: sa.Connection) -> int:
            ids = statements.stream_ids(connection, [stream])
            return sum(statements.versions_at(connection, ids, position).values())

        return self._read(work)

    def stream(self, name: str) -> Stream | None:  # noqa: D102
        return self._read(lambda connection: statements.stream_named(connection, name))

    def streams(self, request: ListStreams) -> list[Stream]:  # noqa: D102
        return self._read(lambda connection: statements.streams_page(connection, request))

    def matching(  # noqa: D102
        self, item: QueryItem, after: int, until: int, *, backwards: bool, max_postings: int
    ) -> Matches:
        window = matching.Window(after, until, backwards)
        return self._read(lambda connection: matching.find(connection, item, window, max_postings))

    def close(self) -> None:
        """Closes the pool."""
        self._engine.dispose()
