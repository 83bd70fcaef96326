"""Finds the events of a window that match a query item.

The narrowest part of the item (probed, not guessed) is walked by its index as one or
several *postings*, each the ascending positions that one key names; the rest of the item
is checked on the events that they name. One call walks a bounded number of events, so
its cost depends neither on the size of the log nor on what a planner believes of it.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal, TypeAlias

import sqlalchemy as sa

from treering_server.core.query import QueryItem, category_of
from treering_server.core.storage import Matches, beginning
from treering_server.storage.removal import IS_ANY_REMOVED, IS_THERE
from treering_server.storage.sql import Driver, Sql, joined
from treering_server.storage.statements import VERSIONS_BY_BISECTION, least_above_all_with

PROBED_EVENTS = 200
"""How far a posting is counted to find the narrowest part."""
PROBED_POSTINGS = 10
"""How many postings of a part are counted."""
RESOLVED_NAMES = 200
"""A prefix that names more streams, or categories, than this is not resolved to them."""
UNITED_POSTINGS = 100
"""Postings walked by one statement: SQLite takes at most 500 terms in a compound select."""
GROUPED_CHECKS = 100
"""Checks in one level of an expression: SQLite takes at most 1,000 levels."""
LEAST_WALKED = 16
"""Events walked of each posting, however many postings share a call."""

Key: TypeAlias = Literal["stream_id", "type_id", "category_id", "tag"]
"""The column that an index of postings begins with."""


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

    key: Key | None
    """None: all events."""
    value: object
    after: int
    until: int


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an item: the postings to walk for it, and how to check it on an event."""

    postings: Sequence[Posting]
    check: Sql | None
    exact: bool = True
    """Whether all that the postings name meets the check."""


def find(
    connection: sa.Connection, item: QueryItem, window: Window, max_postings: int, now: int
) -> Matches:
    """Matching positions along the direction, without those removed at a time, from looking
    at about `max_postings` events."""
    driver = Driver(connection)
    parts = _parts(driver, item, window)
    if any(not part.postings for part in parts):
        return Matches([], window.end)
    narrowest = _narrowest(driver, parts, window)
    checks = [
        part.check
        for part in parts
        if part.check is not None and (part is not narrowest or not part.exact)
    ]
    return _walk(driver, narrowest.postings, checks, window, max_postings, now)


def _parts(driver: Driver, item: QueryItem, window: Window) -> list[Part]:
    """Every part of the item. One that names nothing has no postings."""
    parts = []
    if item.streams:
        named = driver.among("name", sorted(item.streams))
        floors = _floors(driver, Sql(f"streams WHERE {named.text}", named.values))
        postings = _of_streams(driver, floors, window)
        parts.append(Part(postings, driver.among("events.stream_id", floors)))
    for tag in sorted(item.tags):
        of_tag = Sql(
            "EXISTS (SELECT 1 FROM event_tags WHERE tag = ? AND position = events.position)", (tag,)
        )
        parts.append(Part([_of_key("tag", tag, window)], of_tag))
    if item.types:
        parts.append(_of_names(driver, "type_id", "types", item.types, window))
    if item.categories:
        parts.append(_of_names(driver, "category_id", "categories", item.categories, window))
    if item.stream_prefixes:
        parts.append(_of_prefixes(driver, sorted(item.stream_prefixes), window))
    return parts or [Part([_of_everything(window)], None)]


def _of_key(key: Key, value: object, window: Window) -> Posting:
    return Posting(key, value, window.after, window.until)


def _of_everything(window: Window) -> Posting:
    return Posting(None, None, window.after, window.until)


def _floors(driver: Driver, named: Sql) -> dict[int, int]:
    """Ids of streams, with the version up to which they are removed for good."""
    floors = Sql(f"SELECT id, floor_version FROM {named.text}", named.values)
    return dict(driver.rows(floors, prepare=True))


def _of_streams(driver: Driver, floors: Mapping[int, int], window: Window) -> list[Posting]:
    """Erased events are not among them."""
    after = _versions_at(driver, floors, window.after)
    until = _versions_at(driver, floors, window.until)
    return [
        Posting("stream_id", each, max(after[each], floor), until[each])
        for each, floor in floors.items()
    ]


_VERSIONS_AT = f"""
WITH RECURSIVE named AS (
  SELECT id, (SELECT coalesce(max(version), 0) FROM events WHERE stream_id = streams.id)
    AS last_version
  FROM streams WHERE {{among}}),
{VERSIONS_BY_BISECTION.format(bound="?")}
SELECT stream_id, low FROM bisection WHERE low >= high
"""


def _versions_at(driver: Driver, ids: Collection[int], position: int) -> dict[int, int]:
    """The last version that each stream was given up to a position; 0: none."""
    if not position or not ids:
        return dict.fromkeys(ids, 0)
    among = driver.among("id", ids)
    text = _VERSIONS_AT.format(among=among.text)
    statement = Sql(text, (*among.values, position, position, position))
    return dict(driver.rows(statement, prepare=True))


