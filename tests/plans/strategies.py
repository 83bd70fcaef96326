"""Random events and queries for them: few names, so that they meet, and some that nobody has."""

import hypothesis
from hypothesis import strategies as st

from treering_server.core.query import Query, QueryItem, Terms

STREAMS = ["a", "a-1", "a-2", "a-3", "ab-1", "b-1", "c", "-1"]
TYPES = ["A", "B", "C"]
TAGS = ["x", "y", "z"]

EXAMPLES = max(200, hypothesis.settings.default.max_examples)
"""For tests whose cases are quick and whose mistakes hide."""

terms = st.builds(
    Terms,
    stream=st.sampled_from(["", *STREAMS]),
    type=st.sampled_from(TYPES),
    tags=st.frozensets(st.sampled_from(TAGS)),
)
"""An event."""


def _some(*names: str) -> st.SearchStrategy[frozenset[str]]:
    return st.frozensets(st.sampled_from(names), min_size=1, max_size=3)


_PARTS = {
    "streams": _some("a", "a-1", "a-2", "b-1", "nobody's"),
    "stream_prefixes": _some("a", "a-", "a-1", "b", "-", "nobody's", "a-n"),
    "types": _some("A", "B", "nobody's"),
    "tags": _some("x", "y"),
    "categories": _some("a", "ab", "b", "", "nobody's"),
}


def _item(parts: int) -> st.SearchStrategy[QueryItem]:
    chosen = st.lists(st.sampled_from(sorted(_PARTS)), unique=True, min_size=parts, max_size=parts)
    return chosen.flatmap(
        lambda names: st.builds(QueryItem, **{name: _PARTS[name] for name in names})
    )


# Mostly such that they match some events and not all: what has many items, or none of the
# parts, matches everything, and what has all parts matches nothing.
items = st.sampled_from([1, 1, 1, 1, 2, 2, 2, 3, 0]).flatmap(_item)
queries = (
    st.sampled_from([1, 1, 1, 2, 3])
    .flatmap(lambda count: st.lists(items, min_size=count, max_size=count))
    .map(lambda chosen: Query(tuple(chosen)))
)
"""What may be asked."""
