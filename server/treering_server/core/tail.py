"""The last events of the log, in memory, and which of them match a query.

An inverted index names, for each stream, category, type and tag, the ascending positions
that have it, so that finding a query's matches costs what its narrowest term names. The
index is brought up to date when it is asked: a log that nobody queries pays nothing.

Owned by one thread at a time; the writer and the feed have one each.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from treering_server.core.query import Query, QueryItem, Terms

Term: TypeAlias = tuple[str, str]

COMPACTED = 64
"""Trimmed positions that a posting keeps at least before it is copied."""


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


class Tail:
    """Events `base < position <= head`, without a hole. Bounded by whoever feeds it."""

    def __init__(self, base: int) -> None:
        """Begins empty, after a position."""
        self._base = base
        self._terms: list[Terms | None] = []
        self._trimmed = 0
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
        return len(self._terms) - self._trimmed

    def push(self, terms: Terms | None) -> None:
        """Adds the next event; None for one whose content is gone."""
        self._terms.append(terms)

    def trim(self) -> None:
        """Forgets the oldest event."""
        terms = self._terms[self._trimmed]
        self._terms[self._trimmed] = None
        self._trimmed += 1
        self._base += 1
        if self._trimmed >= COMPACTED and 2 * self._trimmed >= len(self._terms):
            del self._terms[: self._trimmed]
            self._trimmed = 0
        if self._base > self._indexed:
            self._indexed = self._base
        elif terms is not None:
            for term in terms_of(terms):
                posting = self._postings[term]
                posting.trim()
                if not posting:
                    del self._postings[term]

    def find(self, query: Query, after: int) -> Iterable[int]:
        """Positions after one that match, ascending. `after` must not be below the base."""
        self._index()
        if len(query.items) == 1:
            return self._find_item(query.items[0], after)
        return sorted({each for item in query.items for each in self._find_item(item, after)})

    def first(self, query: Query, after: int) -> int | None:
        """The first position after one that matches."""
        self._index()
        found = (next(self._find_item(item, after), None) for item in query.items)
        return min((each for each in found if each is not None), default=None)

    def _terms_at(self, position: int) -> Terms | None:
        return self._terms[position - self._base - 1 + self._trimmed]

    def _index(self) -> None:
        postings = self._postings
        while self._indexed < self.head:
            self._indexed += 1
            terms = self._terms_at(self._indexed)
            if terms is not None:
                for term in terms_of(terms):
                    posting = postings.get(term)
                    if posting is None:
                        posting = postings[term] = _Posting()
                    posting.positions.append(self._indexed)

    def _find_item(self, item: QueryItem, after: int) -> Iterator[int]:
        for position in self._candidates(item, after):
            terms = self._terms_at(position)
            if terms is not None and item.matches(terms):
                yield position

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
