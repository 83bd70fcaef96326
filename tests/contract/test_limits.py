"""Limits: at each one a request passes; one over, it is refused by name, nothing written."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import grpc
import pytest

from calls import (
    ALL,
    MEGABYTE,
    append,
    append_all,
    append_many,
    append_to,
    fail_if,
    head_of,
    make_event,
    matching,
    new_id,
    outcome,
    read,
    reason_of,
    refused,
    subscribed,
    to_stream,
)
from treering.v1.event_pb2 import Event
from treering.v1.event_store_service_pb2 import AppendRequest, ReadRequest, SubscribeRequest
from treering.v1.query_pb2 import Query, QueryItem
from treering.v1.stream_service_pb2 import GetStreamRequest


def wide(size: int) -> str:
    """That many bytes of UTF-8, in characters of up to four."""
    return "😀" * (size // 4) + "x" * (size % 4)


def numbered(count: int) -> list[str]:
    """That many different names."""
    return [f"n{n}" for n in range(count)]


def one(event: Event) -> AppendRequest:
    """An append of one event to "a"."""
    return append_to("a", event)


def of_size(size: int) -> AppendRequest:
    """An append that is that many bytes once encoded."""
    request = append_to("a", *(make_event(data=MEGABYTE[:800_000]) for _ in range(6)))
    del request.appends[0].events[size // 800_000 + 1 :]
    last = request.appends[0].events[-1]
    last.data = MEGABYTE[: len(last.data) + size - request.ByteSize()]
    assert request.ByteSize() == size
    return request


def queries(strings: int) -> list[Query]:
    """Queries of that many strings in all, of every kind, each few enough."""
    names = numbered(strings)
    quarter = strings // 4
    return [
        matching(streams=names[:quarter]),
        matching(types=names[quarter : 2 * quarter]),
        matching(
            QueryItem(tags=names[2 * quarter : 3 * quarter]),
            QueryItem(categories=names[3 * quarter : -1]),
            QueryItem(stream_prefixes=names[-1:]),
        ),
    ]


@dataclass(frozen=True)
class Limit:
    """A limit of appends: a request of any size, and how the refusal names it."""

    limit: int
    field: str
    """Path, which may go on after this."""
    build: Callable[[int], AppendRequest]


LIMITS = {
    "event data": Limit(
        1024 * 1024,
        "appends[0].events[0].data",
        lambda n: one(make_event(data=b"x" * n)),
    ),
    "one append": Limit(4 * 1024 * 1024, "", of_size),
    "events": Limit(
        10_000, "", lambda n: append_to("a", *(Event(id=new_id(), type="T") for _ in range(n)))
    ),
    "events over all parts": Limit(
        10_000,
        "",
        lambda n: append_all(
            to_stream("a", *(Event(id=new_id(), type="T") for _ in range(n - 7000))),
            to_stream("b", *(Event(id=new_id(), type="T") for _ in range(4000))),
            events=[Event(id=new_id(), type="T") for _ in range(3000)],
        ),
    ),
    "streams": Limit(
        1_000, "", lambda n: append_all(*(to_stream(name, make_event()) for name in numbered(n)))
    ),
    "streams, some only checked": Limit(
        1_000,
        "",
        lambda n: append_all(
            to_stream("written", make_event()),
            *(to_stream(f"only-{name}", expected_version=0) for name in numbered(n - 1)),
        ),
    ),
    "stream name": Limit(255, "appends[0].stream", lambda n: append_to("x" * n)),
    "wide stream name": Limit(255, "appends[0].stream", lambda n: append_to(wide(n))),
    "type": Limit(255, "appends[0].events[0].type", lambda n: one(make_event(wide(n)))),
    "tag": Limit(255, "appends[0].events[0].tags[1]", lambda n: one(make_event("T", "x", wide(n)))),
    "content type": Limit(
        255, "appends[0].events[0].content_type", lambda n: one(make_event(content_type=wide(n)))
    ),
    "tags": Limit(64, "appends[0].events[0].tags", lambda n: one(make_event("T", *numbered(n)))),
    "tags, some repeated": Limit(
        64, "appends[0].events[0].tags", lambda n: one(make_event("T", *numbered(n), *numbered(n)))
    ),
    "metadata value": Limit(
        64 * 1024,
        "appends[0].events[0].metadata",
        lambda n: one(make_event(metadata={"key": "x" * (n - 3)})),
    ),
    "metadata key": Limit(
        64 * 1024,
        "appends[0].events[0].metadata",
        lambda n: one(make_event(metadata={"x" * n: ""})),
    ),
    "metadata keys and values together": Limit(
        64 * 1024,
        "appends[0].events[0].metadata",
        lambda n: one(make_event(metadata={"a" * 1000: wide(1000), "b": wide(n - 2001)})),
    ),
    "an event of no stream": Limit(
        1024 * 1024,
        "events[0].data",
        lambda n: AppendRequest(events=[make_event(data=b"x" * n)]),
    ),
    "conditions": Limit(
        128,
        "",
        lambda n: append_all(
            to_stream("a", make_event()),
            conditions=[fail_if(matching(types=[name])) for name in numbered(n)],
        ),
    ),
    "query items": Limit(
        128,
        "conditions[0].fail_if_match",
        lambda n: append_all(
            to_stream("a", make_event()),
            conditions=[fail_if(matching(*(QueryItem(types=[name]) for name in numbered(n))))],
        ),
    ),
    "strings over all queries": Limit(
        1_024,
        "",
        lambda n: append_all(
            to_stream("a", make_event()), conditions=[fail_if(query) for query in queries(n)]
        ),
    ),
    "a name in a query": Limit(
        255,
        "conditions[0].fail_if_match.items[0].tags[0]",
        lambda n: append_all(
            to_stream("a", make_event()), conditions=[fail_if(matching(tags=[wide(n)]))]
        ),
    ),
}


async def test_an_append_at_a_limit_passes(event_store, subtests):
    for name, limit in LIMITS.items():
        request = limit.build(limit.limit)
        count = sum(len(part.events) for part in request.appends) + len(request.events)
        # Each in a log of its own as far as its condition sees.
        head = (await head_of(event_store)).head_position
        for condition in request.conditions:
            condition.after_position = head
        with subtests.test(name):
            response = await append(event_store, request)

            assert response.last_position == head + count
            recorded = await read(event_store, after_position=head)
            assert len(recorded.events) == count


async def test_an_append_over_a_limit_is_refused_by_name(event_store, subtests):
    for name, limit in LIMITS.items():
        with subtests.test(name):
            call = event_store.Append(limit.build(limit.limit + 1))
            refusal = await refused(call, "LIMIT_EXCEEDED")

            [violation] = refusal.violations
            assert (violation.limit, violation.actual) == (limit.limit, limit.limit + 1)
            assert violation.field.startswith(limit.field)
            assert limit.field or not violation.field, "of the whole request: an empty path"
    assert (await head_of(event_store)).head_position == 0


async def test_over_a_limit_is_the_result_of_an_item(event_store, subtests):
    for name, limit in LIMITS.items():
        with subtests.test(name):
            refusal, passed = await append_many(
                event_store, limit.build(limit.limit + 1), append_to("a")
            )

            assert reason_of(refusal.failure) == "LIMIT_EXCEEDED"
            assert passed.HasField("appended")


async def test_far_over_the_limit_of_an_append_is_still_refused_by_name(event_store):
    """The transport takes four times as much."""
    request = append_to("a", *(make_event(data=MEGABYTE) for _ in range(15)))

    refusal = await refused(event_store.Append(request), "LIMIT_EXCEEDED")

    [violation] = refusal.violations
    assert (violation.field, violation.limit) == ("", 4 * 1024 * 1024)
    assert violation.actual == request.ByteSize()


async def test_what_the_transport_refuses_is_not_written_and_harms_nothing(event_store):
    request = append_to("a", *(make_event(data=MEGABYTE) for _ in range(17)))

    with pytest.raises(grpc.RpcError) as error:
        await outcome(event_store.Append(request))

    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await append(event_store, append_to("a"))).first_position == 1


async def test_several_limits_are_told_together(event_store):
    event = make_event("x" * 256, *numbered(65), data=MEGABYTE + b"x")

    refusal = await refused(event_store.Append(append_to("a", event)), "LIMIT_EXCEEDED")

    path = "appends[0].events[0]"
    assert set(refusal.fields) == {f"{path}.type", f"{path}.tags", f"{path}.data"}


async def test_the_same_stream_many_times_is_one(event_store):
    request = append_all(*(to_stream(f"s-{n % 10}", make_event()) for n in range(5000)))

    response = await append(event_store, request)

    assert [(v.stream, v.version) for v in response.versions] == [
        (f"s-{n}", 500) for n in range(10)
    ]


# --- the limits of queries in reads and subscriptions

QUERIES = {
    "items": (128, lambda n: matching(*(QueryItem(types=[name]) for name in numbered(n)))),
    "strings": (1_024, lambda n: matching(streams=numbered(n))),
    "strings over items": (
        1_024,
        lambda n: matching(
            QueryItem(streams=numbered(1000)), QueryItem(types=["a", *numbered(n - 1001)])
        ),
    ),
    "strings, some repeated": (1_024, lambda n: matching(types=["T"] * n)),
    "name": (255, lambda n: matching(stream_prefixes=[wide(n)])),
}


async def test_a_query_at_a_limit_passes(event_store, subtests):
    await append(event_store, append_to("n1", make_event("T")))

    for name, (limit, build) in QUERIES.items():
        with subtests.test(name):
            await read(event_store, query=build(limit))
            async with subscribed(event_store, query=build(limit)) as subscription:
                assert (await subscription.until("caught_up")).position == 1


@pytest.mark.parametrize("method", ["Read", "Subscribe"])
async def test_a_query_over_a_limit_is_refused_by_name(event_store, method, subtests):
    make = {"Read": ReadRequest, "Subscribe": SubscribeRequest}[method]
    for name, (limit, build) in QUERIES.items():
        with subtests.test(name):
            call = getattr(event_store, method)(make(query=build(limit + 1)))
            refusal = await refused(call, "LIMIT_EXCEEDED")

            [violation] = refusal.violations
            assert (violation.limit, violation.actual) == (limit, limit + 1)
            if "strings" in name:
                assert violation.field == "", "a limit of the whole request"
            else:
                assert violation.field.startswith("query")


@pytest.mark.parametrize("method", ["Read", "Subscribe"])
async def test_a_stream_name_over_the_limit(event_store, method):
    request = {"Read": ReadRequest, "Subscribe": SubscribeRequest}[method](stream="x" * 256)

    refusal = await refused(getattr(event_store, method)(request), "LIMIT_EXCEEDED")

    [violation] = refusal.violations
    assert (violation.field, violation.limit, violation.actual) == ("stream", 255, 256)


async def test_a_stream_name_over_the_limit_in_get_stream(stream_service):
    request = GetStreamRequest(stream=wide(256))

    refusal = await refused(stream_service.GetStream(request), "LIMIT_EXCEEDED")

    [violation] = refusal.violations
    assert (violation.field, violation.limit, violation.actual) == ("stream", 255, 256)


async def test_the_longest_names_can_be_read_and_followed(event_store):
    names: Iterable[str] = (wide(255), "x" * 255)
    for name in names:
        await append(event_store, append_to(name, make_event(name, name)))
        queries_ = [
            ALL,
            matching(streams=[name], types=[name], tags=[name]),
            matching(categories=[name], stream_prefixes=[name]),
        ]
        for query in queries_:
            assert (await read(event_store, query=query)).events[-1].stream == name


@pytest.mark.parametrize(
    ("part", "one_more", "found"),
    [
        ("streams", "a-1", True),
        ("stream_prefixes", "a-", True),
        ("categories", "a", True),
        ("tags", "x", False),
    ],
)
async def test_a_query_of_as_many_strings_as_it_may_have_is_answered(
    event_store, part, one_more, found
):
    """Also where the database has to check all of them on an event."""
    await append(event_store, append_to("a-1", make_event("T", "x")))
    item = QueryItem(types=["T"], **{part: [*numbered(1_022), one_more]})

    answer = await read(event_store, query=matching(item))

    assert len(answer.events) == found
    refusing = append_all(to_stream("b", make_event()), conditions=[fail_if(matching(item))])
    if found:
        await refused(event_store.Append(refusing), "CONDITION_FAILED")
    else:
        await append(event_store, refusing)
