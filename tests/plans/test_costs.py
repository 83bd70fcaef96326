"""What is looked at in a large log does not depend on how large it is.

Nothing here reads a plan or a clock: these are the rows, pages and steps that the databases
counted. Scanning the log would count many times what is allowed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa

import removedlog
from biglog import (
    EVENTS,
    GONE,
    LEFT,
    LONG_STREAM,
    MANY_CATEGORIES,
    MANY_STREAMS,
    MIDDLE,
    RARE,
    RARE_POSITIONS,
    RIGHT,
    SOME_STREAMS,
    stream_of,
)
from logs import make_event
from meters import Cost, measured
from treering_server.core import conditions, pages
from treering_server.core.conditions import Looked
from treering_server.core.model import AppendCondition, ListStreams
from treering_server.core.query import EVERYTHING, Query, QueryItem
from treering_server.core.record import parse

WALKED = 256
"""What a walk begins with; the storage looks at about as many events in one call."""
LONGEST = pages.LONGEST_WALK
MEGABYTE = 1_000_000


@dataclass
class Bounds:
    """What looking at so many events may count. Each is looked up in a few indexes."""

    events: int

    def hold(self, cost: Cost) -> None:
        assert cost.rows <= 5 * self.events + 100
        assert cost.pages <= 8 * self.events + 100
        assert cost.steps <= 90 * self.events + 2_000


def item(**parts: Any) -> QueryItem:
    return QueryItem(**{name: frozenset(names) for name, names in parts.items()})


def look(
    after: int,
    until: int,
    *,
    backwards: bool = False,
    most: int = WALKED,
    first: int | None = None,
    **parts: Any,
) -> Callable[[Any], Any]:
    """One look of a walk; gives the positions, or the first of them."""

    def work(storage: Any) -> list[int]:
        matches = storage.matching(
            item(**parts), after, until, backwards=backwards, max_postings=most
        )
        positions: list[int] = matches.positions[:first]
        return positions

    return work


def positions(rows: Any) -> list[int]:
    return [position for position, *_ in rows]


def loaded(storage: Any, after: int, most: int, *, backwards: bool) -> Any:
    return storage.load(
        LONG_STREAM, after, EVENTS, backwards=backwards, most=most, max_bytes=MEGABYTE
    )


def nothing(_: Any) -> bool:
    return True


def page_of(query: Query, after: int, until: int, *, backwards: bool) -> Callable[[Any], Any]:
    return lambda storage: pages.walk(storage, query, after, until, backwards=backwards).next(100)


def position_of(looked: Looked) -> int | None:
    return None if looked.match is None else looked.match.position


def check_condition(after: int, **parts: Any) -> Callable[[Any], Any]:
    asked = [AppendCondition(Query((item(**parts),)), after)]
    known = conditions.not_looked(asked)
    return lambda storage: position_of(conditions.look(storage, asked, known)[0])


# What is done, how many events it may look at, and what comes out.
CASES: dict[str, tuple[Callable[[Any], Any], int, Any]] = {
    "a type that is gone": (look(MIDDLE, EVENTS, types=[GONE]), 10, []),
    "a type that is gone, in a category": (
        look(MIDDLE, EVENTS, types=[GONE], categories=["order"]),
        200,
        [],
    ),
    "a type that is gone, under a prefix": (
        look(MIDDLE, EVENTS, types=[GONE], stream_prefixes=["order-"]),
        400,
        [],
    ),
    "a type that is gone, backwards": (
        look(MIDDLE, EVENTS, backwards=True, types=[GONE]),
        10,
        [],
    ),
    "a condition on a type that is gone": (check_condition(MIDDLE, types=[GONE]), 10, None),
    "two hot tags that never meet": (look(0, EVENTS, tags=[LEFT, RIGHT]), 700, []),
    "two hot tags from the middle": (look(MIDDLE, EVENTS, tags=[LEFT, RIGHT]), 700, []),
    "two hot tags backwards": (
        look(0, MIDDLE, backwards=True, tags=[LEFT, RIGHT]),
        700,
        [],
    ),
    "a hot tag and a narrow one": (
        look(0, EVENTS, tags=[LEFT, "customer:8"]),
        300,
        list(range(8, EVENTS, 5_000)),
    ),
    # It is resolved to names, as many as may be, before it turns out that none is one of its.
    "a prefix that names no stream": (look(0, EVENTS, stream_prefixes=["order-x"]), 250, []),
    "a prefix that names no category": (look(0, EVENTS, stream_prefixes=["x"]), 10, []),
    "a prefix that names thousands of streams": (
        look(0, EVENTS, stream_prefixes=[MANY_STREAMS]),
        500,
        nothing,
    ),
    "thousands of streams from the middle": (
        look(MIDDLE, EVENTS, stream_prefixes=[MANY_STREAMS]),
        500,
        nothing,
    ),
    "a prefix that names hundreds of categories": (
        look(MIDDLE, EVENTS, stream_prefixes=[MANY_CATEGORIES]),
        500,
        nothing,
    ),
    "a category from the middle": (
        look(MIDDLE, EVENTS, categories=["order"]),
        300,
        nothing,
    ),
    "a category backwards": (
        look(0, EVENTS, backwards=True, most=16, first=3, categories=["order"]),
        50,
        [EVENTS, EVENTS - 6, EVENTS - 7],
    ),
    "a page of a category backwards": (
        page_of(Query((item(categories=["order"]),)), 0, EVENTS, backwards=True),
        500,
        nothing,
    ),
    "a rare type": (look(0, EVENTS, types=[RARE]), 10, RARE_POSITIONS),
    "a rare type and a hot tag": (look(0, EVENTS, types=[RARE], tags=[LEFT]), 250, nothing),
    "a long stream in a window": (
        look(MIDDLE, EVENTS, most=16, first=3, streams=[LONG_STREAM]),
        50,
        [MIDDLE + 10, MIDDLE + 20, MIDDLE + 30],
    ),
    "everything": (
        look(MIDDLE, EVENTS, most=16, first=3),
        20,
        [MIDDLE + 1, MIDDLE + 2, MIDDLE + 3],
    ),
    "a page of a stream by version": (
        lambda storage: positions(
            storage.stream_records(LONG_STREAM, 3_000, 3_100, backwards=False, max_bytes=MEGABYTE)
        ),
        100,
        list(range(30_010, 31_001, 10)),
    ),
    "a page of a stream backwards": (
        lambda storage: positions(
            storage.stream_records(LONG_STREAM, 3_000, 3_100, backwards=True, max_bytes=MEGABYTE)
        ),
        100,
        list(range(31_000, 30_009, -10)),
    ),
    "a stream from a version on": (
        lambda storage: positions(loaded(storage, 3_000, 100, backwards=False).rows),
        100,
        list(range(30_010, 31_001, 10)),
    ),
    "the last events of a stream": (
        lambda storage: positions(loaded(storage, 0, 3, backwards=True).rows),
        20,
        [EVENTS, EVENTS - 10, EVENTS - 20],
    ),
    "a page of the log": (
        lambda storage: positions(
            storage.records(MIDDLE, MIDDLE + 100, backwards=False, max_bytes=MEGABYTE)
        ),
        100,
        list(range(MIDDLE + 1, MIDDLE + 101)),
    ),
    "records here and there": (
        lambda storage: positions(storage.records_at(range(7, EVENTS, 600), max_bytes=MEGABYTE)),
        100,
        list(range(7, EVENTS, 600)),
    ),
    "the head": (lambda storage: storage.head().position, 2, EVENTS),
    "an event's id": (lambda storage: storage.event_id(MIDDLE), 2, nothing),
    "a stream": (lambda storage: storage.stream(LONG_STREAM).version, 5, EVENTS // 10),
    "a page of streams": (
        lambda storage: [
            stream.name
            for stream in storage.streams(ListStreams("order-0", 100, "order-05000", False))
        ],
        100,
        [f"order-{n:05d}" for n in range(5_001, 5_101)],
    ),
    "the version at a position": (
        lambda storage: storage.span(LONG_STREAM, MIDDLE).last,
        40,
        MIDDLE // 10,
    ),
    "the position at a time": (
        lambda storage: storage.position_at_time(storage.head().recorded_at),
        40,
        EVENTS,
    ),
    "the position at a time before": (lambda storage: storage.position_at_time(1), 40, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_reads_look_at_little(big_log, case):
    work, events, expected = CASES[case]
    with measured(big_log._engine) as cost:
        found = work(big_log)
    assert found == expected if expected is not nothing else found is not None
    Bounds(events).hold(cost)


def test_a_prefix_of_some_streams_takes_few_statements(big_log):
    with measured(big_log._engine) as cost:
        look(MIDDLE, EVENTS, stream_prefixes=[SOME_STREAMS])(big_log)
    assert cost.statements <= 20


def test_a_read_of_one_event_makes_steps_as_long_as_any(big_log):
    """The tags meet on the last event only."""
    query = Query((item(tags=[LEFT, RIGHT]),))
    with measured(big_log._engine) as cost:
        walk = pages.walk(big_log, query, MIDDLE, EVENTS, backwards=False)
        while not (page := walk.next(1)).count:
            pass
    assert page.looked_to == EVENTS
    assert cost.statements <= 200


def test_the_longest_look_looks_at_no_more_than_it_says(big_log):
    """It is eight times what a walk begins with, and still far from the log."""
    asked = look(0, EVENTS, most=LONGEST // 4, tags=[LEFT, RIGHT])
    with measured(big_log._engine) as cost:
        assert asked(big_log) == []
    Bounds(LONGEST // 4 + 400).hold(cost)


def test_what_is_read_under_the_append_lock_is_little(big_log):
    engine = getattr(big_log, "_writing", big_log._engine)
    streams = [LONG_STREAM, "no such stream", *(stream_of(n) for n in range(1, 1_000, 10))]
    with big_log.write(5) as transaction:
        known = [
            parse(record).id.bytes
            for *_, record in transaction.records(MIDDLE, MIDDLE + 100, max_bytes=MEGABYTE)
        ]
    with measured(engine) as cost, big_log.write(5) as transaction:
        state = transaction.state(streams, known)
        tail = transaction.records(EVENTS - 50, EVENTS, max_bytes=MEGABYTE)
    assert state.head.position == EVENTS
    assert state.streams[LONG_STREAM].version == EVENTS // 10
    assert "no such stream" not in state.streams
    assert sorted(each.position for each in state.ids.values()) == list(
        range(MIDDLE + 1, MIDDLE + 101)
    )
    assert len(tail) == 50
    Bounds(400).hold(cost)


# --- a log of which most is removed


def pages_up_to(query: Query, *, backwards: bool, limit: int = 1) -> Callable[[Any], Any]:
    """Pages of a walk over all of the log, until there is something in one."""

    def work(storage: Any) -> list[int]:
        walk = pages.walk(storage, query, 0, removedlog.EVENTS, backwards=backwards)
        while not (page := walk.next(limit)).count:
            assert not page.last
        return [page.count, page.last_position]

    return work


def whole_walk(query: Query, *, backwards: bool) -> Callable[[Any], Any]:
    """How many events there are on a walk over all of the log."""

    def work(storage: Any) -> int:
        walk = pages.walk(storage, query, 0, removedlog.EVENTS, backwards=backwards)
        count, page = 0, None
        while page is None or not page.last:
            page = walk.next(pages.PAGE_EVENTS)
            count += page.count
        return count

    return work


def left_of(first: int, **parts: Any) -> Callable[[Any], Any]:
    """What one look finds, from a position on."""
    return look(first, removedlog.EVENTS, **parts)


# What is done, how many events it may look at while what is removed is not erased, the same once
# it is, and what comes out.
REMOVED_CASES: dict[str, tuple[Callable[[Any], Any], int, int, Any]] = {
    "a type that is removed": (left_of(0, types=[removedlog.GONE]), 600, 10, []),
    "a type that is removed, backwards": (
        left_of(0, types=[removedlog.GONE], backwards=True),
        600,
        10,
        [],
    ),
    "a tag that is removed": (left_of(0, tags=["gone"]), 600, 10, []),
    "a category that is removed": (left_of(0, categories=["gone"]), 600, 10, []),
    # The names of a thousand streams may be looked through.
    "a prefix that is removed": (left_of(0, stream_prefixes=["gone-"]), 300, 300, []),
    "a category that is removed, by prefix": (left_of(0, stream_prefixes=["gon"]), 600, 10, []),
    "a stream that is removed": (left_of(0, streams=[removedlog.GONE_STREAM]), 10, 10, []),
    "a type and a tag that are removed": (
        left_of(0, types=[removedlog.GONE], tags=["gone"]),
        1_000,
        10,
        [],
    ),
    "a type of which a few are left": (
        look(0, removedlog.EVENTS, types=[removedlog.RULED], backwards=True, first=removedlog.KEPT),
        1_000,
        100,
        removedlog.RULED_POSITIONS[::-1],
    ),
    "a stream of which a few are left": (
        look(0, removedlog.EVENTS, streams=[removedlog.RULED_STREAM], backwards=True),
        1_000,
        100,
        removedlog.RULED_POSITIONS[::-1],
    ),
    "a type that is kept": (
        look(removedlog.BEFORE, removedlog.EVENTS, types=["Kept"]),
        300,
        300,
        removedlog.BETWEEN,
    ),
    "a tag that is kept": (
        look(removedlog.BEFORE, removedlog.EVENTS, tags=["kept"]),
        300,
        300,
        removedlog.BETWEEN,
    ),
    "a stream that is kept": (
        look(removedlog.BEFORE, removedlog.EVENTS, streams=[removedlog.KEPT_STREAM]),
        100,
        100,
        [],
    ),
    "everything, one look": (
        look(removedlog.LAST - 1, removedlog.EVENTS, first=1),
        600,
        600,
        [removedlog.LAST],
    ),
    "the last event, backwards over all that are removed": (
        pages_up_to(EVERYTHING, backwards=True),
        20_000,
        20_000,
        [1, removedlog.LAST],
    ),
    "the last event with a type, backwards over all that are removed": (
        pages_up_to(Query((item(types=[removedlog.GONE, "Kept"]),)), backwards=True),
        25_000,
        100,
        [1, removedlog.LAST],
    ),
    "the last event with a tag, backwards over all that are removed": (
        pages_up_to(Query((item(tags=[removedlog.SHARED]),)), backwards=True),
        25_000,
        100,
        [1, removedlog.LAST],
    ),
    "a page of the log that is removed": (
        lambda storage: [
            record
            for *_, record in storage.records(
                removedlog.EVENTS - 100, removedlog.EVENTS, backwards=False, max_bytes=MEGABYTE
            )
        ],
        300,
        300,
        [None] * 100,
    ),
    "a condition on what is removed in the end": (
        check_condition(removedlog.EVENTS - 200, types=[removedlog.GONE]),
        600,
        20,
        None,
    ),
    "what a removed stream is like": (
        lambda storage: storage.stream(removedlog.GONE_STREAM).next_version,
        20,
        20,
        removedlog.GONE_EVENTS - len(removedlog.BETWEEN) + 1,
    ),
    "what a ruled stream is like": (
        lambda storage: storage.stream(removedlog.RULED_STREAM).first_version,
        20,
        20,
        removedlog.BEFORE // 4 - removedlog.KEPT + 1,
    ),
    "the versions of a removed stream": (
        lambda storage: storage.span(removedlog.GONE_STREAM, removedlog.EVENTS // 2).deleted,
        60,
        60,
        removedlog.GONE_EVENTS - len(removedlog.BETWEEN),
    ),
    "news": (lambda storage: len(storage.news(0).changes), 300, 300, 2),
    "no news": (lambda storage: storage.news(2).changes, 10, 10, []),
    "rules": (
        lambda storage: [
            *storage.moving_rules(
                [removedlog.GONE_STREAM, removedlog.KEPT_STREAM, removedlog.RULED_STREAM]
            )
        ],
        30,
        30,
        [removedlog.RULED_STREAM],
    ),
    "what is to be erased": (lambda storage: len(storage.removing(0, 100)), 500, 500, 100),
}


@pytest.mark.parametrize("case", REMOVED_CASES)
def test_reads_look_at_little_of_what_is_removed(removed_log, is_erased, case):
    work, while_removed, once_erased, expected = REMOVED_CASES[case]
    with measured(removed_log._engine) as cost:
        found = work(removed_log)
    assert found == expected
    Bounds(once_erased if is_erased else while_removed).hold(cost)


@pytest.mark.parametrize("query", [EVERYTHING, Query((item(tags=[removedlog.SHARED]),))], ids=str)
def test_few_statements_lead_over_what_is_removed(removed_log, query):
    """Though only one event is asked for."""
    with measured(removed_log._engine) as cost:
        pages_up_to(query, backwards=True)(removed_log)
    assert cost.statements <= 60


@pytest.mark.parametrize("backwards", [False, True])
def test_a_walk_over_all_that_is_removed_looks_at_each_event_once(removed_log, backwards):
    due = removedlog.BEFORE * 3 // 4 + removedlog.KEPT + len(removedlog.BETWEEN)
    with measured(removed_log._engine) as cost:
        assert whole_walk(EVERYTHING, backwards=backwards)(removed_log) == due
    Bounds(3 * removedlog.EVENTS).hold(cost)


def test_what_is_read_of_ruled_streams_under_the_append_lock_is_little(removed_log):
    engine = getattr(removed_log, "_writing", removed_log._engine)
    streams = [removedlog.GONE_STREAM, removedlog.RULED_STREAM, removedlog.KEPT_STREAM]
    with measured(engine) as cost, removed_log.write(5) as transaction:
        state = transaction.state(streams, [make_event().id])
        stream = transaction.stream(removedlog.GONE_STREAM, 0)
        tail = transaction.records(removedlog.EVENTS - 50, removedlog.EVENTS, max_bytes=MEGABYTE)
    assert state.streams[removedlog.GONE_STREAM].version == stream.version == 0
    assert state.streams[removedlog.RULED_STREAM].rule.max_count == removedlog.KEPT
    assert [record for *_, record in tail] == [None] * 50
    Bounds(200).hold(cost)


def test_a_scan_of_the_log_would_be_noticed(big_log):
    """The meters measure: all bounds above are far below this."""
    with measured(big_log._engine) as cost, big_log._engine.connect() as connection:
        connection.execute(sa.text("SELECT count(*) FROM events WHERE format = 1"))
    assert cost.rows >= EVENTS or cost.steps >= 3 * EVENTS
    with pytest.raises(AssertionError):
        Bounds(700).hold(cost)
