"""Walks of history on a real SQLite: they find what a look at every event would find, without
what is removed, erased or not."""

import shutil
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from databases import sqlite_url
from plans.logs import erase, event_like, opened, write
from plans.strategies import EXAMPLES, STREAMS, TAGS, TYPES, queries
from treering.v1.event_store_service_pb2 import ReadResponse
from treering_server.core import conditions, pages
from treering_server.core.conditions import Looked, look
from treering_server.core.model import AppendCondition, Retention
from treering_server.core.query import EVERYTHING, Query, QueryItem, Terms, events_of_stream
from treering_server.core.storage import StreamSpan
from treering_server.storage import matching
from treering_server.storage.removal import now

PAGE_BYTES = 400
"""Few events make a page, such that a short log has many."""


@dataclass
class Log:
    """What was recorded, in order, and what of it was removed since."""

    events: list[Terms]
    removed: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Of streams: up to which version, and by what."""
    is_erased: bool = False
    """Whether the content of what is removed was erased, too."""
    positions: list[int] = field(init=False)
    lengths: Counter[str] = field(init=False)
    gone: set[int] = field(init=False)

    def __post_init__(self):
        self.positions = list(range(1, len(self.events) + 1))
        self.lengths = Counter()
        self.gone = set()
        for position, event in enumerate(self.events, start=1):
            self.lengths[event.stream] += 1
            if event.stream and self.lengths[event.stream] <= self.removed_to(event.stream):
                self.gone.add(position)

    def removed_to(self, stream):
        version, _ = self.removed.get(stream, (0, ""))
        return version

    def matches(self, query, after, until, *, backwards=False):
        return [
            position
            for position in self.positions[:: -1 if backwards else 1]
            if after < position <= until
            and position not in self.gone
            and query.matches(self.events[position - 1])
        ]


@st.composite
def logs(draw):
    """Long enough for several steps of a walk. By a seed, as drawn lists are mostly short."""
    rng = draw(st.randoms(use_true_random=False))
    length = draw(st.integers(1, 60))
    events = [
        Terms(
            rng.choice(["", *STREAMS]),
            rng.choice(TYPES),
            frozenset(rng.sample(TAGS, rng.randrange(len(TAGS) + 1))),
        )
        for _ in range(length)
    ]
    removed = {}
    for stream, versions in Log(events).lengths.items():
        if stream and draw(st.booleans()):
            by = draw(st.sampled_from(["floor", "count", "age", "deletion"]))
            all_of_it = by in ("age", "deletion")
            removed[stream] = (versions if all_of_it else rng.randrange(versions), by)
    # Erasing takes long.
    return Log(events, removed, draw(st.sampled_from([False, False, True])))


@st.composite
def windows(draw, length):
    """`after` and `until`; often all there is."""
    after = draw(st.one_of(st.just(0), st.integers(0, length)))
    return after, draw(st.one_of(st.just(length), st.integers(after, length)))


@pytest.fixture(scope="module", autouse=True)
def small_steps():
    """All bounds so low that a short log meets each of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "LEAST_WALK", 1)
        patch.setattr(pages, "FIRST_WALK", 8)
        patch.setattr(pages, "LONGEST_WALK", 16)
        patch.setattr(pages, "PAGE_EVENTS", 7)
        patch.setattr(matching, "LEAST_WALKED", 1)
        patch.setattr(matching, "PROBED_EVENTS", 3)
        patch.setattr(matching, "PROBED_POSTINGS", 2)
        patch.setattr(matching, "RESOLVED_NAMES", 2)
        patch.setattr(matching, "UNITED_POSTINGS", 2)
        patch.setattr(conditions, "WALKED_EVENTS", 5)
        yield


