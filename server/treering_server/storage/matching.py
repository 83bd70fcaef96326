"""Finds the events of a window that match a query item.

The narrowest part of the item (probed, not guessed) is walked by its index as one or
several *postings*, each the ascending positions that one key names; the rest of the item
is checked on the events that they name. One call walks a bounded number of events, so
its cost depends neither on the size of the log nor on what a planner believes of it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from treering_server.core.query import QueryItem, category_of
from treering_server.core.storage import Matches
from treering_server.storage.removal import IS_ANY_REMOVED, IS_THERE
from treering_server.storage.schema import categories, event_tags, events, streams, types
from treering_server.storage.statements import (
    name_range,
    names_from,
    versions_at,
)

PROBED_EVENTS = 200
"""How far a posting is counted to find the narrowest part."""
PROBED_POSTINGS = 10
"""How many postings of a part are counted."""
RESOLVED_NAMES = 200
"""A prefix that names more streams, or categories, than this is not resolved to them."""
UNITED_POSTINGS = 100
"""Postings walked by one statement: SQLite takes at most 500 terms in a compound select."""
KEPT_STRINGS = 32
"""Of an item with more of them SQLAlchemy keeps no statement: it would be large, and hardly any
other item has the same form."""
GROUPED_CHECKS = 100
"""Checks in one level of an expression: SQLite takes at most 1,000 levels."""
LEAST_WALKED = 16
"""Events walked of each posting, however many postings share a call."""


@dataclass(frozen=True, slots=True)
class Window:
    """`after < position <= until`, walked one way or the other."""

    after: int
    until: int
    backwards: bool

    @property
    def end(self) -> int:
        """What `Matches.looked_to` is when the whole window was looked at."""
        return self.after if self.backwards else self.until


@dataclass(frozen=True, slots=True)
class Posting:
    """The events that one key of one index names, within `after < rank <= until`.

    The rank is the position, or in a stream the version, which rises with it and is what
    that index holds.
    """

    key: sa.Column[Any] | None
    """What the index begins with; None: all events."""
    value: Any
    rank: sa.Column[int]
    after: int
    until: int

    def first(self, dialect: sa.Dialect, limit: int, *, backwards: bool) -> sa.Select[tuple[int]]:
        """The first positions of it along the direction."""
        keys = [] if self.key is None else [self.key]
        values = [] if self.key is None else [self.value]
        if dialect.name == "postgresql":
            # As rows, so that nothing but the index on them yields the order asked for: given
            # `key = …` its planner may walk the primary key and filter instead.
            walked = sa.tuple_(*keys, self.rank)
            bounds = [walked > (*values, self.after), walked <= (*values, self.until)]
        else:
            # SQLite seeks rows by their first column alone.
            bounds = [key == value for key, value in zip(keys, values, strict=True)]
            bounds += [self.rank > self.after, self.rank <= self.until]
        order = [column.desc() if backwards else column.asc() for column in (*keys, self.rank)]
        position = event_tags.c.position if self.key is event_tags.c.tag else events.c.position
        return sa.select(position).where(*bounds).order_by(*order).limit(limit)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an item: the postings to walk for it, and how to check it on an event."""

    postings: Sequence[Posting]
    check: sa.ColumnElement[bool] | None
    exact: bool = True
    """Whether all that the postings name meets the check."""


def find(
    connection: sa.Connection, item: QueryItem, window: Window, max_postings: int, now: int
) -> Matches:
    """Matching positions along the direction, without those removed at a time, from looking
    at about `max_postings` events."""
    if item.string_count > KEPT_STRINGS:
        connection.execution_options(compiled_cache=None)
    parts = _parts(connection, item, window)
    if any(not part.postings for part in parts):
        return Matches([], window.end)
    narrowest = _narrowest(connection, parts, window)
    checks = [
        part.check
        for part in parts
        if part.check is not None and (part is not narrowest or not part.exact)
    ]
    statement = _Statement(checks, now)
    return _walk(connection, narrowest.postings, statement, window, max_postings)


