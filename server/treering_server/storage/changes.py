"""Retention, deletion and erasure of streams, as SQLite and PostgreSQL do them alike."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence

import sqlalchemy as sa

from treering_server.core.model import Stream
from treering_server.core.query import category_of
from treering_server.core.removal import Rule, RuleChange
from treering_server.core.storage import ErasableEvent, LogNews, RemovingStream
from treering_server.storage.schema import event_tags, events, log, removals, streams
from treering_server.storage.statements import DELETION_STATES, stream_named

CHANGES = 1_000
"""Changed streams told at a time."""
NAMES = 500
"""Names looked up by one statement."""
AGED_EVENTS = 1_000
"""Events of one stream whose age is looked at, at a time."""

_LAST_VERSION = (
    sa.select(sa.func.max(events.c.version))
    .where(events.c.stream_id == streams.c.id)
    .scalar_subquery()
)
_IS_MOVING = sa.or_(streams.c.max_count.is_not(None), streams.c.max_age_us.is_not(None))


class SqlStreamChanges(ABC):
    """The part of a write transaction that changes streams."""

    @property
    @abstractmethod
    def _connection(self) -> sa.Connection:
        """Where the transaction is open."""

    @abstractmethod
    def _name_ids(self, table: str, names: set[str]) -> Mapping[str, int]:
        """Ids of types or categories, made for those that are new."""

    def stream(self, name: str, now: int) -> Stream | None:
        """See `WriteTransaction`, as for all that follow."""
        return stream_named(self._connection, name, now)

    def change_stream(self, changed: Stream, floor_version: int) -> None:  # noqa: D102
        connection = self._connection
        generation = connection.scalar(
            sa.update(log).values(generation=log.c.generation + 1).returning(log.c.generation)
        )
        stream_id = connection.scalar(sa.select(streams.c.id).where(streams.c.name == changed.name))
        if stream_id is None:
            stream_id = self._make_stream(changed.name)
        erased_version = connection.scalar(
            sa.update(streams)
            .where(streams.c.id == stream_id)
            .values(
                floor_version=floor_version,
                deleted_version=changed.deleted_version,
                truncate_before=changed.retention.truncate_before,
                max_count=changed.retention.max_count,
                max_age_us=changed.retention.max_age,
                state=DELETION_STATES.index(changed.deletion),
                changed=generation,
            )
            .returning(streams.c.erased_version)
        )
        listed = removals.c.stream_id == stream_id
        is_listed = connection.scalar(sa.select(sa.exists().where(listed)))
        is_moving = changed.retention.max_count is not None or changed.retention.max_age is not None
        if (is_moving or floor_version > (erased_version or 0)) and not is_listed:
            connection.execute(sa.insert(removals).values(stream_id=stream_id))

    def _make_stream(self, name: str) -> int:
        category = category_of(name)
        last = self._connection.scalar(sa.select(sa.func.max(streams.c.id)))
        stream_id = (last or 0) + 1
        self._connection.execute(
            sa.insert(streams).values(
                id=stream_id,
                name=name,
                category_id=self._name_ids("categories", {category})[category],
            )
        )
        return stream_id

    def raise_floors(self, floors: Mapping[int, int]) -> None:  # noqa: D102
        for stream_id, floor_version in floors.items():
            self._connection.execute(
                sa.update(streams)
                .where(streams.c.id == stream_id, streams.c.floor_version < floor_version)
                .values(floor_version=floor_version)
            )

    def settle(self, stream_ids: Collection[int]) -> None:  # noqa: D102
        settled = sa.select(streams.c.id).where(
            streams.c.id.in_(stream_ids),
            streams.c.erased_version >= streams.c.floor_version,
            sa.not_(_IS_MOVING),
        )
        self._connection.execute(sa.delete(removals).where(removals.c.stream_id.in_(settled)))


def news(connection: sa.Connection, since: int) -> LogNews:
    """Changes of retention and deletion after a generation, and the log's id."""
    head = sa.select(sa.func.max(events.c.position)).scalar_subquery()
    log_id, generation, until = connection.execute(
        sa.select(log.c.log_id, log.c.generation, head)
    ).one()
    changes = []
    if generation > since:
        rows = connection.execute(
            sa.select(
                streams.c.name,
                streams.c.floor_version,
                streams.c.max_count,
                streams.c.max_age_us,
                streams.c.state,
                streams.c.changed,
                _LAST_VERSION.label("last_version"),
            )
            .where(streams.c.changed > since)
            .order_by(streams.c.changed)
            .limit(CHANGES)
        ).all()
        changes = [
            RuleChange(
                row.name,
                Rule(row.floor_version, row.max_count, row.max_age_us),
                row.last_version or 0,
                DELETION_STATES[row.state] == "permanent",
                row.changed,
            )
            for row in rows
        ]
        if len(rows) == CHANGES:
            generation = rows[-1].changed
    return LogNews(log_id, generation, changes, until or 0)


