"""Which events: the one query language of reads, subscriptions and append conditions.

An item matches an event if all of its parts hold; a query matches if any of its items
does. Names are compared byte by byte. An item without parts asks for nothing in
particular and so matches every event; that is how `all` is represented, and requests can
not build it in another way.
"""

from dataclasses import dataclass
from typing import NamedTuple


def category_of(stream: str) -> str:
    """The part of a stream's name before the first `-`, the whole name if there is none."""
    return stream.partition("-")[0]


class Terms(NamedTuple):
    """What a query can match of one event."""

    stream: str
    """Name of its stream; empty for an event of no stream."""
    type: str
    tags: frozenset[str]

    @property
    def category(self) -> str:
        """Category of its stream; empty for an event of no stream."""
        return category_of(self.stream)


@dataclass(frozen=True, slots=True)
class QueryItem:
    """Parts that must all hold. Within one part any value will do, except that an event
    must have all `tags`."""

    streams: frozenset[str] = frozenset()
    stream_prefixes: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    categories: frozenset[str] = frozenset()

    def matches(self, terms: Terms) -> bool:
        """Whether the event is one of those asked for."""
        stream = terms.stream
        return (
            (not self.types or terms.type in self.types)
            and (not self.tags or self.tags <= terms.tags)
            and (not self.streams or stream in self.streams)
            and (not self.categories or (stream != "" and terms.category in self.categories))
            and (
                not self.stream_prefixes
                or (stream != "" and stream.startswith(tuple(self.stream_prefixes)))
            )
        )


@dataclass(frozen=True, slots=True)
class Query:
    """Events that match any item. Never empty."""

    items: tuple[QueryItem, ...]

    def matches(self, terms: Terms) -> bool:
        """Whether any item matches the event."""
        return any(item.matches(terms) for item in self.items)


EVERYTHING = Query((QueryItem(),))
"""Every event of the log."""


def events_of_stream(stream: str) -> Query:
    """The events of one stream."""
    return Query((QueryItem(streams=frozenset((stream,))),))
