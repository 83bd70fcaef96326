"""The log in a SQLite file: one process, one connection that writes, several that read.

The write-ahead log is flushed at every commit (`synchronous=FULL`). Only the writing
connection checkpoints: SQLite 3.7.0 to 3.51.2 can corrupt a WAL file when two
connections checkpoint and commit at once (sqlite.org/wal.html, "walresetbug").
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import UUID

import sqlalchemy as sa

try:
    # A current SQLite inside, where it has a wheel.
    from pysqlite3 import dbapi2 as sqlite3
except ImportError:
    import sqlite3

from treering_server.core.errors import ReadOnly, Refusal, StorageFull, StorageUnavailable
from treering_server.core.model import EventId, Head
from treering_server.core.query import category_of
from treering_server.core.removal import NOTHING, Rule
from treering_server.core.storage import (
    CommitUnknown,
    ErasableEvent,
    LoadedStream,
    LockedState,
    NewRecord,
    RecordedId,
    StorageDefect,
    StoredRecord,
    StreamState,
)
from treering_server.storage import changes
from treering_server.storage.changes import SqlStreamChanges
from treering_server.storage.names import Names
from treering_server.storage.reads import SqlReads
from treering_server.storage.removal import RECORD, note_recorded, now
from treering_server.storage.statements import HEAD_AND_STREAM, head_of, span_of

if TYPE_CHECKING:
    from treering_server.storage.files import LogFile

SQLITE_VERSION: str = sqlite3.sqlite_version
Error: type[Exception] = sqlite3.Error
WRITER_CACHE_KIB, READER_CACHE_KIB = 65_536, 8_192
"""Pages kept by a connection. What readers need is in the operating system's cache as well, and
there are many of them."""
CHECKPOINT_PAGES = 4_000
"""Pages of 4 KiB in the WAL file after which the writer copies them into the database."""
WAL_LIMIT_BYTES = 64 * 1024 * 1024
"""What the WAL file is cut to after it had to grow."""
FETCHED_ROWS = 64
"""Rows taken from a cursor at a time, until their bytes are enough."""
ROWS_PER_INSERT = 64
"""One statement steps over many rows: each step lets go of Python's lock, and getting it
back from a busy event loop can take longer than the insert."""
IDS_PER_SELECT = 256
BUSY_SECONDS = 5.0
"""How long SQLite itself tries again for a lock."""
SHRED_SECONDS = 0.1
"""How long emptying the WAL file waits for those who read."""
LOCK_SECONDS = 5.0
"""How long an erasure waits for its turn."""

FULL, READ_ONLY, CORRUPT, NOT_A_DATABASE, CANNOT_OPEN = 13, 8, 11, 26, 14

_RECORD = RECORD.format(now="?")
SELECT = f"SELECT position, version, {_RECORD} FROM events "
RECORDS = SELECT + "WHERE position > ? AND position <= ? ORDER BY position {order}"
STREAM_RECORDS = (
    SELECT + "WHERE stream_id = {id} AND version > ? AND version <= ? ORDER BY version {order}"
)
LOADED = HEAD_AND_STREAM.format(stream=":stream", now="max(:now, coalesce(head.recorded_at, 0))")
EVENT_COLUMNS = "position, recorded_at, stream_id, version, id, category_id, type_id, record"


def connect(path: Path, *, mode: str, immutable: bool = False) -> Any:
    """A connection of its own, in autocommit and with nothing set.

    Args:
        path: The file.
        mode: `ro`, `rw` or `rwc`, as in SQLite's URIs. One that only reads never checkpoints, not
            even as the last one to be closed.
        immutable: Nobody writes to the file, and it has no WAL file: none is made, nor anything
            else.
    """
    name = f"file:{quote(str(path))}?mode={mode}{'&immutable=1' if immutable else ''}"
    return sqlite3.connect(name, uri=True, isolation_level=None, check_same_thread=False)


def make_engine(path: Path, *, connections: int, checkpoints: bool) -> sa.Engine:
    """An engine whose connections are durable and in autocommit. One of all may checkpoint."""
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        module=sqlite3,
        isolation_level="AUTOCOMMIT",
        pool_size=connections,
        max_overflow=0,
        connect_args={
            "check_same_thread": False,
            "timeout": BUSY_SECONDS,
            "cached_statements": 256,
        },
    )

    def prepare(connection: Any, _record: object) -> None:
        for setting, value, answer in (
            ("journal_mode", "WAL", "wal"),
            ("synchronous", "FULL", 2),
            ("fullfsync", "ON", 1),
            ("checkpoint_fullfsync", "ON", 1),
            ("wal_autocheckpoint", CHECKPOINT_PAGES if checkpoints else 0, None),
            ("journal_size_limit", WAL_LIMIT_BYTES, None),
            ("cache_size", -(WRITER_CACHE_KIB if checkpoints else READER_CACHE_KIB), None),
            ("secure_delete", "ON" if checkpoints else "OFF", None),
        ):
            connection.execute(f"PRAGMA {setting} = {value}").fetchall()
            (found,) = connection.execute(f"PRAGMA {setting}").fetchone()
            if answer is not None and found != answer:
                raise StorageDefect(
                    f"SQLite answers {setting} = {found} where {value} was set: "
                    "is the file on a network file system?"
                )

    sa.event.listen(engine, "connect", prepare)
    return engine


def translated(error: Exception) -> Exception:
    """What an error of the driver means to the core."""
    if isinstance(error, sa.exc.TimeoutError):
        return StorageUnavailable("all connections are in use")
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    if not isinstance(cause, Error):
        return error
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    if code == FULL:
        return StorageFull()
    if code == READ_ONLY:
        return ReadOnly()
    if isinstance(cause, sqlite3.OperationalError) and code != 1:
        return StorageUnavailable(str(cause))
    return StorageDefect(f"{type(cause).__name__}: {cause}")


class SqliteStorage(SqlReads):
    """The log in one file. Implements `core.storage.Storage`."""

    def __init__(self, file: "LogFile", *, readers: int) -> None:
        """Opens a file that is migrated, and marked as served."""
        path = file.path
        self._writing = make_engine(path, connections=1, checkpoints=True)
        self._file = file
        self._names = Names()
        super().__init__(make_engine(path, connections=readers + 1, checkpoints=False))

    def _translated(self, error: Exception) -> Exception:
        return translated(error)

    def records(  # noqa: D102
        self, after: int, until: int, *, backwards: bool, max_bytes: int
    ) -> list[StoredRecord]:
        statement = RECORDS.format(order="DESC" if backwards else "ASC")
        return self._fetch(statement, (now(), after, until), max_bytes)

    def records_at(  # noqa: D102
        self, positions: Sequence[int], *, max_bytes: int
    ) -> list[StoredRecord]:
        backwards = len(positions) > 1 and positions[0] > positions[-1]
        order = "DESC" if backwards else "ASC"
        marks = ", ".join("?" * len(positions))
        statement = f"{SELECT}WHERE position IN ({marks}) ORDER BY position {order}"
        return self._fetch(statement, (now(), *positions), max_bytes)

    def stream_records(  # noqa: D102
        self,
        stream: str,
        after_version: int,
        until_version: int,
        *,
        backwards: bool,
        max_bytes: int,
    ) -> list[StoredRecord]:
        order = "DESC" if backwards else "ASC"
        named = "(SELECT id FROM streams WHERE name = ?)"
        statement = STREAM_RECORDS.format(id=named, order=order)
        parameters = (now(), stream, after_version, until_version)
        return self._fetch(statement, parameters, max_bytes)

    def load(  # noqa: D102
        self, stream: str, after: int, until: int, *, backwards: bool, most: int, max_bytes: int
    ) -> LoadedStream:
        def work(connection: sa.Connection) -> LoadedStream:
            driver = _driver(connection)
            [row] = driver.execute(LOADED, {"stream": stream, "now": now()}).fetchall()
            head, span = head_of(*row[:5]), span_of(row[5:])
            note_recorded(head.recorded_at)
            # What is recorded in between is above the window.
            window = span.window(after, until, most, backwards=backwards)
            rows: list[StoredRecord] = []
            if window[0] < window[1]:
                statement = STREAM_RECORDS.format(id="?", order="DESC" if backwards else "ASC")
                rows = _cut(driver.execute(statement, (now(), row[5], *window)), max_bytes)
            return LoadedStream(head, span, rows)

        loaded = self._read(work)
        self._note_log_id(loaded.head.log_id)
        return loaded

    def _fetch(
        self, statement: str, parameters: Sequence[object], max_bytes: int
    ) -> list[StoredRecord]:
        """Rows as far as their records stay within the bytes; but at least one."""

        def work(connection: sa.Connection) -> list[StoredRecord]:
            return _cut(_driver(connection).execute(statement, parameters), max_bytes)

        return self._read(work)

    def erase(  # noqa: D102
        self, stream_id: int, events: Sequence[ErasableEvent], tags: Sequence[tuple[str, int]]
    ) -> bool:
        with self.write(LOCK_SECONDS) as transaction:
            transaction.erase(stream_id, events, tags)
            transaction.commit()
        return True

    def shred(self) -> bool:
        """The writing connection overwrites what it deletes; the WAL file goes on holding older
        pages until it is emptied."""
        with self._writing.connect() as connection:
            driver = _driver(connection)
            # A backup may be reading for long, and appends wait meanwhile.
            driver.execute(f"PRAGMA busy_timeout = {SHRED_SECONDS * 1000:.0f}").fetchall()
            try:
                busy, *_ = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                driver.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}").fetchall()
        return not busy

    @contextmanager
    def write(self, lock_seconds: float) -> Iterator["SqliteTransaction"]:
        """See `Storage`. The lock is SQLite's own, and nobody else can hold it for long."""
        try:
            with self._writing.connect() as connection:
                driver = _driver(connection)
                try:
                    driver.execute("BEGIN IMMEDIATE")
                    yield SqliteTransaction(connection, self._names)
                finally:
                    if driver.in_transaction:
                        driver.execute("ROLLBACK")
        except Exception as error:
            self._names.forget()
            if not isinstance(error, Refusal):
                # Only a new connection is provably without a transaction; and what an unknown
                # commit left in the WAL file is read by opening it again.
                self._writing.dispose()
                if isinstance(error, CommitUnknown):
                    self._engine.dispose()
            raise translated(error) from error

    def close(self) -> None:
        """Closes the readers first: the last connection of all copies the WAL file's pages."""
        super().close()
        self._file.end_serving()
        self._writing.dispose()
        self._file.release()


