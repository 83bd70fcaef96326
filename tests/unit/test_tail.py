"""The tail finds what a look at every event would find."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from plans.strategies import EXAMPLES, queries, terms
from treering_server.core.query import EVERYTHING, Query, QueryItem, Terms
from treering_server.core.tail import COMPACTED, Tail

# Enough to let go of trimmed entries several times.
counts = st.integers(1, 2 * COMPACTED)


class TailMachine(RuleBasedStateMachine):
    """A tail beside a list that holds the same events and is searched from end to end."""

    def __init__(self):
        super().__init__()
        self.base = 7
        self.tail = Tail(self.base)
        self.events = []

    @rule(pattern=st.lists(st.one_of(terms, st.none()), min_size=1, max_size=6), count=counts)
    def push(self, pattern, count):
        for n in range(count):
            self.tail.push(pattern[n % len(pattern)])
            self.events.append(pattern[n % len(pattern)])

    @precondition(lambda self: self.events)
    @rule(count=counts)
    def trim(self, count):
        for _ in range(min(count, len(self.events))):
            self.tail.trim()
            del self.events[0]
            self.base += 1

    @rule(query=queries, part=st.floats(0, 1))
    def find(self, query, part):
        after = self.base + round(part * (len(self.events) + 1))

        found = self.naively(query, after)

        assert list(self.tail.find(query, after)) == found
        assert self.tail.first(query, after) == (found[0] if found else None)

    @invariant()
    def knows_what_it_holds(self):
        assert self.tail.base == self.base
        assert self.tail.head == self.base + len(self.events)
        assert len(self.tail) == len(self.events)
        assert self.events or not self.tail._postings, "what is forgotten takes no memory"

    def naively(self, query, after):
        return [
            position
            for position, event in enumerate(self.events, start=self.base + 1)
            if position > after and event is not None and query.matches(event)
        ]


TestTail = TailMachine.TestCase
TestTail.settings = settings(max_examples=EXAMPLES, stateful_step_count=30)


def test_an_empty_tail_finds_nothing():
    tail = Tail(10)
    assert list(tail.find(EVERYTHING, 10)) == []
    assert tail.first(EVERYTHING, 10) is None
    assert (tail.base, tail.head) == (10, 10)


def test_events_trimmed_before_they_were_ever_looked_for_are_not_found():
    tail = Tail(0)
    for n in range(10):
        tail.push(Terms("a-1", "A" if n % 2 else "B", frozenset()))
    for _ in range(4):
        tail.trim()
    assert list(tail.find(Query((QueryItem(types=frozenset("A")),)), 4)) == [6, 8, 10]
