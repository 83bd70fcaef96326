"""The log in PostgreSQL, shared by any number of servers.

Appends are serial: each transaction takes one advisory lock, and only a later statement
reads (in READ COMMITTED, so it sees what the lock's last holder committed). A lock is let
go of after its transaction became visible, so whoever holds it sees every lower
position. Nothing relies on the state of a session, so transaction poolers will do; statements
are prepared only where a connection is seen to be a session of its own (decision 0011).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from typing import Any
from uuid import UUID

import psycopg
import sqlalchemy as sa
from psycopg import errors as pg

from treering_server.core.errors import ReadOnly, StorageFull, StorageUnavailable
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
from treering_server.storage import changes, incarnations
from treering_server.storage.changes import SqlStreamChanges
from treering_server.storage.names import Names
from treering_server.storage.reads import SqlReads
from treering_server.storage.removal import RECORD, note_recorded, now
from treering_server.storage.schema import log
from treering_server.storage.statements import HEAD_AND_STREAM, head_of, span_of

OLDEST_VERSION = 14
CONNECT_SECONDS = 5
TCP_TIMEOUT_MILLISECONDS = 10_000
"""After that long without an answer from its host a connection counts as lost."""
STATEMENT_SECONDS = 30.0
"""For one statement under the append lock."""
TAKE_OVER_SECONDS = 5.0
"""How long the append lock is waited for after a failover, and for a fork by hand."""
NEVER_UNASKED = 2**63
"""Executions after which a statement is prepared that was not asked to be."""
IDLE_SECONDS = 2.0
"""A server that stops while it holds the append lock loses it after that long."""

# The key is made from the log's table, so that logs in other schemas of a database, and
# other programs' keys, are others.
APPEND_LOCK_KEY = "('log'::regclass::oid::bigint + (x'74726565'::bigint << 32))"

ERASURE_LOCK_KEY = f"{APPEND_LOCK_KEY} + 2"

BEGIN_ERASURE = f"""
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SET LOCAL lock_timeout = '{round(STATEMENT_SECONDS * 1000)}ms';
SET LOCAL statement_timeout = '{round(STATEMENT_SECONDS * 1000)}ms'
"""

# Everything is set for this transaction only, and the lock taken last. The reads come in a
# later statement: in the same one they would see the log as it was before the wait. All that
# follows goes by keys, so one plan fits all values; to make it each time would take longer than
# all the rest.
BEGIN = """
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SELECT
  set_config('plan_cache_mode', 'force_generic_plan', true),
  set_config('lock_timeout', '{lock}ms', true),
  set_config('statement_timeout', '{statement}ms', true),
  set_config('idle_in_transaction_session_timeout', '{idle}ms', true),
  set_config('synchronous_commit',
    CASE WHEN current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')
    THEN 'on' ELSE current_setting('synchronous_commit') END, true),
  pg_advisory_xact_lock({key})
"""

# Of the WAL, as of now: `pg_control_checkpoint` tells of a failover with the next checkpoint only.
TIMELINE = "substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"

# Who this database cluster is. The system identifier is not told to everybody.
SYSTEM_ID = "(SELECT system_identifier::text FROM pg_control_system())"
MAY_ASK = "SELECT has_function_privilege('pg_control_system()', 'execute')"
IDENTITY = f"""
SELECT log_id, system_id, timeline, {{system_id}} AS system_id_now,
  CASE WHEN NOT pg_is_in_recovery() THEN {TIMELINE} END AS timeline_now,
  pg_backend_pid() AS backend_pid
FROM log
"""

# Kind, name, uuids, record, then numbers: the head, the streams and the ids in one trip.
# LATERAL with a LIMIT, so that each name and id is looked up by its index, whatever the planner
# believes of the tables' sizes.
STATE = f"""
SELECT 0, CASE WHEN l.timeline <> {TIMELINE} THEN 'other timeline' END, l.log_id, e.id, NULL::bytea,
  e.position, e.recorded_at, (SELECT coalesce(max(id), 0) FROM streams), l.generation, NULL::bigint,
  NULL::bigint
FROM log l LEFT JOIN events e ON e.position = (SELECT max(position) FROM events)
UNION ALL
SELECT 1, s.name, NULL, NULL, NULL, s.id, s.state,
  (SELECT coalesce(max(version), 0) FROM events WHERE stream_id = s.id),
  s.floor_version, s.max_count, s.max_age_us