def _driver(connection: sa.Connection) -> Any:
    return connection.connection.driver_connection


def _cut(cursor: Any, max_bytes: int) -> list[StoredRecord]:
    """Rows as far as their records stay within the bytes; but at least one."""
    rows: list[StoredRecord] = []
    size = 0
    try:
        while fetched := cursor.fetchmany(FETCHED_ROWS):
            for row in fetched:
                size += len(row[2] or b"")
                if size > max_bytes and rows:
                    return rows
                rows.append(row)
        return rows
    finally:
        # A statement that was not run to its end would keep its snapshot.
        cursor.close()


class SqliteTransaction(SqlStreamChanges):
    """A transaction that has begun. Implements `core.storage.WriteTransaction`."""

    def __init__(self, connection: sa.Connection, names: Names) -> None:
        """Takes a connection, inside of `BEGIN IMMEDIATE`."""
        self._open = connection
        self._driver = _driver(connection)
        self._names = names
        self._stream_ids: dict[str, int] = {}
        self._deleted: set[str] = set()
        self._last_stream_id = 0
        self._wrote = False

    @property
    def _connection(self) -> sa.Connection:
        self._check_open()
        return self._open

    def _check_open(self) -> None:
        # SQLite may have rolled back by itself (disk full): then the next statement would
        # commit alone.
        if not self._driver.in_transaction:
            raise StorageDefect("SQLite ended the transaction by itself")

    def _execute(self, statement: str, parameters: Sequence[object] = ()) -> Any:
        self._check_open()
        return self._driver.execute(statement, parameters)

    def state(  # noqa: D102
        self, streams: Collection[str], ids: Collection[EventId]
    ) -> LockedState:
        log_id, position, recorded_at, event_id, generation, self._last_stream_id = self._execute(
            "SELECT l.log_id, e.position, e.recorded_at, e.id, l.generation, "
            "(SELECT coalesce(max(id), 0) FROM streams) "
            "FROM log l LEFT JOIN events e ON e.position = (SELECT max(position) FROM events)"
        ).fetchone()
        head = Head(
            UUID(bytes=log_id),
            position or 0,
            recorded_at or 0,
            UUID(bytes=event_id) if event_id else None,
            generation,
        )
        note_recorded(head.recorded_at)
        return LockedState(head, self._streams(list(streams)), self._recorded(list(ids)))

    def _streams(self, names: list[str]) -> dict[str, StreamState]:
        found: dict[str, StreamState] = {}
        for some in _padded(names, IDS_PER_SELECT):
            marks = ", ".join("?" * len(some))
            rows = self._execute(
                "SELECT s.name, s.id, s.state, "
                "(SELECT coalesce(max(version), 0) FROM events WHERE stream_id = s.id), "
                "s.floor_version, s.max_count, s.max_age_us "
                f"FROM streams s WHERE s.name IN ({marks})",
                some,
            )
            for name, stream_id, state, last_version, *rule in rows.fetchall():
                self._stream_ids[name] = stream_id
                if state:
                    self._deleted.add(name)
                found[name] = StreamState(
                    version=0 if state else last_version,
                    last_version=last_version,
                    permanently_deleted=state == 2,
                    rule=Rule(*rule) if any(rule) else NOTHING,
                )
        return found

    def _recorded(self, ids: list[EventId]) -> dict[EventId, RecordedId]:
        found: dict[EventId, RecordedId] = {}
        for some in _padded(ids, IDS_PER_SELECT):
            marks = ", ".join("?" * len(some))
            rows = self._execute(
                "SELECT e.id, e.position, s.name, e.version, e.recorded_at, e.record "
                "FROM events e LEFT JOIN streams s ON s.id = e.stream_id "
                f"WHERE e.id IN ({marks})",
                some,
            )
            for event_id, position, stream, version, recorded_at, record in rows.fetchall():
                found[event_id] = RecordedId(
                    position, stream or "", version or 0, recorded_at, record
                )
        return found

    def records(  # noqa: D102
        self, after: int, until: int, *, max_bytes: int
    ) -> list[StoredRecord]:
        statement = RECORDS.format(order="ASC")
        return _cut(self._execute(statement, (now(), after, until)), max_bytes)

    def insert(self, records: Sequence[NewRecord]) -> None:  # noqa: D102
        self._wrote = True
        types = self._name_ids("types", {record.terms.type for record in records})
        streams = {record.terms.stream for record in records if record.terms.stream}
        categories = self._name_ids("categories", {category_of(name) for name in streams})
        new_streams = []
        for name in sorted(streams - self._stream_ids.keys()):
            self._last_stream_id += 1
            self._stream_ids[name] = self._last_stream_id
            new_streams.append((self._last_stream_id, name, categories[category_of(name)]))
        self._insert("streams", "id, name, category_id", new_streams)
        for name in streams & self._deleted:
            self._execute("UPDATE streams SET state = 0 WHERE id = ?", (self._stream_ids[name],))
        rows = [
            (
                record.position,
                record.recorded_at,
                self._stream_ids[record.terms.stream] if record.terms.stream else None,
                record.version or None,
                record.id,
                categories[category_of(record.terms.stream)] if record.terms.stream else None,
                types[record.terms.type],
                record.record,
            )
            for record in records
        ]
        self._insert("events", EVENT_COLUMNS, rows)
        tags = [(tag, record.position) for record in records for tag in record.terms.tags]
        self._insert("event_tags", "tag, position", sorted(tags))

    def _insert(self, table: str, columns: str, rows: Sequence[Sequence[object]]) -> None:
        """Inserts many rows a statement, then the rest one by one: both texts are prepared once."""
        row_marks = f"({', '.join('?' * len(columns.split(',')))})"
        for size in (ROWS_PER_INSERT, 1):
            marks = ", ".join([row_marks] * size)
            statement = f"INSERT INTO {table} ({columns}) VALUES {marks}"
            whole = len(rows) // size * size
            for start in range(0, whole, size):
                flat = [value for row in rows[start : start + size] for value in row]
                self._execute(statement, flat)
            rows = rows[whole:]

    def _name_ids(self, table: str, names: set[str]) -> dict[str, int]:
        """Ids of types or categories, made for those that are new."""
        known = self._names.known(table)
        for name in names - known.keys():
            row = self._execute(f"SELECT id FROM {table} WHERE name = ?", (name,)).fetchone()
            if row is None:
                row = self._execute(
                    f"INSERT INTO {table} (id, name) "
                    f"SELECT coalesce(max(id), 0) + 1, ? FROM {table} RETURNING id",
                    (name,),
                ).fetchone()
            known[name] = row[0]
        return known

    def erase(
        self, stream_id: int, erased: Sequence[ErasableEvent], tags: Sequence[tuple[str, int]]
    ) -> None:
        """See `Storage`."""
        self._wrote = True
        changes.erase(self._connection, stream_id, erased, tags)

    def commit(self) -> None:  # noqa: D102
        if not self._wrote:
            self._execute("UPDATE log SET generation = generation")
        try:
            self._driver.execute("COMMIT")
        except Exception as error:
            cause = translated(error)
            if isinstance(cause, StorageFull):
                raise
            raise CommitUnknown(str(error)) from error


def _padded(values: list[Any], size: int) -> Iterator[list[Any]]:
    """Slices of at most `size`, filled up to a power of two with what is there already, so
    that few statement texts are enough to be prepared once."""
    for start in range(0, len(values), size):
        some = values[start : start + size]
        some += some[-1:] * ((1 << (len(some) - 1).bit_length()) - len(some))
        yield some
