"""Walks of history on a real SQLite: they find what a look at every event would find."""

import shutil
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from databases import sqlite_url
from plans.logs import event_like, opened, write
from plans.strategies import EXAMPLES, STREAMS, TAGS, TYPES, queries
from treering.v1.event_store_service_pb2 import ReadResponse
from treering_server.core import conditions, pages
from treering_server.core.conditions import Looked, look
from treering_server.core.model import AppendCondition
from treering_server.core.query import EVERYTHING, Query, QueryItem, Terms
from treering_server.storage import matching


@dataclass
class Log:
    """What was recorded, in order, and what of it was erased since."""

    events: list[Terms]
    erased: frozenset[int]
    positions: list[int] = field(init=False)

    def __post_init__(self):
        self.positions = list(range(1, len(self.events) + 1))

    def matches(self, query, after, until, *, backwards=False):
        return [
            position
            for position in self.positions[:: -1 if backwards else 1]
            if after < position <= until
            and position not in self.erased
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
    return Log(events, draw(st.frozensets(st.integers(1, length), max_size=5)))


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
        patch.setattr(pages, "PAGE_BYTES", 400)
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
            write(storage, [(terms.stream, event_like(terms)) for terms in self.log.events])
            with storage.write(1) as transaction:
                for position in self.log.erased:
                    transaction._execute(
                        "UPDATE events SET record = NULL WHERE position = ?", (position,)
                    )
                transaction.commit()
            return storage

        def __exit__(self, *error):
            self.opened.__exit__(*error)

    return StorageOf


def positions_in(page):
    found = [event.position for event in ReadResponse.FromString(page.payload).events]
    assert page.count == len(found)
    return found


def walked(walk, most, due, *, backwards):
    """All that a walk yields, having seen after each page that nothing was jumped over."""
    found = []
    looked_to = None
    for _ in range(1_000):
        page = walk.next(most)
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
    due = [position for position in places[after:until] if position not in log.erased]
    if backwards:
        due.reverse()
    with storage_of(log) as storage:
        walk = pages.StreamPages(
            storage, stream, after, until, until=len(log.events), backwards=backwards
        )
        assert walked(walk, most, due, backwards=backwards) == due


@settings(max_examples=EXAMPLES)
@given(data=st.data(), log=logs())
def test_the_version_at_a_position_and_the_position_at_a_time(storage_of, data, log):
    position = data.draw(st.integers(0, len(log.events) + 1))
    with storage_of(log) as storage:
        for stream in [*STREAMS, "z"]:
            due = sum(terms.stream == stream for terms in log.events[:position])
            assert storage.version_at(stream, position) == due
        recorded_at = storage.head().recorded_at
        assert storage.position_at_time(recorded_at) == len(log.events)
        assert storage.position_at_time(recorded_at + 1) == len(log.events)
        assert storage.position_at_time(0) == 0


@settings(max_examples=EXAMPLES)
@given(data=st.data(), log=logs(), query=queries)
def test_a_condition_is_looked_at_up_to_its_first_match(storage_of, data, log, query):
    """Also in two steps, as when other servers were found to have written meanwhile."""
    after, between = data.draw(windows(len(log.events)))
    condition = AppendCondition(query, after)
    # What is erased still counts: its row stays, and only a removal hides it.
    due = next(iter(Log(log.events, frozenset()).matches(query, after, len(log.events))), None)
    with storage_of(log) as storage:
        known = look(storage, [condition], between, [Looked(to=after)])
        [found] = look(storage, [condition], len(log.events), known)
    assert found.match == due
    assert found.match is not None or found.to == len(log.events)
    assert not found.too_costly


def test_a_look_ends_when_its_budget_is_spent(storage_of, monkeypatch):
    log = Log([Terms("a-1", "A", frozenset())] * 9, frozenset())
    nothing = Query((QueryItem(types=frozenset({"A"}), tags=frozenset({"none"})),))
    asked = [AppendCondition(nothing, 0), AppendCondition(EVERYTHING, 9)]
    with storage_of(log) as storage:
        monkeypatch.setattr(conditions, "BUDGET_SECONDS", -1)
        looked = look(storage, asked, 9, conditions.not_looked(asked))
    assert [each.too_costly for each in looked] == [True, False]


def test_one_event_larger_than_a_page_travels_alone(storage_of):
    log = Log([Terms("a-1", "A" * length, frozenset()) for length in (10, 900, 10)], frozenset())
    with storage_of(log) as storage:
        for query in (EVERYTHING, Query((QueryItem(categories=frozenset("a")),))):
            walk = pages.walk(storage, query, 0, 3, backwards=False)
            found = [positions_in(walk.next(1_000)) for _ in range(3)]
            assert found == [[1], [2], [3]]