FROM unnest(%b::text[]) AS asked(name)
CROSS JOIN LATERAL (SELECT * FROM streams WHERE streams.name = asked.name LIMIT 1) AS s
UNION ALL
SELECT 2, s.name, e.id, NULL, e.record, e.position, e.recorded_at, e.version, NULL, NULL, NULL
FROM unnest(%b::bytea[]) AS asked(id)
CROSS JOIN LATERAL (SELECT * FROM events WHERE events.id = encode(asked.id, 'hex')::uuid LIMIT 1)
  AS e
LEFT JOIN streams s ON s.id = e.stream_id
"""

# Not COPY: one that stalls escapes every time-out and holds the lock. NULLs travel as 0.
INSERT = """
WITH new_streams AS (
  INSERT INTO streams (id, name, category_id)
  SELECT * FROM unnest(%b::bigint[], %b::text[], %b::integer[])
), new_tags AS (
  INSERT INTO event_tags (tag, position) SELECT * FROM unnest(%b::text[], %b::bigint[])
)
INSERT INTO events (position, recorded_at, stream_id, version, id, category_id, type_id, record)
SELECT position, recorded_at, nullif(stream_id, 0), nullif(version, 0), encode(id, 'hex')::uuid,
  nullif(category_id, 0), type_id, record
FROM unnest(%b::bigint[], %b::bigint[], %b::bigint[], %b::bigint[], %b::bytea[], %b::integer[],
  %b::integer[], %b::bytea[])
  AS e(position, recorded_at, stream_id, version, id, category_id, type_id, record)
"""

RESURRECT = """
UPDATE streams SET state = 0 WHERE id = ANY(%b::bigint[]) AND id = ANY(%b::bigint[])
"""

NEW_NAMES = """
WITH known AS (SELECT id, name FROM {table} WHERE name = ANY(%b::text[])), made AS (
  INSERT INTO {table} (id, name)
  SELECT (SELECT coalesce(max(id), 0) FROM {table}) + row_number() OVER (), name
  FROM unnest(%b::text[]) AS n(name) WHERE name NOT IN (SELECT name FROM known)
  RETURNING id, name)
SELECT id, name FROM known UNION ALL SELECT id, name FROM made
"""

WINDOW = "position > %(after)s AND position <= %(until)s"


@cache
def records_where(
    where: str, rank: str = "position", *, backwards: bool = False, now: str = "%(now)s"
) -> str:
    """Reads records, cut by bytes: all rows of a result travel at once. Sums need no record to be
    read."""
    order = "DESC" if backwards else "ASC"
    return f"""
SELECT position, version, record FROM (
  SELECT position, version, record, row_number() OVER w AS ordinal,
    sum(octet_length(record)) OVER w AS bytes
  FROM (SELECT position, version, {RECORD.format(now=now)} AS record FROM events WHERE {where})
    AS seen
  WINDOW w AS (ORDER BY {rank} {order} ROWS UNBOUNDED PRECEDING)) AS cut
WHERE ordinal = 1 OR bytes IS NULL OR bytes <= %(max_bytes)s ORDER BY {rank} {order}
"""


# The head and the stream in the first row, its records in those behind: position, version, record.
# The window is that of `StreamSpan.window`.
LOAD = f"""
WITH state AS MATERIALIZED (
  {HEAD_AND_STREAM.format(stream="%(stream)s", now="greatest(%(now)s, head.recorded_at)")}
), span AS (
  SELECT *, greatest(%(after)s, floor_version, last_version - max_count,
      CASE WHEN max_age_us IS NOT NULL THEN coalesce(first_young - 1, last_version) END) AS low,
    least(%(until)s, last_version) AS high
  FROM state
), edges AS (
  SELECT stream_id, greatest(%(now)s, recorded_at) AS now, {{edges}} FROM span
)
SELECT position, generation, NULL::bytea, recorded_at, log_id, id, stream_id, last_version,
  deleted_version, floor_version, max_count, max_age_us, first_young