@pytest.fixture(scope="module")
def storage_of(tmp_path_factory):
    """Makes storages with a log. Each is a copy of one empty file: that is quicker."""
    empty = tmp_path_factory.mktemp("empty")
    with opened(sqlite_url(empty)):
        pass

    class StorageOf:
        def __init__(self, log):
            directory = tmp_path_factory.mktemp("log")
            shutil.copy(empty / "treering.db", directory)
            self.opened = opened(sqlite_url(directory))
            self.log = log

        def __enter__(self):
            storage = self.opened.__enter__()
            write_events(storage, self.log.events)
            remove(storage, self.log)
            return storage

        def __exit__(self, *error):
            self.opened.__exit__(*error)

    return StorageOf


def write_events(storage, events):
    write(storage, [(terms.stream, event_like(terms)) for terms in events])


def remove(storage, log):
    """Removes what is removed of a log."""
    with storage.write(1) as transaction:
        transaction.state((), ())
        for name, (version, by) in log.removed.items():
            stream = transaction.stream(name, now())
            floor_version = version
            match by:
                case "count":
                    floor_version = 0
                    kept = Retention(max_count=stream.version - version)
                    stream = replace(stream, retention=kept)
                case "age":
                    floor_version = 0
                    stream = replace(stream, retention=Retention(max_age=1))
                case "deletion":
                    stream = replace(stream, deletion="deleted", deleted_version=version)
            transaction.change_stream(stream, floor_version)
        transaction.commit()
    if log.is_erased:
        erase(storage)


def positions_in(page):
    found = [event.position for event in ReadResponse.FromString(page.payload).events]
    assert page.count == len(found)
    return found


def walked(walk, most, due, *, backwards):
    """All that a walk yields, having seen after each page that nothing was jumped over."""
    found = []
    looked_to = None
    for _ in range(1_000):
        page = walk.next(most, PAGE_BYTES)
        found += positions_in(page)
        assert page.count <= most
        if backwards:
            assert looked_to is None or page.looked_to <= looked_to
            assert found == [position for position in due if position > page.looked_to]
        else:
            assert looked_to is None or page.looked_to >= looked_to
            assert found == [position for position in due if position <= page.looked_to]
        looked_to = page.looked_to
        if page.last:
            return found
    raise AssertionError("the walk does not end")


@settings(max_examples=EXAMPLES)
@given(
    data=st.data(),
    log=logs(),
    query=queries,
    backwards=st.booleans(),
    most=st.sampled_from([1, 2, 5, 1_000]),
)
def test_a_walk_finds_what_matches(storage_of, data, log, query, backwards, most):
    after, until = data.draw(windows(len(log.events)))
    due = log.matches(query, after, until, backwards=backwards)
    with storage_of(log) as storage:
        walk = pages.walk(storage, query, after, until, backwards=backwards)
        assert walked(walk, most, due, backwards=backwards) == due


@settings(max_examples=EXAMPLES)
@given(
    data=st.data(),
    log=logs(),
    stream=st.sampled_from(STREAMS),
    backwards=st.booleans(),
    most=st.sampled_from([1, 2, 5, 1_000]),
)
def test_a_walk_of_a_stream_finds_its_events(storage_of, data, log, stream, backwards, most):
    places = [
        position for position, terms in enumerate(log.events, start=1) if terms.stream == stream
    ]
    after, until = data.draw(windows(len(places)))
    due = [position for position in places[after:until] if position not in log.gone]
    if backwards:
        due.reverse()
    with storage_of(log) as storage:
        walk = pages.StreamPages(
            storage, stream, after, until, until=len(log.events), backwards=backwards
        )
        assert walked(walk, most, due, backwards=backwards) == due


@settings(max_examples=EXAMPLES)
@given(data=st.data(), log=logs())
def test_the_versions_at_a_position_and_the_position_at_a_time(storage_of, data, log):
    position = data.draw(st.integers(0, len(log.events) + 1))
    with storage_of(log) as storage:
        for stream in STREAMS:
            due = sum(terms.stream == stream for terms in log.events[:position])
            removed, by = log.removed.get(stream, (0, ""))
            deleted = removed if by == "deletion" else 0
            assert storage.span(stream, position) == StreamSpan(due, removed + 1, deleted)
        assert storage.span("z", position) == StreamSpan(0, 1, 0)
        recorded_at = storage.head().recorded_at
        assert storage.position_at_time(recorded_at) == len(log.events)
        assert storage.position_at_time(recorded_at + 1) == len(log.events)
        assert storage.position_at_time(0) == 0


