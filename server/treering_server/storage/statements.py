"""Statements that both databases take as they are."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from treering_server.core.model import DeletionState, Head, ListStreams, Retention, Stream
from treering_server.core.storage import NO_SPAN, Incarnation, StreamSpan
from treering_server.storage.schema import events, incarnations, streams
from treering_server.storage.sql import Driver, Sql

DELETION_STATES: tuple[DeletionState, ...] = ("live", "deleted", "permanent")

# Time and version rise with position, so the last one at or below a bound is found by
# bisection: 20 probes of an index for a million rows, where an index of its own would cost
# every append. Rows stay when events are removed, so neither has holes.
_POSITION_AT_TIME = sa.text("""
    WITH RECURSIVE bisection(low, high) AS (
      SELECT CAST(0 AS BIGINT), (SELECT coalesce(max(position), 0) FROM events)
      UNION ALL
      SELECT
        CASE WHEN e.recorded_at <= :bound THEN e.position ELSE low END,
        CASE WHEN e.recorded_at <= :bound THEN high ELSE e.position - 1 END
      FROM bisection JOIN events e ON e.position = (low + high + 1) / 2
      WHERE low < high)
    SELECT low FROM bisection WHERE low >= high
""").bindparams(sa.bindparam("bound", type_=sa.BigInteger()))

# Of the streams in `named`, each with its `last_version`. Most are asked for as they are now, which
# the first probe finds.
VERSIONS_BY_BISECTION = """
    bisection(stream_id, low, high) AS (
      SELECT id, CASE WHEN {bound} >= (SELECT position FROM events
          WHERE stream_id = named.id AND version = last_version)
        THEN last_version ELSE CAST(0 AS BIGINT) END, last_version
      FROM named
      UNION ALL
      SELECT b.stream_id,
        CASE WHEN e.position <= {bound} THEN e.version ELSE low END,
        CASE WHEN e.position <= {bound} THEN high ELSE e.version - 1 END
      FROM bisection b JOIN events e
        ON e.stream_id = b.stream_id AND e.version = (low + high + 1) / 2
      WHERE low < high)"""

# For one stream by its name. What is older than `max_age` is marked as removed before long, so few
# are passed over.
_SPAN = (
    sa.text(f"""
    WITH RECURSIVE named AS (
      SELECT streams.*,
        (SELECT coalesce(max(version), 0) FROM events WHERE stream_id = streams.id) AS last_version
      FROM streams WHERE name = :name),
    {VERSIONS_BY_BISECTION.format(bound=":bound")}
    SELECT low, last_version, deleted_version, floor_version, max_count, max_age_us,
      CASE WHEN max_age_us IS NOT NULL THEN
        (SELECT version FROM events WHERE stream_id = named.id AND version > floor_version
          AND recorded_at >= :now - max_age_us ORDER BY version LIMIT 1)
      END AS first_young
    FROM named, bisection WHERE low >= high
