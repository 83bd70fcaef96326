"""The last events of the log, in memory, and which of them match a query.

An inverted index names, for each stream, category, type and tag, the ascending positions
that have it, so that finding a query's matches costs what its narrowest term names. The
index is brought up to date when it is asked: a log that nobody queries pays nothing.

What is removed is not found: the tail knows of each stream that may have removed events
what rule is on it.

Owned by one thread at a time; the writer and the feed have one each.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from treering_server.core.query import Query, QueryItem, Terms
from treering_server.core.removal import Rule

Term: TypeAlias = tuple[str, str]
TailEvent: TypeAlias = tuple[Terms, int, int]
"""An event with its version and time, in microseconds."""

COMPACTED = 64
"""Trimmed positions that a posting keeps at least before it is copied."""
FEW_RULES = 64
"""So many are kept without looking for those that no event is left of."""


def terms_of(terms: Terms) -> Iterator[Term]:
    """What the index knows an event by."""
    yield ("type", terms.type)
    if terms.stream:
        yield ("stream", terms.stream)
        yield ("category", terms.category)
    for tag in terms.tags:
        yield ("tag", tag)


@dataclass(slots=True)
class _Posting:
    positions: list[int] = field(default_factory=list)
    trimmed: int = 0

    def __len__(self) -> int:
        return len(self.positions) - self.trimmed

    def after(self, position: int) -> Iterator[int]:
        start = bisect_right(self.positions, position, self.trimmed)
        for index in range(start, len(self.positions)):
            yield self.positions[index]

    def trim(self) -> None:
        self.trimmed += 1
        if self.trimmed >= COMPACTED and 2 * self.trimmed >= len(self.positions):
            del self.positions[: self.trimmed]
            self.trimmed = 0


@dataclass(slots=True)
class _Ruled:
    """A stream whose events may be removed."""

    rule: Rule
    last_version: int
    last_position: int
    """None of its events comes after this one."""
    generation: int


class Tail:
    """Events `base < position <= head`, without a hole. Bounded by whoever feeds it."""

    def __init__(self, base: int) -> None:
        """Begins empty, after a position."""
        self._base = base
        self._events: list[TailEvent | None] = []
        self._rules: dict[str, _Ruled] = {}
        self._most_rules = FEW_RULES
        self._postings: dict[Term, _Posting] = {}
        self._indexed = base

    @property
    def base(self) -> int:
        """Everything after this position is known here."""
        return self._base

    @property
    def head(self) -> int:
        """The last position that is known here."""
        return self._base + len(self)

    def __len__(self) -> int:
        return len(self._events)

    @property
    def has_rules(self) -> bool:
        """Whether some of the events may be removed."""
        return bool(self._rules)

    def extend(self, events: Sequence[TailEvent | None]) -> None:
        """Adds the next events. None: one that is removed already."""
        first = self.head + 1
        self._events += events
        if not self._rules:
            return
        for position, event in enumerate(events, first):
            ruled = None if event is None else self._rules.get(event[0].stream)
            if event is not None and ruled is not None:
                ruled.last_version = max(ruled.last_version, event[1])
                ruled.last_position = max(ruled.last_position, position)

    def set_rule(
        self, stream: str, rule: Rule, last_version: int, until: int, generation: int = 0
    ) -> None:
        """What of a stream is removed from now on.

        To be told of each stream that has a moving rule, before its events are pushed, and of
        each change of a rule.

        Args:
            stream: Its name.
            rule: The rule.
            last_version: The last version that it was given, as far as is known.
            until: Events that the rule may be needed for come up to this position.
            generation: Of the log, when it had this rule. What is told late is passed over.
        """
        before = self._rules.get(stream)
        if before is not None:
            if before.generation > generation:
                rule, generation = before.rule, before.generation
            last_version = max(last_version, before.last_version)
            until = max(until, before.last_position)
        self._rules[stream] = _Ruled(rule, last_version, max(until, self.head), generation)
        if len(self._rules) > self._most_rules:
            self._rules = {
                name: ruled
                for name, ruled in self._rules.items()
                if ruled.last_position > self.base or name == stream
            }
            self._most_rules = max(FEW_RULES, 2 * len(self._rules))

    def trim(self, count: int) -> None:
        """Forgets so many of the oldest events."""
        indexed = self._events[: min(count, self._indexed - self._base)]
        for terms in (event[0] for event in indexed if event is not None):
            for term in terms_of(terms):
                posting = self._postings[term]
                posting.trim()
                if not posting:
                    del self._postings[term]
        del self._events[:count]
        self._base += count
        self._indexed = max(self._indexed, self._base)

    def find(self, query: Query, after: int, now: int) -> Iterable[int]:
        """Positions after one that match, ascending, without those removed at a time.
        `after` must not be below the base."""
        self._index()
        if len(query.items) == 1:
            return self._find_item(query.items[0], after, now)
        return sorted({each for item in query.items for each in self._find_item(item, after, now)})

    def first(self, query: Query, after: int, now: int) -> int | None:
        """The first position after one that matches and is not removed at a time."""
        self._index()
        found = (next(self._find_item(item, after, now), None) for item in query.items)
        return min((each for each in found if each is not None), default=None)

    def _event_at(self, position: int) -> TailEvent | None:
        return self._events[position - self._base - 1]

    def _index(self) -> None:
        postings = self._postings
        while self._indexed < self.head:
            self._indexed += 1
            event = self._event_at(self._indexed)
            if event is not None:
                for term in terms_of(event[0]):
                    posting = postings.get(term)
                    if posting is None:
                        posting = postings[term] = _Posting()
                    posting.positions.append(self._indexed)

    def _find_item(self, item: QueryItem, after: int, now: int) -> Iterator[int]:
        for position in self._candidates(item, after):
            event = self._event_at(position)
            if event is not None and item.matches(event[0]):
                if self._rules and self._is_removed(*event, now):
                    continue
                yield position

    def _is_removed(self, terms: Terms, version: int, recorded_at: int, now: int) -> bool:
        ruled = self._rules.get(terms.stream)
        return ruled is not None and ruled.rule.removes(
            version, recorded_at, last_version=ruled.last_version, now=now
        )

    def _candidates(self, item: QueryItem, after: int) -> Iterable[int]:
        """Positions that one part of the item names: the one that names the fewest."""
        parts: list[list[_Posting]] = [self._named("tag", (tag,)) for tag in item.tags]
        for kind, names in (
            ("stream", item.streams),
            ("type", item.types),
            ("category", item.categories),
        ):
            if names:
                parts.append(self._named(kind, names))
        if not parts:
            return range(after + 1, self.head + 1)
        narrowest = min(parts, key=lambda part: sum(map(len, part)))
        if len(narrowest) == 1:
            return narrowest[0].after(after)
        return sorted(each for posting in narrowest for each in posting.after(after))

    def _named(self, kind: str, names: Iterable[str]) -> list[_Posting]:
        found = (self._postings.get((kind, name)) for name in names)
        return [posting for posting in found if posting is not None]
