"""Drivers of both databases whose n-th call fails: before it does anything, or after it has done
it; once, or from then on. What it fails with is what a lost connection or a broken disk gives."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import psycopg
import sqlalchemy as sa

from treering_server.storage import sqlite

sqlite3: Any = vars(sqlite)["sqlite3"]
"""The module that the server uses."""
When = Literal["before", "after"]
INPUT_OUTPUT = 10
"""SQLite's code for what the disk did not do."""


class Failure:
    """Which calls fail. Calls outside of transactions that write count where `everywhere`."""

    def __init__(self, when: When, *, lasts: bool, everywhere: bool = False) -> None:
        self._when = when
        self._lasts = lasts
        self._everywhere = everywhere
        self._lock = threading.Lock()
        self._left: int | None = None
        self.came = False
        """Whether a call has failed since `come_at`."""

    def come_at(self, n: int) -> None:
        """Lets the n-th call from now fail, counted from 1."""
        with self._lock:
            self._left, self.came = n, False

    def be_over(self) -> None:
        """Lets nothing fail any more."""
        with self._lock:
            self._left = None

    def passes(self, connection: "_Connection", statement: object, when: When) -> bool:
        """Whether a call does not fail at this moment of it."""
        if when == "before":
            connection.is_writing = connection.is_writing or _begins(statement)
        with self._lock:
            if self._left is None or when != self._when:
                return True
            if self.came and self._lasts:
                # Then nothing gets through, whoever calls.
                return False
            if not (connection.is_writing or self._everywhere):
                return True
            self._left -= 1
            if self._left == 0:
                self.came = True
            return self._left != 0

    @property
    def is_down(self) -> bool:
        """Whether no connection is to be had."""
        with self._lock:
            return self._left is not None and self.came and self._lasts


def _begins(statement: object) -> bool:
    return isinstance(statement, str) and statement.lstrip().startswith("BEGIN")


class _Connection:
    """What both kinds of connection have in common."""

    failure: Failure
    is_writing = False


def _call(connection: _Connection, statement: object, work: Any, error: Any) -> Any:
    for when in ("before", "after"):
        if not connection.failure.passes(connection, statement, when):
            raise error()
        if when == "before":
            result = work()
    if isinstance(statement, str) and statement.strip() in {"COMMIT", "ROLLBACK"}:
        connection.is_writing = False
    return result


class _PostgresConnection(psycopg.Connection[Any], _Connection):
    def lost(self) -> Exception:
        self.close()
        return psycopg.OperationalError("the connection is lost, as the test wants it")


class _PostgresCursor(psycopg.Cursor[Any]):
    def execute(self, query: Any, *arguments: Any, **named: Any) -> Any:
        connection: Any = self.connection
        work = super().execute
        return _call(connection, query, lambda: work(query, *arguments, **named), connection.lost)


class _SqliteConnection(sqlite3.Connection, _Connection):  # type: ignore[misc]
    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(factory or _SqliteCursor)

    def broken(self) -> Exception:
        error: Exception = sqlite3.OperationalError("disk I/O error, as the test wants it")
        error.sqlite_errorcode = INPUT_OUTPUT  # type: ignore[attr-defined]
        return error


class _SqliteCursor(sqlite3.Cursor):  # type: ignore[misc]
    def execute(self, statement: str, *arguments: Any) -> Any:
        connection = self.connection
        work = super().execute
        return _call(connection, statement, lambda: work(statement, *arguments), connection.broken)

    def executemany(self, statement: str, *arguments: Any) -> Any:
        connection = self.connection
        work = super().executemany
        return _call(connection, statement, lambda: work(statement, *arguments), connection.broken)


@contextmanager
def failing(failure: Failure) -> Iterator[Failure]:
    """Lets the connections of every engine fail so, as long as the block lasts."""

    def connect(dialect: Any, _record: object, arguments: Any, parameters: Any) -> Any:
        if failure.is_down:
            raise dialect.loaded_dbapi.OperationalError("away, as the test wants it")
        if dialect.name == "sqlite":
            connection: Any = sqlite3.connect(*arguments, **parameters, factory=_SqliteConnection)
        else:
            connection = _PostgresConnection.connect(*arguments, **parameters)
            connection.cursor_factory = _PostgresCursor
        connection.failure = failure
        return connection

    sa.event.listen(sa.Engine, "do_connect", connect)
    try:
        yield failure
    finally:
        sa.event.remove(sa.Engine, "do_connect", connect)