FROM state
UNION ALL
SELECT cut.position, cut.version, cut.record, {", ".join(["NULL"] * 10)}
FROM edges CROSS JOIN LATERAL ({{records}}) AS cut
"""
FORWARDS = "low, low + least(high - low, %(most)s) AS high"
BACKWARDS = "high - least(high - low, %(most)s) AS low, high"
OF_EDGES = "stream_id = edges.stream_id AND version > edges.low AND version <= edges.high"


def make_engine(url: sa.URL, *, connections: int) -> sa.Engine:
    """An engine whose connections are in autocommit and prepare nothing by themselves: a prepared
    statement belongs to a session, and in time gets a plan that fits no value in particular."""
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        isolation_level="AUTOCOMMIT",
        pool_size=connections,
        max_overflow=0,
        pool_timeout=30,
        use_native_hstore=False,
        connect_args={
            "application_name": "treering",
            "client_encoding": "utf8",
            "connect_timeout": CONNECT_SECONDS,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": TCP_TIMEOUT_MILLISECONDS,
            "prepare_threshold": None,
        }
        | dict(url.query),
    )
    sa.event.listen(engine, "do_execute", _execute)
    return engine


def _execute(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
    """Runs a statement of SQLAlchemy's, prepared if it is marked so and that can be."""
    cursor.execute(statement, parameters, prepare=context.execution_options.get("prepare", False))
    return True


LOST = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    pg.SystemError,
    # The driver takes these for defects, but a server that stopped under the lock comes to them.
    pg.IdleInTransactionSessionTimeout,
    *([pg.TransactionTimeout] if hasattr(pg, "TransactionTimeout") else []),
)
"""Errors after which the same may work on another connection."""


def translated(error: Exception) -> Exception:
    """What an error of the driver means to the core."""
    if isinstance(error, sa.exc.TimeoutError):
        return StorageUnavailable("all connections are in use")
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    if not isinstance(cause, psycopg.Error):
        return error
    if isinstance(cause, pg.DiskFull):
        return StorageFull()
    if isinstance(cause, (pg.ReadOnlySqlTransaction, pg.FeatureNotSupported)):
        # The latter where a standby is asked to begin a transaction that writes.
        return ReadOnly()
    if isinstance(cause, pg.LockNotAvailable):
        return StorageUnavailable("the append lock was not free in time")
    if isinstance(cause, LOST):
        return StorageUnavailable(_first_line(cause))
    return StorageDefect(f"{type(cause).__name__}: {_first_line(cause)}")


