"""The reads that SQLite and PostgreSQL do alike, and how a failing read ends."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import TypeVar
from uuid import UUID

import sqlalchemy as sa

from treering_server.core.errors import ReadOnly, StorageUnavailable
from treering_server.core.model import Head, ListStreams, Stream
from treering_server.core.query import QueryItem
from treering_server.core.removal import Rule
from treering_server.core.storage import (
    ErasableEvent,
    Incarnation,
    LogNews,
    Matches,
    RemovingStream,
    StreamSpan,
)
from treering_server.storage import changes, matching, statements
from treering_server.storage.removal import note_recorded, now

Result = TypeVar("Result")

READ_ATTEMPTS = 2


class SqlReads(ABC):
    """Reads, each on a connection of the pool and in a transaction of its own."""

    def __init__(self, engine: sa.Engine) -> None:
        """Takes an engine whose connections are in autocommit."""
        self._engine = engine
        self._log_ids: set[UUID] = set()
        self._log_id = UUID(int=0)
        self.head()

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
                if isinstance(translated, ReadOnly):
                    translated = StorageUnavailable("a standby answers, not the primary")
                if not isinstance(translated, StorageUnavailable) or attempt == READ_ATTEMPTS:
                    raise translated from error
                # What else the pool holds has died as well.
                self._engine.dispose()

    @property
    def log_id(self) -> UUID:
        """See `Storage`, as for all that follow."""
        return self._log_id

    def _note_log_id(self, log_id: UUID) -> None:
        """What a connection found. One that looked before another may tell of it later."""
        if log_id not in self._log_ids:
            self._log_ids.add(log_id)
            self._log_id = log_id

    def head(self) -> Head:  # noqa: D102
        head = self._read(statements.head)
        self._note_log_id(head.log_id)
        note_recorded(head.recorded_at)
        return head

    def incarnations(self) -> list[Incarnation]:  # noqa: D102
        return self._read(statements.all_incarnations)

    def news(self, since: int) -> LogNews:  # noqa: D102
        news = self._read(lambda connection: changes.news(connection, since))
        self._note_log_id(news.log_id)
        return news

    def event_id(self, position: int) -> UUID | None:  # noqa: D102
        return self._read(lambda connection: statements.event_id(connection, position))

    def position_at_time(self, microseconds: int) -> int:  # noqa: D102
        return self._read(lambda connection: statements.position_at_time(connection, microseconds))

    def span(self, stream: str, position: int) -> StreamSpan:  # noqa: D102
        return self._read(lambda each: statements.span(each, stream, position, now()))

    def stream(self, name: str) -> Stream | None:  # noqa: D102
        return self._read(lambda connection: statements.stream_named(connection, name, now()))

    def streams(self, request: ListStreams) -> list[Stream]:  # noqa: D102
        return self._read(lambda connection: statements.streams_page(connection, request, now()))

    def moving_rules(self, names: Collection[str]) -> dict[str, Rule]:  # noqa: D102
        return self._read(lambda connection: changes.moving_rules(connection, list(names)))

    def removing(self, after_id: int, most: int) -> list[RemovingStream]:  # noqa: D102
        return self._read(lambda each: changes.removing(each, after_id, most, now()))

    def erasable(  # noqa: D102
        self, stream: RemovingStream, most: int, *, max_bytes: int
    ) -> list[ErasableEvent]:
        return self._read(lambda each: changes.erasable(each, stream, most, max_bytes))

    def matching(  # noqa: D102
        self, item: QueryItem, after: int, until: int, *, backwards: bool, max_postings: int
    ) -> Matches:
        window = matching.Window(after, until, backwards)
        return self._read(lambda each: matching.find(each, item, window, max_postings, now()))

    def close(self) -> None:
        """Closes the pool."""
        self._engine.dispose()
