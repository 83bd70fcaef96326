"""Which events a query matches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treering_server.core.query import (
    EVERYTHING,
    Query,
    QueryItem,
    Terms,
    category_of,
    events_of_stream,
)

SHIPPED = Terms("order-2-b", "Shipped", frozenset({"customer:7", "region:eu"}))
LOOSE = Terms("", "Shipped", frozenset({"customer:7"}))


def item(**parts):
    return QueryItem(**{name: frozenset(names) for name, names in parts.items()})


@pytest.mark.parametrize(
    ("stream", "category"),
    [("order-1", "order"), ("order-1-2", "order"), ("order", "order"), ("-1", ""), ("a-", "a")],
)
def test_the_category_is_what_comes_before_the_first_dash(stream, category):
    assert category_of(stream) == category


@pytest.mark.parametrize(
    ("asked", "matches"),
    [
        (item(), True),
        (item(types=["Shipped"]), True),
        (item(types=["Placed", "Shipped"]), True),
        (item(types=["shipped"]), False),
        (item(tags=["customer:7"]), True),
        (item(tags=["customer:7", "region:eu"]), True),
        (item(tags=["customer:7", "region:us"]), False),
        (item(streams=["order-1", "order-2-b"]), True),
        (item(streams=["order-2"]), False),
        (item(categories=["order"]), True),
        (item(categories=["orde", "order-2"]), False),
        (item(stream_prefixes=["ord"]), True),
        (item(stream_prefixes=["order-2-b"]), True),
        (item(stream_prefixes=["rder", "order-2-b-"]), False),
        (item(types=["Shipped"], tags=["region:eu"], categories=["order"]), True),
        (item(types=["Shipped"], tags=["region:us"]), False),
        (item(types=["Placed"], tags=["region:eu"]), False),
        (item(streams=["order-2-b"], stream_prefixes=["invoice"]), False),
    ],
    ids=str,
)
def test_all_parts_must_hold_and_of_one_part_any_value_but_all_tags(asked, matches):
    assert asked.matches(SHIPPED) is matches


@pytest.mark.parametrize(
    ("asked", "matches"),
    [
        (item(), True),
        (item(types=["Shipped"], tags=["customer:7"]), True),
        (item(stream_prefixes=["order"]), False),
        (item(categories=["order"]), False),
        (item(categories=[""]), False),
        (item(streams=["order-2-b"]), False),
    ],
    ids=str,
)
def test_an_event_of_no_stream_is_in_no_stream_prefix_or_category(asked, matches):
    assert asked.matches(LOOSE) is matches


def test_a_stream_that_begins_with_a_dash_is_in_the_category_without_a_name():
    assert item(categories=[""]).matches(Terms("-1", "T", frozenset()))


def test_names_are_not_normalised():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert not item(streams=[composed]).matches(Terms(decomposed, "T", frozenset()))
    assert not item(tags=[composed]).matches(Terms("", "T", frozenset({decomposed})))


def test_a_query_matches_if_any_item_does():
    query = Query((item(types=["Placed"]), item(tags=["region:eu"])))
    assert query.matches(SHIPPED)
    assert not query.matches(LOOSE)


def test_everything_and_the_events_of_a_stream():
    assert EVERYTHING.matches(SHIPPED)
    assert EVERYTHING.matches(LOOSE)
    assert events_of_stream("order-2-b").matches(SHIPPED)
    assert not events_of_stream("order-2").matches(SHIPPED)
    assert not events_of_stream("order-2-b").matches(LOOSE)


def subsets(names):
    return st.frozensets(st.sampled_from(names), max_size=2)


@given(
    st.builds(
        QueryItem,
        streams=subsets(["a-1", "a-2", "b"]),
        stream_prefixes=subsets(["a", "a-", "b", "-"]),
        types=subsets(["T", "U"]),
        tags=subsets(["x", "y"]),
        categories=subsets(["a", "b", ""]),
    ),
    st.builds(
        Terms,
        stream=st.sampled_from(["", "a-1", "a-2", "b", "-1"]),
        type=st.sampled_from(["T", "U"]),
        tags=subsets(["x", "y"]),
    ),
)
def test_an_item_means_what_it_says(asked, event):
    has_category = [event.stream.split("-")[0]] if event.stream else []
    prefixes = [event.stream[:length] for length in range(1, len(event.stream) + 1)]
    conditions = [
        not asked.types or event.type in asked.types,
        all(tag in event.tags for tag in asked.tags),
        not asked.streams or event.stream in asked.streams,
        not asked.categories or any(each in asked.categories for each in has_category),
        not asked.stream_prefixes or any(each in asked.stream_prefixes for each in prefixes),
    ]
    assert asked.matches(event) == all(conditions)