def _first_line(error: BaseException | None) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class PostgresqlStorage(SqlReads):
    """The log in a schema of a database. Implements `core.storage.Storage`."""

    def __init__(self, engine: sa.Engine) -> None:
        """Takes an engine on a database that is migrated."""
        self._names = Names()
        with engine.connect() as connection:
            self._identity = identity_statement(connection)
        engine.dispose()
        sa.event.listen(engine, "engine_connect", self._identify)
        super().__init__(engine)

    def _identify(self, connection: sa.Connection) -> None:
        """Sees, once for each connection of the pool, whether the log is where it was: if it may
        have lost its end, nothing is read or written before it has a new id."""
        if connection.info.get("identified"):
            return
        try:
            identity = connection.exec_driver_sql(self._identity).one()
            log_id: UUID = identity.log_id
            if identity.timeline_now is None:
                # What it lacks may be on its way, or lost: only a primary can tell.
                raise ReadOnly
            if identity[1:3] != identity[3:5]:
                log_id = self._take_over(connection)
        except BaseException:
            connection.invalidate()
            raise
        connection.info["identified"] = True
        driver = _driver(connection)
        if driver.info.backend_pid == identity.backend_pid:
            # A pooler would have told a number of its own.
            driver.prepare_threshold = NEVER_UNASKED
        self._note_log_id(log_id)

    def _take_over(self, connection: sa.Connection) -> UUID:
        """Begins a new incarnation, unless another server just did."""
        with taking_over(connection, self._identity) as found:
            if found.system_id not in (None, found.system_id_now):
                cause = "loaded into another database system"
            elif found.timeline not in (None, found.timeline_now):
                cause = "failover"
            else:
                log_id: UUID = found.log_id
                return log_id
            return incarnations.begin(connection, cause).log_id

    def _translated(self, error: Exception) -> Exception:
        return translated(error)

    def records(  # noqa: D102
        self, after: int, until: int, *, backwards: bool, max_bytes: int
    ) -> list[StoredRecord]:
        parameters = {"after": after, "until": until}
        return self._fetch(WINDOW, "position", parameters, max_bytes, backwards=backwards)

    def records_at(  # noqa: D102
        self, positions: Sequence[int], *, max_bytes: int
    ) -> list[StoredRecord]:
        backwards = len(positions) > 1 and positions[0] > positions[-1]
        where = "position = ANY(%(positions)b::bigint[])"
        parameters = {"positions": list(positions)}
        return self._fetch(where, "position", parameters, max_bytes, backwards=backwards)

    def stream_records(  # noqa: D102
        self,
        stream: str,
        after_version: int,
        until_version: int,
        *,
        backwards: bool,
        max_bytes: int,
    ) -> list[StoredRecord]:
        where = (
            "stream_id = (SELECT id FROM streams WHERE name = %(stream)s) "
            "AND version > %(after)s AND version <= %(until)s"
        )
        parameters = {"stream": stream, "after": after_version, "until": until_version}
        return self._fetch(where, "version", parameters, max_bytes, backwards=backwards)

    def load(  # noqa: D102
        self, stream: str, after: int, until: int, *, backwards: bool, most: int, max_bytes: int
    ) -> LoadedStream:
        records = records_where(OF_EDGES, "version", backwards=backwards, now="edges.now")
        statement = LOAD.format(edges=BACKWARDS if backwards else FORWARDS, records=records)
        given = {
            "stream": stream,
            "after": after,
            "until": until,
            "most": most,
            "max_bytes": max_bytes,
            "now": now(),
        }

        def work(connection: sa.Connection) -> list[Any]:
            with _driver(connection).cursor(binary=True) as cursor:
                cursor.execute(statement, given, prepare=True)
                rows: list[Any] = cursor.fetchall()
                return rows

        state, *rows = self._read(work)
        position, generation, _, recorded_at, log_id, event_id, *of_stream = state
        head = head_of(log_id, position, recorded_at, event_id, generation)
        self._note_log_id(head.log_id)
        note_recorded(head.recorded_at)
        stored = sorted((row[:3] for row in rows), key=itemgetter(1), reverse=backwards)
        return LoadedStream(head, span_of(of_stream), stored)

    def _fetch(
        self,
        where: str,
        rank: str,
        parameters: Mapping[str, object],
        max_bytes: int,
        *,
        backwards: bool,
    ) -> list[StoredRecord]:
        statement = records_where(where, rank, backwards=backwards)

        def work(connection: sa.Connection) -> list[StoredRecord]:
            with _driver(connection).cursor(binary=True) as cursor:
                given = {"now": now(), "max_bytes": max_bytes, **parameters}
                cursor.execute(statement, given, prepare=True)
                rows: list[StoredRecord] = cursor.fetchall()
                return rows

        return self._read(work)

    def erase(  # noqa: D102
        self, stream_id: int, events: Sequence[ErasableEvent], tags: Sequence[tuple[str, int]]
    ) -> bool:
        def work(connection: sa.Connection) -> bool:
            driver = _driver(connection)
            driver.execute(BEGIN_ERASURE)
            # Not the append lock: erased rows are none that an append looks at.
            free = driver.execute(f"SELECT pg_try_advisory_xact_lock({ERASURE_LOCK_KEY})")
            mine: bool = free.fetchone()[0]
            if mine:
                changes.erase(connection, stream_id, events, tags)
            driver.execute("COMMIT")
            return mine

        return self._read(work)

    def shred(self) -> bool:
        """Rows that were replaced go with the next vacuum."""
        return True

    @contextmanager
    def write(self, lock_seconds: float) -> Iterator["PostgresqlTransaction"]:
        """See `Storage`."""
        try:
            with self._engine.connect() as connection:
                driver = _driver(connection)
                try:
                    _begin(driver, lock_seconds)
                    with driver.cursor(binary=True) as cursor:
                        transaction = PostgresqlTransaction(connection, cursor, self._names)
                        yield transaction
                        if not transaction.committed:
                            self._names.forget()
                            cursor.execute("ROLLBACK")
                except BaseException:
                    # Only a closed connection is provably idle.
                    connection.invalidate()
                    raise
        except Exception as error:
            self._names.forget()
            meaning = translated(error)
            if isinstance(meaning, StorageUnavailable | CommitUnknown):
                # What else the pool holds has died as well.
                self._engine.dispose()
            raise meaning from error


def _driver(connection: sa.Connection) -> Any:
    return connection.connection.driver_connection


def _begin(driver: Any, lock_seconds: float) -> None:
    """Begins a transaction and takes the append lock in it."""
    driver.execute(
        BEGIN.format(
            lock=max(1, round(lock_seconds * 1000)),
            statement=round(STATEMENT_SECONDS * 1000),
            idle=round(IDLE_SECONDS * 1000),
            key=APPEND_LOCK_KEY,
        )
    )


def identity_statement(connection: sa.Connection) -> str:
    """What to ask for where the log is, and where it was when that was noted last."""
    may_ask = connection.exec_driver_sql(MAY_ASK).scalar()
    # Who may not ask takes it to be the one that is known: failovers are noticed all the same.
    return IDENTITY.format(system_id=SYSTEM_ID if may_ask else "system_id")