def _of_names(
    driver: Driver,
    key: Key,
    dictionary: Literal["types", "categories"],
    names: Collection[str],
    window: Window,
) -> Part:
    named = driver.among("name", sorted(names))
    find_ids = Sql(f"SELECT id FROM {dictionary} WHERE {named.text}", named.values)
    ids = [each for (each,) in driver.rows(find_ids, prepare=True)]
    return Part([_of_key(key, each, window) for each in ids], driver.among(f"events.{key}", ids))


def _grouped(junction: str, checks: Sequence[Sql]) -> Sql:
    """All of them, or any, in groups of groups: a plain chain of as many as a query may have is
    an expression too deep for SQLite."""
    while len(checks) > 1:
        starts = range(0, len(checks), GROUPED_CHECKS)
        groups = [joined(junction, checks[start : start + GROUPED_CHECKS]) for start in starts]
        checks = [Sql(f"({group.text})", group.values) for group in groups]
    return checks[0]


def begins_with(column: str, prefix: str) -> Sql:
    """Names that begin with a prefix, as a range of a byte-ordered column: LIKE would scan."""
    bound = least_above_all_with(prefix)
    if bound is None:
        return Sql(f"{column} >= ?", (prefix,))
    return Sql(f"({column} >= ? AND {column} < ?)", (prefix, bound))


def _of_prefixes(driver: Driver, prefixes: Sequence[str], window: Window) -> Part:
    check = _grouped(" OR ", [begins_with("streams.name", prefix) for prefix in prefixes])
    postings: list[Posting] = []
    for prefix in prefixes:
        resolved = _of_prefix(driver, prefix, window)
        if resolved is None:
            return Part([_of_everything(window)], check, exact=False)
        postings += resolved
    return Part(postings, check, exact=False)


def _of_prefix(driver: Driver, prefix: str, window: Window) -> list[Posting] | None:
    """What a prefix names: a few streams, a category, or the categories that begin with it;
    None if those are too many to walk."""
    category = category_of(prefix)
    if category != prefix:
        floors = _floors(driver, _named("streams", prefix))
        if len(floors) <= RESOLVED_NAMES:
            return _of_streams(driver, floors, window)
        whole = Sql("SELECT id FROM categories WHERE name = ?", (category,))
    else:
        named = _named("categories", prefix)
        whole = Sql(f"SELECT id FROM {named.text}", named.values)
    ids = [each for (each,) in driver.rows(whole)]
    if len(ids) > RESOLVED_NAMES:
        return None
    return [_of_key("category_id", each, window) for each in ids]


def _named(table: Literal["streams", "categories"], prefix: str) -> Sql:
    """The first rows whose names begin with a prefix, one more than are resolved. As in
    `statements.names_from`, the upper bound is looked at behind the limit."""
    text = f"(SELECT * FROM {table} WHERE name >= ? ORDER BY name LIMIT ?) AS first"
    given = (prefix, RESOLVED_NAMES + 1)
    bound = least_above_all_with(prefix)
    return Sql(text, given) if bound is None else Sql(f"{text} WHERE name < ?", (*given, bound))