def _parts(connection: sa.Connection, item: QueryItem, window: Window) -> list[Part]:
    """Every part of the item. One that names nothing has no postings."""
    parts = []
    if item.streams:
        named = sa.select(streams).where(streams.c.name.in_(sorted(item.streams)))
        floors = _floors(connection, named.subquery())
        parts.append(Part(_of_streams(connection, floors, window), events.c.stream_id.in_(floors)))
    for tag in sorted(item.tags):
        of_tag = sa.exists().where(
            event_tags.c.tag == tag, event_tags.c.position == events.c.position
        )
        parts.append(Part([_of_key(event_tags.c.tag, tag, window)], of_tag))
    if item.types:
        parts.append(_of_names(connection, events.c.type_id, types, item.types, window))
    if item.categories:
        parts.append(
            _of_names(connection, events.c.category_id, categories, item.categories, window)
        )
    if item.stream_prefixes:
        parts.append(_of_prefixes(connection, sorted(item.stream_prefixes), window))
    return parts or [Part([_of_everything(window)], None)]


def _of_key(key: sa.Column[Any], value: object, window: Window) -> Posting:
    rank = event_tags.c.position if key is event_tags.c.tag else events.c.position
    return Posting(key, value, rank, window.after, window.until)


def _of_everything(window: Window) -> Posting:
    return Posting(None, None, events.c.position, window.after, window.until)


def _floors(connection: sa.Connection, named: sa.Subquery) -> dict[int, int]:
    """Ids of streams, with the version up to which they are removed for good."""
    rows = connection.execute(sa.select(named.c.id, named.c.floor_version))
    return {row.id: row.floor_version for row in rows}


def _of_streams(
    connection: sa.Connection, floors: Mapping[int, int], window: Window
) -> list[Posting]:
    """Erased events are not among them."""
    after = versions_at(connection, list(floors), window.after)
    until = versions_at(connection, list(floors), window.until)
    return [
        Posting(events.c.stream_id, each, events.c.version, max(after[each], floor), until[each])
        for each, floor in floors.items()
    ]


def _of_names(
    connection: sa.Connection,
    key: sa.Column[Any],
    dictionary: sa.Table,
    names: Iterable[str],
    window: Window,
) -> Part:
    named = sa.select(dictionary.c.id).where(dictionary.c.name.in_(sorted(names)))
    ids = list(connection.scalars(named))
    return Part([_of_key(key, each, window) for each in ids], key.in_(ids))


def _joined(
    junction: Callable[..., sa.ColumnElement[bool]], checks: Sequence[sa.ColumnElement[bool]]
) -> sa.ColumnElement[bool]:
    """All of them, or any, in groups of groups: a plain chain of as many as a query may have is
    an expression too deep for SQLite."""
    while len(checks) > GROUPED_CHECKS:
        starts = range(0, len(checks), GROUPED_CHECKS)
        groups = [junction(*checks[start : start + GROUPED_CHECKS]) for start in starts]
        # Not in brackets only, which SQLAlchemy takes off again.
        checks = [sa.case((group, sa.true()), else_=sa.false()) for group in groups]
    return junction(*checks) if checks else sa.true()


def _of_prefixes(connection: sa.Connection, prefixes: Sequence[str], window: Window) -> Part:
    check = _joined(sa.or_, [name_range(streams.c.name, prefix) for prefix in prefixes])
    postings: list[Posting] = []
    for prefix in prefixes:
        resolved = _of_prefix(connection, prefix, window)
        if resolved is None:
            return Part([_of_everything(window)], check, exact=False)
        postings += resolved
    return Part(postings, check, exact=False)