@contextmanager
def taking_over(connection: sa.Connection, identity: str) -> Iterator[sa.Row[Any]]:
    """A transaction that holds the append lock and notes, at its end, where the log is. Yields
    what `identity_statement` asks for."""
    driver = _driver(connection)
    _begin(driver, TAKE_OVER_SECONDS)
    # Reads wait for this commit, and must not wait for a standby that is away. The first append
    # waits for both.
    connection.exec_driver_sql("SET LOCAL synchronous_commit = 'local'")
    found = connection.exec_driver_sql(identity).one()
    yield found
    connection.execute(
        sa.update(log).values(system_id=found.system_id_now, timeline=found.timeline_now)
    )
    driver.execute("COMMIT")


class PostgresqlTransaction(SqlStreamChanges):
    """A transaction that holds the append lock. Implements `core.storage.WriteTransaction`."""

    def __init__(self, connection: sa.Connection, cursor: Any, names: Names) -> None:
        """Takes a connection after `BEGIN`."""
        self.committed = False
        self._open = connection
        self._driver = _driver(connection)
        self._cursor = cursor
        self._names = names
        self._stream_ids: dict[str, int] = {}
        self._deleted: list[int] = []
        self._last_stream_id = 0
        self._wrote = False

    @property
    def _connection(self) -> sa.Connection:
        return self._open

    def state(  # noqa: D102
        self, streams: Collection[str], ids: Collection[EventId]
    ) -> LockedState:
        found_streams: dict[str, StreamState] = {}
        found_ids: dict[EventId, RecordedId] = {}
        self._cursor.execute(STATE, (list(streams), list(ids)), prepare=True)
        rows = self._cursor.fetchall()
        for kind, name, uuid, last_id, record, *numbers in rows:
            first, second, third, *rule = numbers
            if kind == 0:
                if name is not None:
                    raise StorageUnavailable(f"it failed over to an {name}")
                head = Head(uuid, first or 0, second or 0, last_id, rule[0])
                self._last_stream_id = third
            elif kind == 1:
                self._stream_ids[name] = first
                if second:
                    self._deleted.append(first)
                found_streams[name] = StreamState(
                    version=0 if second else third,
                    last_version=third,
                    permanently_deleted=second == 2,
                    rule=Rule(*rule) if any(rule) else NOTHING,
                )
            else:
                found_ids[uuid.bytes] = RecordedId(first, name or "", third or 0, second, record)
        note_recorded(head.recorded_at)
        return LockedState(head, found_streams, found_ids)

    def records(  # noqa: D102
        self, after: int, until: int, *, max_bytes: int
    ) -> list[StoredRecord]:
        parameters = {"now": now(), "max_bytes": max_bytes, "after": after, "until": until}
        self._cursor.execute(records_where(WINDOW), parameters)
        rows: list[StoredRecord] = self._cursor.fetchall()
        return rows

    def insert(self, records: Sequence[NewRecord]) -> None:  # noqa: D102
        self._wrote = True
        types = self._name_ids("types", {record.terms.type for record in records})
        streams = {record.terms.stream for record in records if record.terms.stream}
        categories = self._name_ids("categories", {category_of(name) for name in streams})
        new_streams = sorted(streams - self._stream_ids.keys())
        first = self._last_stream_id + 1
        new_ids = list(range(first, first + len(new_streams)))
        self._last_stream_id += len(new_streams)
        self._stream_ids.update(zip(new_streams, new_ids, strict=True))
        tags = sorted((tag, record.position) for record in records for tag in record.terms.tags)
        category_ids = {name: categories[category_of(name)] for name in streams} | {"": 0}
        if self._deleted:
            written = [self._stream_ids[name] for name in streams]
            self._cursor.execute(RESURRECT, (self._deleted, written))
        self._cursor.execute(
            INSERT,
            (
                new_ids,
                new_streams,
                [category_ids[name] for name in new_streams],
                [tag for tag, _ in tags],
                [position for _, position in tags],
                [record.position for record in records],
                [record.recorded_at for record in records],
                [
                    self._stream_ids[record.terms.stream] if record.terms.stream else 0
                    for record in records
                ],
                [record.version for record in records],
                [record.id for record in records],
                [category_ids[record.terms.stream] for record in records],
                [types[record.terms.type] for record in records],
                [record.record for record in records],
            ),
            prepare=True,
        )

    def _name_ids(self, table: str, names: set[str]) -> dict[str, int]:
        """Ids of types or categories, made for those that are new."""
        known = self._names.known(table)
        if missing := sorted(names - known.keys()):
            self._cursor.execute(NEW_NAMES.format(table=table), (missing, missing))
            known.update((name, number) for number, name in self._cursor.fetchall())
        return known

    def commit(self) -> None:  # noqa: D102
        if not self._wrote:
            self._cursor.execute("SELECT 1 FROM log FOR UPDATE")
        notices: list[str] = []

        def note(notice: psycopg.errors.Diagnostic) -> None:
            notices.append(notice.sqlstate or "")

        self._driver.add_notice_handler(note)
        try:
            self._cursor.execute("COMMIT")
        except Exception as error:
            raise CommitUnknown(_first_line(error)) from error
        finally:
            self._driver.remove_notice_handler(note)
        if self._cursor.statusmessage != "COMMIT":
            raise StorageDefect(f"COMMIT was answered with {self._cursor.statusmessage}")
        if notices:
            # A cancelled wait for the synchronous standby: committed here, perhaps not there.
            raise CommitUnknown(f"COMMIT came with a warning ({notices[0]})")
        self.committed = True


