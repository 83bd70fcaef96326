"""The query language: which events.

One language for reads, subscriptions and append conditions. Strings are compared byte by byte,
case and all, without Unicode normalisation.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from treering.v1 import query_pb2

Strings = str | Iterable[str]
"""Several strings; one string alone counts as one, not as its characters."""


def distinct(strings: Strings, what: str) -> tuple[str, ...]:
    """The strings in the order given, each once.

    Raises:
        TypeError: One of them is no string; `what` names them in the message.
    """
    if isinstance(strings, str):
        return (strings,)
    kept = tuple(dict.fromkeys(strings))
    for string in kept:
        if not isinstance(string, str):
            raise TypeError(f"{what} must be strings, not {type(string).__name__}")
    return kept


@dataclass(frozen=True, slots=True, init=False)
class QueryItem:
    """One way for an event to match: all parts that are given must hold.

    Args:
        streams: In any of these streams.
        stream_prefixes: In any stream whose name begins with any of these.
        types: Of any of these types.
        tags: Having all of these tags.
        categories: In a stream of any of these categories (the part of the name before the
            first `-`, or the whole name if there is none).

    A part may be one string or several. Their order, and the same string twice, make no
    difference to what matches.

    Raises:
        ValueError: No part is given. For every event, use `Query.all()`.
        TypeError: A part holds something that is no string.
    """

    streams: tuple[str, ...]
    stream_prefixes: tuple[str, ...]
    types: tuple[str, ...]
    tags: tuple[str, ...]
    categories: tuple[str, ...]

    def __init__(
        self,
        *,
        streams: Strings = (),
        stream_prefixes: Strings = (),
        types: Strings = (),
        tags: Strings = (),
        categories: Strings = (),
    ) -> None:
        parts = {
            "streams": streams,
            "stream_prefixes": stream_prefixes,
            "types": types,
            "tags": tags,
            "categories": categories,
        }
        given = False
        for name, part in parts.items():
            strings = distinct(part, name)
            given = given or bool(strings)
            object.__setattr__(self, name, strings)
        if not given:
            # A filter that is computed and comes out empty must not turn into "everything".
            raise ValueError("a query needs at least one part; for every event use Query.all()")

    def to_proto(self) -> query_pb2.QueryItem:
        """The message that travels."""
        return query_pb2.QueryItem(
            streams=self.streams,
            stream_prefixes=self.stream_prefixes,
            types=self.types,
            tags=self.tags,
            categories=self.categories,
        )


@dataclass(frozen=True, slots=True, init=False)
class Query:
    """Which events: those that match any of its items.

    ```python
    Query(types=["OrderPlaced", "OrderPaid"], tags=["customer:7"])  # one item
    Query(categories="order") | Query(tags="audited")               # either
    Query.all()                                                     # every event
    ```

    Args:
        streams: See `QueryItem`, as for the others.
        stream_prefixes: See `QueryItem`.
        types: See `QueryItem`.
        tags: See `QueryItem`.
        categories: See `QueryItem`.

    The server takes at most 128 items, and 1,024 strings over all queries of one request, and
    refuses more with `LimitExceeded`.

    Raises:
        ValueError: No part is given. For every event, use `Query.all()`.
        TypeError: A part holds something that is no string.
    """

    items: tuple[QueryItem, ...]
    """The items; none for `Query.all()`."""

    def __init__(
        self,
        *,
        streams: Strings = (),
        stream_prefixes: Strings = (),
        types: Strings = (),
        tags: Strings = (),
        categories: Strings = (),
    ) -> None:
        item = QueryItem(
            streams=streams,
            stream_prefixes=stream_prefixes,
            types=types,
            tags=tags,
            categories=categories,
        )
        object.__setattr__(self, "items", (item,))

    @classmethod
    def all(cls) -> "Query":
        """Every event of the log."""
        return cls._with_items(())

    @classmethod
    def of(cls, *items: QueryItem) -> "Query":
        """Events that match any of the items.

        Raises:
            ValueError: No item is given. For every event, use `Query.all()`.
        """
        if not items:
            raise ValueError("a query needs at least one item; for every event use Query.all()")
        for item in items:
            if not isinstance(item, QueryItem):
                raise TypeError(f"Query.of takes QueryItem, not {type(item).__name__}")
        return cls._with_items(items)

    def __or__(self, other: "Query") -> "Query":
        """Events that match either query."""
        if not isinstance(other, Query):
            return NotImplemented
        if not self.items or not other.items:
            return self.all()
        return self._with_items(tuple(dict.fromkeys(self.items + other.items)))

    def to_proto(self) -> query_pb2.Query:
        """The message that travels."""
        return query_pb2.Query(items=[item.to_proto() for item in self.items], all=not self.items)

    @classmethod
    def _with_items(cls, items: tuple[QueryItem, ...]) -> "Query":
        query = object.__new__(cls)
        object.__setattr__(query, "items", items)
        return query
