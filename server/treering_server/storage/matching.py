"""Finds the events of a window that match a query item.

The narrowest part of the item (probed, not guessed) is walked by its index as one or
several *postings*, each the ascending positions that one key names; the rest of the item
is checked on the events that they name. One call walks a bounded number of events, so
its cost depends neither on the size of the log nor on what a planner believes of it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from treering_server.core.query import QueryItem, category_of
from treering_server.core.storage import Matches
from treering_server.storage.schema import categories, event_tags, events, streams, types
from treering_server.storage.statements import (
    name_range,
    names_from,
    stream_ids,
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


def find(connection: sa.Connection, item: QueryItem, window: Window, max_postings: int) -> Matches:
    """Matching positions along the direction, from looking at about `max_postings` events."""
    parts = _parts(connection, item, window)
    if any(not part.postings for part in parts):
        return Matches([], window.end)
    narrowest = _narrowest(connection, parts, window)
    checks = [
        part.check
        for part in parts
        if part.check is not None and (part is not narrowest or not part.exact)
    ]
    return _walk(connection, narrowest.postings, checks, window, max_postings)


def _parts(connection: sa.Connection, item: QueryItem, window: Window) -> list[Part]:
    """Every part of the item. One that names nothing has no postings."""
    parts = []
    if item.streams:
        ids = stream_ids(connection, sorted(item.streams))
        postings = _of_streams(connection, ids, window)
        parts.append(Part(postings, events.c.stream_id.in_(ids)))
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


def _of_streams(connection: sa.Connection, ids: Sequence[int], window: Window) -> list[Posting]:
    after = versions_at(connection, ids, window.after)
    until = versions_at(connection, ids, window.until)
    return [
        Posting(events.c.stream_id, each, events.c.version, after[each], until[each])
        for each in ids
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


def _of_prefixes(connection: sa.Connection, prefixes: Sequence[str], window: Window) -> Part:
    check = sa.or_(*(name_range(streams.c.name, prefix) for prefix in prefixes))
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
    ids = list(connection.scalars(sa.select(named.c.id)))
    if len(ids) <= RESOLVED_NAMES:
        if within_category:
            return _of_streams(connection, ids, window)
        return [_of_key(events.c.category_id, each, window) for each in ids]
    if not within_category:
        return None
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
    checks: Sequence[sa.ColumnElement[bool]],
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
        statement = _united(firsts, checks)
        for ordinal, position, matches in connection.execute(statement):
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


def _united(
    postings: Sequence[sa.Select[tuple[int]]], checks: Sequence[sa.ColumnElement[bool]]
) -> sa.Select[Any]:
    """Which posting, position, and whether it passes the checks: of the first events of each."""
    selects = []
    for ordinal, posting in enumerate(postings):
        first = posting.subquery()
        selects.append(sa.select(sa.literal(ordinal).label("ordinal"), first.c.position))
    candidates = selects[0].subquery() if len(selects) == 1 else sa.union_all(*selects).subquery()
    if not checks:
        return sa.select(candidates.c.ordinal, candidates.c.position, sa.true())
    # A subquery for each, so that events are looked up by position: a join may scan them all.
    passes = (
        sa.select(sa.and_(*checks))
        .select_from(events.outerjoin(streams, streams.c.id == events.c.stream_id))
        .where(events.c.position == candidates.c.position)
        .scalar_subquery()
    )
    return sa.select(candidates.c.ordinal, candidates.c.position, passes)
