"""The tail finds what a look at every event would find, without what is removed."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from plans.strategies import EXAMPLES, STREAMS, queries, terms
from treering_server.core import tail as tail_module
from treering_server.core.query import EVERYTHING, Query, QueryItem, Terms, events_of_stream
from treering_server.core.removal import NOTHING, Rule
from treering_server.core.tail import COMPACTED, FEW_RULES, Tail

# Enough to let go of trimmed entries several times.
counts = st.integers(1, 2 * COMPACTED)
few_rules = 1


@pytest.fixture(autouse=True, scope="module")
def rules_are_soon_forgotten():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tail_module, "FEW_RULES", few_rules)
        yield


class TailMachine(RuleBasedStateMachine):
    """A tail beside a list that holds the same events and is searched from end to end.

    Its owner follows a log that others write to: what they do to a stream's rule is told,
    perhaps before the events that came before that.
    """

    def __init__(self):
        super().__init__()
        self.base = 7
        self.events = []
        self.log = []
        """Events that were recorded, and are not pushed yet."""
        self.last_versions = dict.fromkeys(STREAMS, 0)
        self.rules = {}
        self.generation = 0
        self.generations = {}
        """At which the rules were set."""
        self.known_versions = dict.fromkeys(STREAMS, 0)
        """What the tail was told, and so counts from."""
        self.time = 100

    @initialize()
    def begin(self):
        self.tail = Tail(self.base)

    @rule()
    def begin_anew(self):
        """As its owner does after a failure: what it reads then is without what is removed."""
        self.base += len(self.events)
        self.events = []
        self.tail = Tail(self.base)
        self.generations = {}
        self.known_versions = dict(self.last_versions)
        self.log = [
            None if event is None or self.is_removed(*event, self.time) else event
            for event in self.log
        ]
        self.known_versions = dict.fromkeys(STREAMS, 0)

    @rule(pattern=st.lists(st.one_of(terms, st.none()), min_size=1, max_size=6), count=counts)
    def record(self, pattern, count):
        for n in range(count):
            event = pattern[n % len(pattern)]
            if event is None:
                self.log.append(None)
                continue
            version = 0
            if event.stream:
                version = self.last_versions[event.stream] = self.last_versions[event.stream] + 1
            self.log.append((event, version, self.time))

    @rule(passed=st.integers(1, 3))
    def let_time_pass(self, passed):
        self.time += passed

    @rule(
        streams=st.lists(st.sampled_from(STREAMS), min_size=1, max_size=5, unique=True),
        raised=st.integers(0, 3),
        max_count=st.integers(1, 4) | st.none(),
        max_age=st.none() | st.integers(0, 4),
    )
    def change_rules(self, streams, raised, max_count, max_age):
        until = self.base + len(self.events) + len(self.log)
        for stream in streams:
            self.generation += 1
            last = self.last_versions[stream]
            before = self.rules.get(stream, NOTHING)
            floor = min(before.floor_version + raised, last)
            changed = Rule(floor, max_count, max_age)
            self.tail.set_rule(stream, changed, last, until, self.generation)
            if stream in self.generations:
                # A commit from before the change, of which is told late.
                late = self.generations[stream]
                self.tail.set_rule(stream, before, 0, until, late)
            self.rules[stream], self.generations[stream] = changed, self.generation
            self.known_versions[stream] = last

    @precondition(lambda self: self.log)
    @rule(count=counts)
    def push(self, count):
        some, self.log = self.log[:count], self.log[count:]
        for stream in {event[0].stream for event in some if event is not None}:
            if stream in self.rules and self.rules[stream].is_moving:
                until = self.tail.head + len(some)
                self.tail.set_rule(stream, self.rules[stream], 0, until, self.generation)
        self.tail.extend(some)
        for stream, version in ((e[0].stream, e[1]) for e in some if e is not None):
            if stream:
                self.known_versions[stream] = max(self.known_versions[stream], version)
        self.events += some

    @precondition(lambda self: self.events)
    @rule(count=counts)
    def trim(self, count):
        count = min(count, len(self.events))
        self.tail.trim(count)
        del self.events[:count]
        self.base += count

    @rule(query=queries, part=st.floats(0, 1), later=st.integers(0, 3))
    def find(self, query, part, later):
        after = self.base + round(part * (len(self.events) + 1))
        now = self.time + later

        found = self.naively(query, after, now)

        assert list(self.tail.find(query, after, now)) == found
        assert self.tail.first(query, after, now) == (found[0] if found else None)

    @invariant()
    def knows_what_it_holds(self):
        assert self.tail.base == self.base
        assert self.tail.head == self.base + len(self.events)
        assert len(self.tail) == len(self.events)
        assert self.events or not self.tail._postings, "what is forgotten takes no memory"
        assert self.tail.has_rules or not any(
            event is not None and self.is_removed(*event, self.time) for event in self.events
        )

    def naively(self, query, after, now):
        return [
            position
            for position, event in enumerate(self.events, start=self.base + 1)
            if position > after
            and event is not None
            and query.matches(event[0])
            and not self.is_removed(*event, now)
        ]

    def is_removed(self, terms, version, recorded_at, now):
        changed = self.rules.get(terms.stream)
        return changed is not None and changed.removes(
            version, recorded_at, last_version=self.known_versions[terms.stream], now=now
        )


TestTail = TailMachine.TestCase
TestTail.settings = settings(max_examples=EXAMPLES, stateful_step_count=30)


def test_an_empty_tail_finds_nothing():
    tail = Tail(10)
    assert list(tail.find(EVERYTHING, 10, 0)) == []
    assert tail.first(EVERYTHING, 10, 0) is None
    assert (tail.base, tail.head) == (10, 10)


def test_events_trimmed_before_they_were_ever_looked_for_are_not_found():
    tail = Tail(0)
    tail.extend([(Terms("a-1", "A" if n % 2 else "B", frozenset()), n + 1, 0) for n in range(10)])
    tail.trim(4)
    assert list(tail.find(Query((QueryItem(types=frozenset("A")),)), 4, 0)) == [6, 8, 10]


def push(tail, stream, version, recorded_at=0):
    tail.extend([(Terms(stream, "A", frozenset()), version, recorded_at)])


def test_what_is_removed_moves_with_the_stream_and_with_time():
    tail = Tail(0)
    tail.set_rule("a", Rule(1, max_count=3, max_age=10), 0, 0)
    for version in range(1, 6):
        push(tail, "a", version, recorded_at=version)
        push(tail, "", 0, recorded_at=version)
    of_stream = events_of_stream("a")
    assert list(tail.find(of_stream, 0, 0)) == [5, 7, 9]
    assert list(tail.find(of_stream, 0, 13)) == [5, 7, 9], "as old as it may be"
    assert list(tail.find(of_stream, 0, 14)) == [7, 9]
    assert tail.first(of_stream, 0, 15) == 9
    assert list(tail.find(EVERYTHING, 0, 99)) == [2, 4, 6, 8, 10]
    push(tail, "a", 6, recorded_at=15)
    assert list(tail.find(of_stream, 0, 15)) == [9, 11]


def test_a_rule_that_ends_lets_what_comes_after_it_stay():
    tail = Tail(0)
    tail.set_rule("a", Rule(max_count=1), 0, 0)
    push(tail, "a", 1)
    push(tail, "a", 2)
    tail.set_rule("a", Rule(1), 2, 2)
    push(tail, "a", 3)
    assert list(tail.find(EVERYTHING, 0, 0)) == [2, 3]


def test_a_rule_that_is_told_late_is_passed_over():
    tail = Tail(0)
    push(tail, "a", 1)
    tail.set_rule("a", Rule(1), 3, 3, 2)
    tail.set_rule("a", Rule(0, max_count=1), 3, 3, 1)
    push(tail, "a", 2)
    push(tail, "a", 3)
    assert list(tail.find(EVERYTHING, 0, 0)) == [2, 3]
    tail.set_rule("a", Rule(1, max_count=1), 0, 3, 3)
    assert list(tail.find(EVERYTHING, 0, 0)) == [3]


def test_a_change_counts_from_versions_that_are_not_pushed_yet():
    tail = Tail(0)
    push(tail, "a", 1)
    tail.set_rule("a", Rule(0, max_count=2), 3, 3)
    assert tail.first(EVERYTHING, 0, 0) is None
    push(tail, "a", 2)
    assert tail.first(EVERYTHING, 0, 0) == 2


# --- what rules take of memory


def test_rules_of_streams_that_no_event_is_left_of_are_forgotten():
    tail = Tail(0)
    push(tail, "kept", 1)
    tail.set_rule("kept", Rule(1), 1, 1)
    for n in range(1_000):
        stream = f"a-{n}"
        tail.set_rule(stream, Rule(max_count=1), 0, tail.head)
        push(tail, stream, 1)
        push(tail, stream, 2)
        tail.trim(max(0, len(tail) - 10))
        found = list(tail.find(events_of_stream(stream), tail.base, 0))
        assert found == [tail.head], "the rule of what is written to is known"
        assert len(tail._rules) <= 2 * 10 + 1
    assert "kept" not in tail._rules


def test_a_rule_told_before_its_events_is_kept_for_them():
    tail = Tail(5)
    tail.set_rule("late", Rule(2), 3, 9)
    for n in range(10):
        tail.set_rule(f"a-{n}", Rule(1), 1, 5)
    for version in (1, 2, 3):
        push(tail, "late", version)
    assert list(tail.find(EVERYTHING, 5, 0)) == [8]


def test_rules_of_very_many_streams_told_before_their_events_are_all_kept():
    """As when one look at the database finds events of all of them."""
    tail = Tail(5)
    streams = [f"a-{n}" for n in range(2 * FEW_RULES)]
    for stream in streams:
        tail.set_rule(stream, Rule(max_count=1), 0, tail.head + 2 * len(streams))
    for stream in streams:
        push(tail, stream, 1)
        push(tail, stream, 2)
    assert list(tail.find(EVERYTHING, 5, 0)) == list(range(7, 5 + 4 * FEW_RULES + 1, 2))