def _of_prefix(connection: sa.Connection, prefix: str, window: Window) -> list[Posting] | None:
    """What a prefix names: a few streams, a category, or the categories that begin with it;
    None if those are too many to walk."""
    category = category_of(prefix)
    within_category = category != prefix
    table = streams if within_category else categories
    named = names_from(table, prefix, RESOLVED_NAMES + 1)
    if within_category:
        floors = _floors(connection, named)
        if len(floors) <= RESOLVED_NAMES:
            return _of_streams(connection, floors, window)
    else:
        ids = list(connection.scalars(sa.select(named.c.id)))
        if len(ids) > RESOLVED_NAMES:
            return None
        return [_of_key(events.c.category_id, each, window) for each in ids]
    whole = sa.select(categories.c.id).where(categories.c.name == category)
    return [_of_key(events.c.category_id, each, window) for each in connection.scalars(whole)]


def _narrowest(connection: sa.Connection, parts: Sequence[Part], window: Window) -> Part:
    """The part that names the fewest events of the window, as far as they are counted."""
    if len(parts) == 1:
        return parts[0]
    probes = []
    for part in parts:
        counts = [
            sa.select(sa.func.count())
            .select_from(
                posting.first(
                    connection.dialect, PROBED_EVENTS, backwards=window.backwards
                ).subquery()
            )
            .scalar_subquery()
            for posting in part.postings[:PROBED_POSTINGS]
        ]
        share = max(1, len(part.postings) // PROBED_POSTINGS)
        probes.append(sum(counts[1:], counts[0]) * share)
    counted = connection.execute(sa.select(*probes)).one()
    return parts[min(range(len(parts)), key=lambda index: int(counted[index]))]


def _walk(
    connection: sa.Connection,
    postings: Sequence[Posting],
    statement: "_Statement",
    window: Window,
    max_postings: int,
) -> Matches:
    limit = max(LEAST_WALKED, max_postings // len(postings))
    matching: set[int] = set()
    looked_to = window.end
    nearer = max if window.backwards else min
    for start in range(0, len(postings), UNITED_POSTINGS):
        united = postings[start : start + UNITED_POSTINGS]
        walked: list[list[int]] = [[] for _ in united]
        firsts = [
            posting.first(connection.dialect, limit, backwards=window.backwards)
            for posting in united
        ]
        may_be_erased = any(posting.key is None for posting in united)
        looked_at = statement.of(firsts, may_be_erased=may_be_erased)
        for ordinal, position, matches in connection.execute(looked_at):
            walked[ordinal].append(position)
            if matches:
                matching.add(position)
        for positions in walked:
            if len(positions) == limit:
                last = min(positions) - 1 if window.backwards else max(positions)
                looked_to = nearer(looked_to, last)
    if window.backwards:
        kept = sorted((each for each in matching if each > looked_to), reverse=True)
    else:
        kept = sorted(each for each in matching if each <= looked_to)
    return Matches(kept, looked_to)


@dataclass(frozen=True, slots=True)
class _Statement:
    """How the events that postings name are looked at."""

    checks: Sequence[sa.ColumnElement[bool]]
    now: int
    """When they must not be removed."""

    def of(
        self, postings: Sequence[sa.Select[tuple[int]]], *, may_be_erased: bool
    ) -> sa.Select[Any]:
        """Which posting, position, and whether it passes the checks: of the first events of
        each."""
        selects = []
        for ordinal, posting in enumerate(postings):
            first = posting.subquery()
            selects.append(sa.select(sa.literal(ordinal).label("ordinal"), first.c.position))
        united = selects[0] if len(selects) == 1 else sa.union_all(*selects)
        candidates = united.subquery()
        is_there = sa.text(IS_THERE.format(now=":now")).bindparams(
            sa.bindparam("now", self.now, sa.BigInteger())
        )
        # A subquery for each, so that events are looked up by position: a join may scan them all.
        passes: sa.ColumnElement[bool] = (
            sa.select(sa.and_(_joined(sa.and_, self.checks), is_there))
            .select_from(events.outerjoin(streams, streams.c.id == events.c.stream_id))
            .where(events.c.position == candidates.c.position)
            .scalar_subquery()
        )
        if not self.checks and not may_be_erased:
            # Erased events are in no index that these postings walk.
            passes = sa.case((sa.text(f"NOT {IS_ANY_REMOVED}"), sa.true()), else_=passes)
        return sa.select(candidates.c.ordinal, candidates.c.position, passes)