@dataclass(frozen=True, slots=True)
class Facts:
    """What a PostgreSQL is like, as far as a log depends on it."""

    version: str
    database: str
    durability: str
    refusal: str | None
    """Why nothing can be served from it, in one sentence."""


def examine(engine: sa.Engine) -> Facts:
    """Looks at settings that could break a promise."""
    with engine.connect() as connection:
        row = connection.execute(
            sa.text("""
                SELECT current_setting('server_version') AS version,
                  current_setting('server_version_num')::integer AS number,
                  current_database() AS database, current_setting('fsync') AS fsync,
                  current_setting('full_page_writes') AS full_page_writes,
                  current_setting('synchronous_standby_names') AS standbys,
                  current_setting('server_encoding') AS encoding,
                  current_setting('default_transaction_read_only') AS read_only,
                  pg_is_in_recovery() AS is_standby
            """)
        ).one()
    refusal = None
    if row.number < OLDEST_VERSION * 10_000:
        refusal = f"PostgreSQL {row.version} is too old: {OLDEST_VERSION} or later is needed"
    elif row.fsync == "off" or row.full_page_writes == "off":
        refusal = (
            "PostgreSQL runs with fsync or full_page_writes off and would lose acknowledged "
            "events in a crash: turn both on"
        )
    elif row.encoding != "UTF8":
        refusal = f"the database's encoding is {row.encoding}: UTF8 is needed"
    elif row.is_standby or row.read_only == "on":
        refusal = "the database takes no writes (a standby?): name the primary"
    durability = "flushed to the primary's disk at every commit (synchronous_commit=on)"
    if row.standbys:
        durability += f", and to the synchronous standbys ({row.standbys})"
    else:
        durability += "; no synchronous standby: it does not survive the loss of that machine"
    return Facts(row.version, row.database, durability, refusal)


def probe_append_lock(engine: sa.Engine) -> None:
    """Sees with two connections that the append lock excludes, and that what is read after
    taking it is no older: some engines that speak PostgreSQL's protocol only pretend.

    Raises:
        StorageDefect: It does not hold.
    """
    begin = (
        # The probe must not wait for a standby that is away: it proves nothing about that.
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; "
        "SET LOCAL synchronous_commit = 'local'; SET LOCAL lock_timeout = '10s'"
    )
    version = "SELECT xmin::text FROM log"
    attempt = f"SELECT pg_try_advisory_xact_lock({APPEND_LOCK_KEY} + 1)"
    with engine.connect() as one, engine.connect() as two:
        first, second = _driver(one), _driver(two)
        try:
            first.execute(begin)
            second.execute(begin)
            # Another server may be probing at this moment: then it is proved as well.
            got_first = first.execute(attempt).fetchone()[0]
            got_second = second.execute(attempt).fetchone()[0]
            if got_first and got_second:
                raise StorageDefect("the database's advisory locks do not exclude one another")
            isolation = first.execute("SHOW transaction_isolation").fetchone()[0]
            if isolation != "read committed":
                raise StorageDefect(f"the database runs {isolation} where read committed was set")
            before = first.execute(version).fetchone()
            second.execute("UPDATE log SET generation = generation")
            second.execute("COMMIT")
            if first.execute(version).fetchone() == before:
                raise StorageDefect("a later statement does not see what was committed before it")
        finally:
            first.rollback()
            second.rollback()
