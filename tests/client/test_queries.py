import pytest

from treering import Query, QueryItem
from treering.v1 import query_pb2


def test_the_shorthand_is_one_item():
    query = Query(types=["A", "B"], tags="t")
    assert query == Query.of(QueryItem(types=["A", "B"], tags=["t"]))
    assert query.to_proto() == query_pb2.Query(
        items=[query_pb2.QueryItem(types=["A", "B"], tags=["t"])]
    )


def test_every_part_travels():
    item = QueryItem(
        streams=["a"], stream_prefixes=["b"], types=["c"], tags=["d"], categories=["e"]
    )
    assert item.to_proto() == query_pb2.QueryItem(
        streams=["a"], stream_prefixes=["b"], types=["c"], tags=["d"], categories=["e"]
    )


def test_all_is_every_event():
    assert Query.all().to_proto() == query_pb2.Query(all=True)


def test_or_puts_the_items_together():
    either = Query(types="A") | Query(tags="t") | Query(types="A")
    assert either == Query.of(QueryItem(types="A"), QueryItem(tags="t"))
    assert either | Query.all() == Query.all() | either == Query.all()
    with pytest.raises(TypeError):
        either | {"types": ["A"]}


def test_an_empty_query_is_refused_here():
    for make in (Query, QueryItem, Query.of):
        with pytest.raises(ValueError, match=r"Query\.all"):
            make()
    with pytest.raises(ValueError, match=r"Query\.all"):
        Query(types=[])


def test_strings_are_strings():
    with pytest.raises(TypeError, match="types must be strings, not int"):
        Query(types=[7])
    with pytest.raises(TypeError, match="QueryItem"):
        Query.of(Query(types="A"))


def test_queries_are_values():
    assert len({Query(types="A"), Query(types=["A"]), Query(types=["A", "A"])}) == 1
