"""Statements that both databases take as they are, written with SQLAlchemy Core."""

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa

from treering_server.core.model import DeletionState, Head, ListStreams, Stream
from treering_server.core.storage import Incarnation
from treering_server.storage.schema import events, incarnations, log, streams

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
_VERSION_AT_POSITION = sa.text("""
    WITH RECURSIVE bisection(low, high) AS (
      SELECT CAST(0 AS BIGINT),
        (SELECT coalesce(max(version), 0) FROM events WHERE stream_id = :stream_id)
      UNION ALL
      SELECT
        CASE WHEN e.position <= :bound THEN e.version ELSE low END,
        CASE WHEN e.position <= :bound THEN high ELSE e.version - 1 END
      FROM bisection JOIN events e
        ON e.stream_id = :stream_id AND e.version = (low + high + 1) / 2
      WHERE low < high)
    SELECT low FROM bisection WHERE low >= high
""").bindparams(
    sa.bindparam("bound", type_=sa.BigInteger()), sa.bindparam("stream_id", type_=sa.BigInteger())
)

_HEAD = (
    sa.select(log.c.log_id, events.c.position, events.c.recorded_at, events.c.id)
    .select_from(log)
    .outerjoin(
        events,
        events.c.position == sa.select(sa.func.max(events.c.position)).scalar_subquery(),
    )
)

_STREAMS = sa.select(
    streams,
    sa.select(sa.func.max(events.c.version))
    .where(events.c.stream_id == streams.c.id)
    .scalar_subquery()
    .label("last_version"),
    sa.select(events.c.recorded_at)
    .where(events.c.stream_id == streams.c.id)
    .order_by(events.c.version.desc())
    .limit(1)
    .scalar_subquery()
    .label("recorded_at"),
)


def head(connection: sa.Connection) -> Head:
    """The end of the log."""
    row = connection.execute(_HEAD).one()
    return Head(row.log_id, row.position or 0, row.recorded_at or 0, row.id)


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


def version_at(connection: sa.Connection, stream_id: int, position: int) -> int:
    """The last version that a stream was given up to a position; 0: none."""
    parameters = {"stream_id": stream_id, "bound": position}
    return connection.scalar(_VERSION_AT_POSITION, parameters) or 0


def stream_ids(connection: sa.Connection, names: Sequence[str]) -> list[int]:
    """Ids of those of the streams that were written to."""
    found = connection.scalars(sa.select(streams.c.id).where(streams.c.name.in_(names)))
    return list(found)


def stream_named(connection: sa.Connection, name: str) -> Stream | None:
    """A stream; None if it was never written to."""
    row = connection.execute(_STREAMS.where(streams.c.name == name)).one_or_none()
    return None if row is None else _stream(row)


def streams_page(connection: sa.Connection, request: ListStreams) -> list[Stream]:
    """Streams in order of name."""
    page = _STREAMS.order_by(streams.c.name).limit(request.page_size)
    if request.prefix:
        page = page.where(name_range(streams.c.name, request.prefix))
    if request.after_name is not None:
        page = page.where(streams.c.name > request.after_name)
    if not request.show_deleted:
        page = page.where(streams.c.state == 0)
    return [_stream(row) for row in connection.execute(page)]


def _stream(row: sa.Row[tuple[object, ...]]) -> Stream:
    values = row._mapping
    deletion = DELETION_STATES[values["state"]]
    last_version = max(values["floor_version"], values["last_version"] or 0)
    version = last_version if deletion == "live" else 0
    return Stream(
        name=values["name"],
        version=version,
        first_version=min(version, max(1, values["truncate_before"])),
        next_version=last_version + 1,
        recorded_at=values["recorded_at"],
        deletion=deletion,
        max_age_microseconds=values["max_age_us"],
        max_count=values["max_count"],
        truncate_before=values["truncate_before"],
    )


def name_range(column: sa.ColumnElement[str], prefix: str) -> sa.ColumnElement[bool]:
    """Names that begin with a prefix, as a range of a byte-ordered column: LIKE would scan."""
    bound = _least_above_all_with(prefix)
    return column >= prefix if bound is None else sa.and_(column >= prefix, column < bound)


def _least_above_all_with(prefix: str) -> str | None:
    """The least text above all that begin with `prefix`; None if nothing is. UTF-8 sorts as
    code points do, and surrogates are no code points of a text."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return None
    above = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if above == 0xD800 else above)