def _narrowest(driver: Driver, parts: Sequence[Part], window: Window) -> Part:
    """The part that names the fewest events of the window, as far as they are counted."""
    if len(parts) == 1:
        return parts[0]
    probes = []
    for part in parts:
        counts = []
        for posting in part.postings[:PROBED_POSTINGS]:
            first = _first(driver, posting, PROBED_EVENTS, backwards=window.backwards)
            counts.append(Sql(f"(SELECT count(*) FROM ({first.text}) AS probed)", first.values))
        probes.append(joined(" + ", counts))
    probe = joined(", ", probes)
    [counted] = driver.rows(Sql(f"SELECT {probe.text}", probe.values))
    weights = [
        count * max(1, len(part.postings) // PROBED_POSTINGS)
        for count, part in zip(counted, parts, strict=True)
    ]
    return parts[weights.index(min(weights))]


def _walk(
    driver: Driver,
    postings: Sequence[Posting],
    checks: Sequence[Sql],
    window: Window,
    max_postings: int,
    now: int,
) -> Matches:
    limit = max(LEAST_WALKED, max_postings // len(postings))
    matching: set[int] = set()
    looked_to = window.end
    nearer = max if window.backwards else min
    for united in _walked_together(postings):
        walked: list[list[int]] = [[] for _ in united]
        may_be_erased = any(posting.key is None for posting in united)
        passes = _passes(checks, now, may_be_erased=may_be_erased)
        if united[0].key == "stream_id":
            candidates = _versions(driver, united, limit, backwards=window.backwards)
            goes_by_keys = not checks
        else:
            candidates = _firsts(driver, united, limit, backwards=window.backwards)
            goes_by_keys = False
        # Which posting, position, and whether it passes.
        text = f"SELECT ordinal, position, {passes.text} FROM ({candidates.text}) AS candidates"
        statement = Sql(text, passes.values + candidates.values)
        for ordinal, position, matches in driver.rows(statement, prepare=goes_by_keys):
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


def _passes(checks: Sequence[Sql], now: int, *, may_be_erased: bool) -> Sql:
    """Whether the event at a candidate's position meets the checks, and is not removed."""
    is_there = Sql(IS_THERE.format(now="?"), (now,))
    holds = _grouped(" AND ", [*checks, is_there])
    # A subquery for each, so that events are looked up by position: a join may scan them all.
    text = f"""(SELECT {holds.text} FROM events LEFT JOIN streams ON streams.id = events.stream_id
      WHERE events.position = candidates.position)"""
    if not checks and not may_be_erased:
        # Erased events are in no index that these postings walk.
        text = f"CASE WHEN NOT {IS_ANY_REMOVED} THEN true ELSE {text} END"
    return Sql(text, holds.values)


def _walked_together(postings: Sequence[Posting]) -> Iterator[Sequence[Posting]]:
    """Those that one statement walks: all of streams, some of others."""
    of_streams = [posting for posting in postings if posting.key == "stream_id"]
    if of_streams:
        yield of_streams
    others = [posting for posting in postings if posting.key != "stream_id"]
    for start in range(0, len(others), UNITED_POSTINGS):
        yield others[start : start + UNITED_POSTINGS]


def _firsts(driver: Driver, postings: Sequence[Posting], limit: int, *, backwards: bool) -> Sql:
    """Which posting, and position: of the first events of each."""
    pieces = []
    for ordinal, posting in enumerate(postings):
        first = _first(driver, posting, limit, backwards=backwards)
        text = f"SELECT {ordinal} AS ordinal, position FROM ({first.text}) AS walked"
        pieces.append(Sql(text, first.values))
    return joined(" UNION ALL ", pieces)


def _versions(driver: Driver, postings: Sequence[Posting], limit: int, *, backwards: bool) -> Sql:
    """Which posting, and position: of the first versions of streams along the direction. None
    is missing among them, so they need not be counted, and any number is one statement."""
    windows = [beginning(each.after, each.until, limit, backwards=backwards) for each in postings]
    keys = [each.value for each in postings]
    if driver.is_postgresql:
        afters, untils = zip(*windows, strict=True)
        # Sorted, so that each stream is looked up by the index, whatever the planner believes.
        text = """
            SELECT asked.ordinal - 1 AS ordinal, versions.position
            FROM unnest(?::bigint[], ?::bigint[], ?::bigint[]) WITH ORDINALITY
              AS asked(stream_id, after, until, ordinal)
            CROSS JOIN LATERAL (SELECT position FROM events
              WHERE stream_id = asked.stream_id AND version > asked.after
                AND version <= asked.until ORDER BY version) AS versions"""
        return Sql(text, (keys, list(afters), list(untils)))
    asked = ", ".join(f"({ordinal}, ?, ?, ?)" for ordinal in range(len(postings)))
    text = f"""
        SELECT asked.column1 AS ordinal, events.position FROM (VALUES {asked}) AS asked
        CROSS JOIN events ON stream_id = asked.column2
          AND version > asked.column3 AND version <= asked.column4"""
    given = ((key, *window) for key, window in zip(keys, windows, strict=True))
    return Sql(text, tuple(chain.from_iterable(given)))


def _first(driver: Driver, posting: Posting, limit: int, *, backwards: bool) -> Sql:
    """The first positions of a posting along the direction."""
    table = "event_tags" if posting.key == "tag" else "events"
    rank = "version" if posting.key == "stream_id" else "position"
    keys, values = [], []
    if posting.key is not None:
        keys, values = [posting.key], [posting.value]
    columns = [*keys, rank]
    if driver.is_postgresql:
        # As rows, so that nothing but the index on them yields the order asked for: given
        # `key = …` its planner may walk the primary key and filter instead.
        row = f"({', '.join(columns)})"
        marks = f"({', '.join('?' * len(columns))})"
        bounds = f"{row} > {marks} AND {row} <= {marks}"
        given = (*values, posting.after, *values, posting.until)
    else:
        # SQLite seeks rows by their first column alone.
        bounds = " AND ".join([*(f"{key} = ?" for key in keys), f"{rank} > ? AND {rank} <= ?"])
        given = (*values, posting.after, posting.until)
    order = ", ".join(f"{column} {'DESC' if backwards else 'ASC'}" for column in columns)
    text = f"SELECT position FROM {table} WHERE {bounds} ORDER BY {order} LIMIT ?"
    return Sql(text, (*given, limit))