""")
    .bindparams(
        sa.bindparam("bound", type_=sa.BigInteger()), sa.bindparam("now", type_=sa.BigInteger())
    )
    .execution_options(prepare=True)
)

_HEAD_COLUMNS = "log.log_id, head.position, head.recorded_at, head.id, log.generation"
_HEAD_TABLES = """
FROM log LEFT JOIN events AS head ON head.position = (SELECT max(position) FROM events)"""

# The head, and a stream as of it.
HEAD_AND_STREAM = f"""
SELECT {_HEAD_COLUMNS}, streams.id AS stream_id,
  (SELECT coalesce(max(version), 0) FROM events WHERE stream_id = streams.id) AS last_version,
  streams.deleted_version, streams.floor_version, streams.max_count, streams.max_age_us,
  CASE WHEN streams.max_age_us IS NOT NULL THEN
    (SELECT version FROM events WHERE stream_id = streams.id AND version > streams.floor_version
      AND recorded_at >= {{now}} - streams.max_age_us ORDER BY version LIMIT 1)
  END AS first_young
{_HEAD_TABLES} LEFT JOIN streams ON streams.name = {{stream}}
"""

_HEAD = Sql(f"SELECT {_HEAD_COLUMNS} {_HEAD_TABLES}")


def last_position(connection: sa.Connection) -> int:
    """Position of the last event; 0: there is none."""
    return connection.scalar(sa.select(sa.func.max(events.c.position))) or 0


def head(connection: sa.Connection) -> Head:
    """The end of the log."""
    [row] = Driver(connection).rows(_HEAD, prepare=True)
    return head_of(*row)


def head_of(
    log_id: UUID | bytes,
    position: int | None,
    recorded_at: int | None,
    event_id: UUID | bytes | None,
    generation: int,
) -> Head:
    """The head of what a driver gives: SQLite's has bytes where PostgreSQL's has ids."""
    if isinstance(log_id, bytes):
        log_id = UUID(bytes=log_id)
    if isinstance(event_id, bytes):
        event_id = UUID(bytes=event_id)
    return Head(log_id, position or 0, recorded_at or 0, event_id, generation)


def span_of(of_stream: Sequence[Any]) -> StreamSpan:
    """The versions of a stream, of what `HEAD_AND_STREAM` tells of it."""
    stream_id, last_version, deleted_version, *rule = of_stream
    if stream_id is None:
        return NO_SPAN
    return StreamSpan(last_version, _first_left(last_version, *rule), deleted_version)


def all_incarnations(connection: sa.Connection) -> list[Incarnation]:
    """What the log has had, oldest first."""
    rows = connection.execute(
        sa.select(incarnations.c.log_id, incarnations.c.first_position).order_by(
            incarnations.c.ordinal
        )
    )
    return [Incarnation(log_id, first_position) for log_id, first_position in rows]


def event_id(connection: sa.Connection, position: int) -> UUID | None:
    """Id of the event at a position."""
    return connection.scalar(sa.select(events.c.id).where(events.c.position == position))


def position_at_time(connection: sa.Connection, microseconds: int) -> int:
    """The last position recorded at or before a time; 0: none."""
    return connection.scalar(_POSITION_AT_TIME, {"bound": microseconds}) or 0


def span(connection: sa.Connection, name: str, position: int, now: int) -> StreamSpan:
    """The versions that a stream was given up to a position, and can be read at a time."""
    row = connection.execute(_SPAN, {"name": name, "bound": position, "now": now}).one_or_none()
    if row is None:
        return NO_SPAN
    return StreamSpan(row.low, _first_left_in(row), row.deleted_version)


def stream_named(connection: sa.Connection, name: str, now: int) -> Stream | None:
    """A stream, as it is at a time; None if nothing is known of it."""
    named = sa.select(streams).where(streams.c.name == name).subquery()
    row = connection.execute(_described(named, now)).one_or_none()
    return None if row is None else _stream(row)


def streams_page(connection: sa.Connection, request: ListStreams, now: int) -> list[Stream]:
    """Streams in order of name, as they are at a time."""
    # Not `= 0`, of which a planner without statistics believes that few rows are it.
    kept = [] if request.show_deleted else [streams.c.state < 1]
    after = request.after_name
    named = names_from(streams, request.prefix, request.page_size, *kept, after=after)
    page = _described(named, now).order_by(named.c.name)
    return [_stream(row) for row in connection.execute(page)]


def _described(named: sa.Subquery, now: int) -> sa.Select[tuple[object, ...]]:
    """Rows of streams with what only their events tell."""
    of_stream = events.c.stream_id == named.c.id
    last_version = sa.select(sa.func.max(events.c.version)).where(of_stream)
    last = sa.select(events.c.recorded_at).where(of_stream)
    # What is older than that is marked as removed before long, so few are passed over.
    first_young = (
        sa.select(events.c.version)
        .where(
            of_stream,
            events.c.version > named.c.floor_version,
            events.c.recorded_at >= now - named.c.max_age_us,
        )
        .order_by(events.c.version)
        .limit(1)
    )
    return sa.select(
        named,
        last_version.scalar_subquery().label("last_version"),
        last.order_by(events.c.version.desc()).limit(1).scalar_subquery().label("recorded_at"),
        sa.case((named.c.max_age_us.is_not(None), first_young.scalar_subquery()), else_=None).label(
            "first_young"
        ),
    )


def _first_left_in(row: sa.Row[Any]) -> int:
    return _first_left(
        row.last_version or 0, row.floor_version, row.max_count, row.max_age_us, row.first_young
    )


def _first_left(
    last_version: int,
    floor_version: int,
    max_count: int | None,
    max_age_us: int | None,
    first_young: int | None,
) -> int:
    """The oldest version of a stream that is not removed; more than the last one, if all are."""
    first = floor_version + 1
    if max_count is not None:
        first = max(first, last_version - max_count + 1)
    if max_age_us is not None:
        first = max(first, first_young or last_version + 1)
    return first


def _stream(row: sa.Row[tuple[object, ...]]) -> Stream:
    values = row._mapping
    deletion = DELETION_STATES[values["state"]]
    last_version = values["last_version"] or 0
    version = last_version if deletion == "live" else 0
    first = _first_left_in(row)
    return Stream(
        name=values["name"],
        version=version,
        first_version=first if first <= version else 0,
        next_version=last_version + 1,
        recorded_at=values["recorded_at"] or 0,
        deletion=deletion,
        retention=Retention(values["max_age_us"], values["max_count"], values["truncate_before"]),
        deleted_version=values["deleted_version"],
    )


def names_from(
    table: sa.Table,
    prefix: str,
    limit: int,
    *also: sa.ColumnElement[bool],
    after: str | None = None,
) -> sa.Subquery:
    """The first rows, in order of name, whose names begin with a prefix and come after a name.

    One bound is where the walk along the index begins. The other is looked at only behind the
    limit: of a range, a planner without statistics may collect all names before it takes a few.
    """
    begins = table.c.name >= prefix if after is None else table.c.name > after
    first = sa.select(table).where(begins, *also).order_by(table.c.name).limit(limit).subquery()
    bound = least_above_all_with(prefix)
    rows = sa.select(first)
    return (rows if bound is None else rows.where(first.c.name < bound)).subquery()


def least_above_all_with(prefix: str) -> str | None:
    """The least text above all that begin with `prefix`; None if nothing is. UTF-8 sorts as
    code points do, and surrogates are no code points of a text."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return None
    above = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if above == 0xD800 else above)