@settings(max_examples=EXAMPLES)
@given(data=st.data(), log=logs(), query=queries)
def test_a_condition_is_looked_at_up_to_its_first_match(storage_of, data, log, query):
    after, _ = data.draw(windows(len(log.events)))
    due = next(iter(log.matches(query, after, len(log.events))), None)
    with storage_of(log) as storage:
        [found] = look(storage, [AppendCondition(query, after)], [Looked(to=after)])
    assert (found.match and found.match.position) == due
    assert found.match is not None or found.to == len(log.events)


@settings(max_examples=EXAMPLES)
@given(data=st.data(), log=logs(), query=queries)
def test_a_condition_is_looked_at_from_where_it_was_looked_at_before(storage_of, data, log, query):
    """As when other servers were found to have written meanwhile, and removed. What was found
    decides, though it may be removed by then."""
    after, between = data.draw(windows(len(log.events)))
    condition = AppendCondition(query, after)
    before = Log(log.events[:between])
    due = next(
        iter(
            before.matches(query, after, between)
            or log.matches(query, max(after, between), len(log.events))
        ),
        None,
    )
    with storage_of(before) as storage:
        known = look(storage, [condition], [Looked(to=after)])
        write_events(storage, log.events[between:])
        remove(storage, log)
        [found] = look(storage, [condition], known)
    assert (found.match and found.match.position) == due
    assert found.match is not None or found.to == len(log.events)
    assert not found.too_costly


def test_a_look_ends_when_its_budget_is_spent(storage_of, monkeypatch):
    log = Log([Terms("a-1", "A", frozenset())] * 9)
    nothing = Query((QueryItem(types=frozenset({"A"}), tags=frozenset({"none"})),))
    asked = [AppendCondition(nothing, 0), AppendCondition(EVERYTHING, 9)]
    with storage_of(log) as storage:
        monkeypatch.setattr(conditions, "BUDGET_SECONDS", -1)
        monkeypatch.setattr(conditions, "FEW_STATEMENTS", 0)
        looked = look(storage, asked, conditions.not_looked(asked))
    assert [each.too_costly for each in looked] == [True, False]


def test_what_is_removed_while_it_is_walked_is_met_no_more(storage_of):
    """Between two pages nothing is held."""
    log = Log([Terms(stream, "A", frozenset()) for stream in ["a-1", "b-1"] * 12])
    of_category = Query((QueryItem(categories=frozenset("a")),))
    for erases in (False, True):
        with storage_of(log) as storage:
            walks = [
                pages.walk(storage, EVERYTHING, 0, 24, backwards=False),
                pages.walk(storage, of_category, 0, 24, backwards=False),
                pages.walk(storage, events_of_stream("a-1"), 0, 24, backwards=False),
                pages.StreamPages(storage, "a-1", 0, 12, until=24, backwards=False),
            ]
            for walk in walks:
                assert positions_in(walk.next(1, PAGE_BYTES)) == [1]
            remove(storage, replace(log, removed={"a-1": (10, "floor")}, is_erased=erases))
            for walk in walks:
                found, page = [], None
                while page is None or not page.last:
                    page = walk.next(5, PAGE_BYTES)
                    found += positions_in(page)
                assert [each for each in found if each % 2] == [21, 23]


def test_one_event_larger_than_a_page_travels_alone(storage_of):
    log = Log([Terms("a-1", "A" * length, frozenset()) for length in (10, 900, 10)])
    with storage_of(log) as storage:
        for query in (EVERYTHING, Query((QueryItem(categories=frozenset("a")),))):
            walk = pages.walk(storage, query, 0, 3, backwards=False)
            found = [positions_in(walk.next(1_000, PAGE_BYTES)) for _ in range(3)]
            assert found == [[1], [2], [3]]