def moving_rules(connection: sa.Connection, names: Sequence[str]) -> dict[str, Rule]:
    """Of the streams named, the rules of those that have a bound on age or number."""
    found = {}
    for start in range(0, len(names), NAMES):
        rows = connection.execute(
            sa.select(
                streams.c.name, streams.c.floor_version, streams.c.max_count, streams.c.max_age_us
            ).where(streams.c.name.in_(names[start : start + NAMES]), _IS_MOVING)
        )
        for name, floor_version, max_count, max_age in rows:
            found[name] = Rule(floor_version, max_count, max_age)
    return found


def removing(connection: sa.Connection, after_id: int, most: int, now: int) -> list[RemovingStream]:
    """Streams that events are removed of, in order of their ids."""
    some = (
        sa.select(removals.c.stream_id)
        .where(removals.c.stream_id > after_id)
        .order_by(removals.c.stream_id)
        .limit(most)
        .subquery()
    )
    rows = connection.execute(
        sa.select(
            streams.c.id,
            streams.c.floor_version,
            streams.c.erased_version,
            streams.c.max_count,
            streams.c.max_age_us,
            _LAST_VERSION.label("last_version"),
        )
        .join_from(some, streams, streams.c.id == some.c.stream_id)
        .order_by(streams.c.id)
    ).all()
    found = []
    for row in rows:
        floor_version = row.floor_version
        if row.max_count is not None:
            floor_version = max(floor_version, (row.last_version or 0) - row.max_count)
        if row.max_age_us is not None:
            aged = _aged(connection, row.id, floor_version, now - row.max_age_us)
            floor_version = max(floor_version, aged)
        found.append(
            RemovingStream(
                id=row.id,
                floor_version=row.floor_version,
                removed_version=floor_version,
                erased_version=row.erased_version,
                is_moving=row.max_count is not None or row.max_age_us is not None,
            )
        )
    return found


def _aged(connection: sa.Connection, stream_id: int, after_version: int, bound: int) -> int:
    """The last version, of some after one, that was recorded before a time; 0: none."""
    some = (
        sa.select(events.c.version, events.c.recorded_at)
        .where(events.c.stream_id == stream_id, events.c.version > after_version)
        .order_by(events.c.version)
        .limit(AGED_EVENTS)
        .subquery()
    )
    aged = sa.select(sa.func.max(some.c.version)).where(some.c.recorded_at < bound)
    return connection.scalar(aged) or 0


def erasable(
    connection: sa.Connection, stream: RemovingStream, most: int, max_bytes: int
) -> list[ErasableEvent]:
    """The first of a stream's events that are removed for good and not erased; at least one, if
    there is one."""
    window = (
        events.c.stream_id == stream.id,
        events.c.version > stream.erased_version,
        events.c.version <= stream.removed_version,
    )
    sizes = connection.execute(
        sa.select(events.c.version, sa.func.length(events.c.record))
        .where(*window)
        .order_by(events.c.version)
        .limit(most)
    ).all()
    total = 0
    last = 0
    for version, size in sizes:
        total += size or 0
        if last and total > max_bytes:
            break
        last = version
    rows = connection.execute(
        sa.select(events.c.version, events.c.position, events.c.record)
        .where(*window, events.c.version <= last)
        .order_by(events.c.version)
    )
    return [ErasableEvent(version, position, record) for version, position, record in rows]


def erase(
    connection: sa.Connection,
    stream_id: int,
    erased: Sequence[ErasableEvent],
    tags: Sequence[tuple[str, int]],
) -> None:
    """Takes the content of a stream's events away, within the transaction that is open."""
    connection.execute(
        sa.update(events)
        .where(events.c.position.in_([event.position for event in erased]))
        .values(record=None, type_id=0, category_id=None)
    )
    if tags:
        of_tag = sa.delete(event_tags).where(
            event_tags.c.tag == sa.bindparam("of_tag"),
            event_tags.c.position == sa.bindparam("at"),
        )
        connection.execute(of_tag, [{"of_tag": tag, "at": position} for tag, position in tags])
    last = erased[-1].version
    connection.execute(
        sa.update(streams)
        .where(streams.c.id == stream_id, streams.c.erased_version < last)
        .values(erased_version=last)
    )
