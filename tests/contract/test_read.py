"""Read: which events a query means, every bound in both directions, and the state told."""

import asyncio

import pytest

from calls import (
    ALL,
    BACKWARDS,
    FORWARDS,
    MAX_NUMBER,
    MEGABYTE,
    Answer,
    append,
    append_all,
    append_to,
    head_of,
    make_event,
    matching,
    nanoseconds,
    new_id,
    next_response,
    read,
    refused,
    rest_of,
    timestamp,
    whole,
)
from treering.v1.event_store_service_pb2 import AppendRequest, ReadRequest
from treering.v1.query_pb2 import Query, QueryItem


def one(stream: str, type: str, *tags: str) -> AppendRequest:
    """An append of one event, to no stream if that is empty."""
    event = make_event(type, *tags)
    return append_to(stream, event) if stream else AppendRequest(events=[event])


CORPUS = [
    ("order-1", "Placed", "customer:7", "region:eu"),  # 1
    ("order-1", "Paid", "customer:7"),  # 2
    ("order-2", "Placed", "customer:8", "region:eu"),  # 3
    ("", "PriceChanged", "product:1"),  # 4
    ("invoice-1", "Sent", "customer:7", "region:us"),  # 5
    ("order", "Placed"),  # 6: category "order" too, the whole name
    ("orders-1", "Placed"),  # 7: category "orders"
    ("order-1", "Shipped", "region:eu", "customer:7"),  # 8
    ("", "Placed", "customer:7"),  # 9
    ("order-10", "Placed", "customer:70"),  # 10
    ("Order-1", "placed", "Customer:7"),  # 11: another case
    ("-x", "Placed", "region:eu"),  # 12: the empty category
    ("ordér-1", "Plácé", "régíon"),  # 13: é is one character
    ("orde\u0301r-1", "Pla\u0301ce\u0301", "re\u0301gi\u0301on"),  # 14: e and an accent
    ("order-1-a", "Placed"),  # 15: category "order"
]


@pytest.fixture
async def corpus(event_store) -> None:
    """The log of CORPUS: positions 1 to 15, one append each."""
    await append(event_store, *(one(*row) for row in CORPUS))


QUERIES: dict[str, tuple[Query, list[int]]] = {
    "all": (ALL, list(range(1, 16))),
    # one part
    "a stream": (matching(streams=["order-1"]), [1, 2, 8]),
    "any of the streams": (matching(streams=["order-1", "order-2", "no"]), [1, 2, 3, 8]),
    "a stream that is not there": (matching(streams=["order-3"]), []),
    "a stream twice": (matching(streams=["order-2", "order-2"]), [3]),
    "a type": (matching(types=["Placed"]), [1, 3, 6, 7, 9, 10, 12, 15]),
    "any of the types": (matching(types=["Paid", "Sent"]), [2, 5]),
    "a type that is not there": (matching(types=["Gone"]), []),
    "a tag": (matching(tags=["customer:7"]), [1, 2, 5, 8, 9]),
    "all of the tags": (matching(tags=["customer:7", "region:eu"]), [1, 8]),
    "all of the tags, in any order": (matching(tags=["region:eu", "customer:7"]), [1, 8]),
    "a tag twice": (matching(tags=["product:1", "product:1"]), [4]),
    "tags that never meet": (matching(tags=["customer:7", "customer:8"]), []),
    "a tag that is not there, with one that is": (matching(tags=["customer:7", "no"]), []),
    "a part of a tag": (matching(tags=["customer"]), []),
    "a category": (matching(categories=["order"]), [1, 2, 3, 6, 8, 10, 15]),
    "any of the categories": (matching(categories=["invoice", "orders"]), [5, 7]),
    "a category is no prefix": (matching(categories=["ord"]), []),
    "a category never has a -": (matching(categories=["order-1"]), []),
    "a prefix inside a category name": (
        matching(stream_prefixes=["ord"]),
        [1, 2, 3, 6, 7, 8, 10, 13, 14, 15],
    ),
    "a prefix that is a category name": (
        matching(stream_prefixes=["order"]),
        [1, 2, 3, 6, 7, 8, 10, 15],
    ),
    "a prefix up to the -": (matching(stream_prefixes=["order-"]), [1, 2, 3, 8, 10, 15]),
    "a prefix longer than a category": (matching(stream_prefixes=["order-1"]), [1, 2, 8, 10, 15]),
    "a prefix that is a whole name": (matching(stream_prefixes=["invoice-1"]), [5]),
    "a prefix with the second -": (matching(stream_prefixes=["order-1-"]), [15]),
    "a prefix that begins with -": (matching(stream_prefixes=["-"]), [12]),
    "any of the prefixes": (matching(stream_prefixes=["inv", "orders", "x"]), [5, 7]),
    "prefixes that overlap": (
        matching(stream_prefixes=["order-", "order-1"]),
        [1, 2, 3, 8, 10, 15],
    ),
    "no wildcards in a prefix": (matching(stream_prefixes=["order_", "%", "ord*", "order?"]), []),
    # byte by byte
    "a stream of another case": (matching(streams=["Order-1"]), [11]),
    "a type of another case": (matching(types=["placed"]), [11]),
    "a tag of another case": (matching(tags=["Customer:7"]), [11]),
    "a category of another case": (matching(categories=["Order"]), [11]),
    "a prefix of another case": (matching(stream_prefixes=["Ord"]), [11]),
    "a composed stream": (matching(streams=["ordér-1"]), [13]),
    "a decomposed stream": (matching(streams=["orde\u0301r-1"]), [14]),
    "a composed type": (matching(types=["Plácé"]), [13]),
    "a decomposed tag": (matching(tags=["re\u0301gi\u0301on"]), [14]),
    "a composed category": (matching(categories=["ordér"]), [13]),
    "a composed prefix": (matching(stream_prefixes=["ordé"]), [13]),
    "a prefix that splits a composed character": (matching(stream_prefixes=["orde\u0301"]), [14]),
    # parts together
    "stream and type": (matching(streams=["order-1"], types=["Placed"]), [1]),
    "streams and types": (
        matching(streams=["order-1", "order-2"], types=["Placed", "Paid"]),
        [1, 2, 3],
    ),
    "stream and tag": (matching(streams=["order-1"], tags=["region:eu"]), [1, 8]),
    "stream and prefix": (
        matching(streams=["order-1", "orders-1"], stream_prefixes=["orders"]),
        [7],
    ),
    "stream and category": (matching(streams=["order-1", "orders-1"], categories=["orders"]), [7]),
    "stream and a category of others": (matching(streams=["order-1"], categories=["x"]), []),
    "type and tag": (matching(types=["Placed"], tags=["customer:7"]), [1, 9]),
    "type and category": (matching(types=["Placed"], categories=["order"]), [1, 3, 6, 10, 15]),
    "type and prefix": (matching(types=["Placed"], stream_prefixes=["order-1"]), [1, 10, 15]),
    "tag and category": (matching(tags=["customer:7"], categories=["order"]), [1, 2, 8]),
    "tag and prefix": (matching(tags=["customer:7"], stream_prefixes=["o"]), [1, 2, 8]),
    "prefix and category": (
        matching(stream_prefixes=["order-1"], categories=["order"]),
        [1, 2, 8, 10, 15],
    ),
    "prefix and a category of others": (matching(stream_prefixes=["i"], categories=["order"]), []),
    "all five parts": (
        matching(
            streams=["order-1", "order-2", "invoice-1"],
            stream_prefixes=["order-", "x"],
            types=["Placed", "Shipped"],
            tags=["region:eu", "customer:7"],
            categories=["order", "invoice"],
        ),
        [1, 8],
    ),
    # items together
    "either item": (
        matching(QueryItem(types=["Paid"]), QueryItem(streams=["order-2"])),
        [2, 3],
    ),
    "an event that both items match comes once": (
        matching(QueryItem(types=["Placed"]), QueryItem(tags=["customer:7"])),
        [1, 2, 3, 5, 6, 7, 8, 9, 10, 12, 15],
    ),
    "items of every kind": (
        matching(
            QueryItem(streams=["invoice-1"]),
            QueryItem(stream_prefixes=["orders"]),
            QueryItem(types=["Shipped"]),
            QueryItem(tags=["product:1"]),
            QueryItem(categories=["ordér"]),
        ),
        [4, 5, 7, 8, 13],
    ),
    "the same item twice": (
        matching(QueryItem(types=["Paid"]), QueryItem(types=["Paid"])),
        [2],
    ),
    "items of which none matches": (
        matching(QueryItem(types=["Gone"]), QueryItem(tags=["no"])),
        [],
    ),
    # reserved names match nothing yet
    "$ first": (
        matching(
            *(
                QueryItem(**{part: ["$all"]})
                for part in ("streams", "stream_prefixes", "types", "tags", "categories")
            )
        ),
        [],
    ),
}


@pytest.mark.parametrize("direction", [FORWARDS, BACKWARDS], ids=["forwards", "backwards"])
async def test_every_query_means_its_events(event_store, corpus, direction, subtests):
    for name, (query, positions) in QUERIES.items():
        with subtests.test(name):
            answer = await read(event_store, query=query, direction=direction)

            assert answer.positions == positions[:: 1 if direction == FORWARDS else -1]
            assert (answer.head_position, answer.stream_version) == (15, 0)


@pytest.mark.parametrize("direction", [FORWARDS, BACKWARDS], ids=["forwards", "backwards"])
async def test_every_query_within_bounds_and_a_limit(event_store, corpus, direction, subtests):
    for name, (query, positions) in QUERIES.items():
        with subtests.test(name):
            after = 2 if direction == FORWARDS else 11
            answer = await read(
                event_store,
                query=query,
                direction=direction,
                after_position=after,
                until_position=12,
                limit=3,
            )

            if direction == FORWARDS:
                assert answer.positions == [p for p in positions if 2 < p <= 12][:3]
            else:
                assert answer.positions == [p for p in reversed(positions) if p < 11][:3]
            assert answer.head_position == 12


async def test_events_come_as_they_were_recorded(event_store, corpus):
    answer = await read(event_store)

    assert [(e.stream, e.type, *e.tags) for e in answer.events] == CORPUS
    assert answer.versions == [1, 2, 1, 0, 1, 1, 1, 3, 0, 1, 1, 1, 1, 1, 1]


async def test_names_that_sort_last_are_found_by_prefix(event_store):
    names = ["\U0010ffff", "\U0010ffff\U0010ffffx", "a\U0010ffff", "a\ud7ff", "a\ue000", "b", "a"]
    await append(event_store, *(append_to(name) for name in names))

    async def positions(prefix: str) -> list[int]:
        return (await read(event_store, query=matching(stream_prefixes=[prefix]))).positions

    assert await positions("\U0010ffff") == [1, 2]
    assert await positions("\U0010ffff\U0010ffff") == [2]
    assert await positions("a\U0010ffff") == [3]
    assert await positions("a\ud7ff") == [4]
    assert await positions("a") == [3, 4, 5, 7]


async def test_many_prefixes_and_streams(event_store):
    names = [f"s-{n:03}" for n in range(300)]
    await append(event_store, append_all(*(append_to(name).appends[0] for name in names)))

    by_prefix = matching(stream_prefixes=[name[:4] for name in names[:150:10]])
    by_name = matching(streams=names[100:200])

    assert (await read(event_store, query=by_prefix)).positions == list(range(1, 151))
    assert (await read(event_store, query=by_name)).positions == list(range(101, 201))


# --- one stream

STREAM_BOUNDS = [
    # fields, versions of "order-1" (positions 1, 2, 8)
    ({}, [1, 2, 3]),
    ({"direction": BACKWARDS}, [3, 2, 1]),
    ({"after_version": 0}, [1, 2, 3]),
    ({"after_version": 1}, [2, 3]),
    ({"after_version": 3}, []),
    ({"after_version": 0, "direction": BACKWARDS}, []),
    ({"after_version": 1, "direction": BACKWARDS}, []),
    ({"after_version": 2, "direction": BACKWARDS}, [1]),
    ({"after_version": 3, "direction": BACKWARDS}, [2, 1]),
    ({"after_version": 4, "direction": BACKWARDS}, [3, 2, 1]),
    ({"after_version": MAX_NUMBER, "direction": BACKWARDS}, [3, 2, 1]),
    ({"after_position": 0}, [1, 2, 3]),
    ({"after_position": 1}, [2, 3]),
    ({"after_position": 2}, [3]),
    ({"after_position": 7}, [3]),
    ({"after_position": 8}, []),
    ({"after_position": 15}, []),
    ({"after_position": 0, "direction": BACKWARDS}, []),
    ({"after_position": 2, "direction": BACKWARDS}, [1]),
    ({"after_position": 8, "direction": BACKWARDS}, [2, 1]),
    ({"after_position": 9, "direction": BACKWARDS}, [3, 2, 1]),
    ({"after_position": 16, "direction": BACKWARDS}, [3, 2, 1]),
    ({"limit": 2}, [1, 2]),
    ({"limit": 2, "direction": BACKWARDS}, [3, 2]),
    ({"limit": 1, "after_version": 1}, [2]),
    ({"limit": 1, "after_version": 3, "direction": BACKWARDS}, [2]),
]


async def test_a_stream_within_each_bound(event_store, corpus, subtests):
    for fields, versions in STREAM_BOUNDS:
        with subtests.test(str(fields)):
            answer = await read(event_store, stream="order-1", **fields)

            assert answer.versions == versions
            assert (answer.head_position, answer.stream_version) == (15, 3)


@pytest.mark.parametrize(
    ("until", "versions"),
    [(0, []), (1, [1]), (2, [1, 2]), (7, [1, 2]), (8, [1, 2, 3]), (15, [1, 2, 3])],
)
async def test_until_a_position_the_stream_is_as_it_stood_then(
    event_store, corpus, until, versions
):
    forwards = await read(event_store, stream="order-1", until_position=until)
    backwards = await read(event_store, stream="order-1", until_position=until, direction=BACKWARDS)

    assert (forwards.versions, backwards.versions) == (versions, versions[::-1])
    for answer in (forwards, backwards):
        assert (answer.head_position, answer.stream_version) == (until, len(versions))


async def test_a_stream_that_is_not_there_yields_no_events_and_version_0(event_store, corpus):
    for name in ("order-3", "$all", "order-", "order-1 "):
        answer = await read(event_store, stream=name)

        assert answer.events == []
        assert (answer.head_position, answer.stream_version) == (15, 0)


async def test_a_version_after_the_last_is_refused_forwards(event_store, corpus):
    for stream, after in (("order-1", 4), ("order-1", MAX_NUMBER), ("none", 1)):
        refusal = await refused(
            event_store.Read(ReadRequest(stream=stream, after_version=after)),
            "POSITION_AHEAD_OF_LOG",
        )

        assert refusal.failure.log_state.head_position == 15


async def test_after_version_0_of_a_stream_that_is_not_there(event_store, corpus):
    assert (await read(event_store, stream="none", after_version=0)).events == []
    backwards = await read(event_store, stream="none", after_version=9, direction=BACKWARDS)
    assert backwards.events == []


async def test_a_version_under_until_is_ahead_only_of_the_last_ever_given(event_store, corpus):
    """`after_version` may be up to the last version ever given, whatever `until` says."""
    answer = await read(event_store, stream="order-1", after_version=3, until_position=2)

    assert (answer.versions, answer.stream_version) == ([], 2)


# --- positions

POSITION_BOUNDS = [
    ({"after_position": 0}, list(range(1, 16))),
    ({"after_position": 14}, [15]),
    ({"after_position": 15}, []),
    ({"after_position": 0, "direction": BACKWARDS}, []),
    ({"after_position": 1, "direction": BACKWARDS}, []),
    ({"after_position": 3, "direction": BACKWARDS}, [2, 1]),
    ({"after_position": 15, "direction": BACKWARDS}, list(range(14, 0, -1))),
    ({"after_position": 16, "direction": BACKWARDS}, list(range(15, 0, -1))),
    ({"after_position": 2**64 - 1, "direction": BACKWARDS}, list(range(15, 0, -1))),
    ({"until_position": 0}, []),
    ({"until_position": 3}, [1, 2, 3]),
    ({"until_position": 15}, list(range(1, 16))),
    ({"until_position": 3, "direction": BACKWARDS}, [3, 2, 1]),
    ({"after_position": 2, "until_position": 4}, [3, 4]),
    ({"after_position": 4, "until_position": 4}, []),
    ({"after_position": 9, "until_position": 4}, []),
    ({"after_position": 3, "until_position": 4, "direction": BACKWARDS}, [2, 1]),
    ({"after_position": 5, "until_position": 4, "direction": BACKWARDS}, [4, 3, 2, 1]),
    ({"after_position": 4, "until_position": 0, "direction": BACKWARDS}, []),
    ({"limit": 1}, [1]),
    ({"limit": 15}, list(range(1, 16))),
    ({"limit": 2**64 - 1}, list(range(1, 16))),
    ({"limit": 2, "direction": BACKWARDS}, [15, 14]),
    ({"limit": 2, "after_position": 4}, [5, 6]),
    ({"limit": 2, "after_position": 4, "direction": BACKWARDS}, [3, 2]),
    ({"limit": 2, "until_position": 4, "direction": BACKWARDS}, [4, 3]),
]


async def test_the_log_within_each_bound(event_store, corpus, subtests):
    for fields, positions in POSITION_BOUNDS:
        with subtests.test(str(fields)):
            answer = await read(event_store, **fields)

            assert answer.positions == positions
            assert answer.head_position == min(fields.get("until_position", 15), 15)


@pytest.mark.parametrize("until", [16, MAX_NUMBER])
async def test_until_a_position_after_the_head_is_now(event_store, corpus, until):
    answer = await read(event_store, until_position=until)

    assert (len(answer.events), answer.head_position) == (15, 15)


@pytest.mark.parametrize("after", [16, MAX_NUMBER])
async def test_a_position_after_the_head_is_refused_forwards(event_store, corpus, after):
    refusal = await refused(
        event_store.Read(ReadRequest(query=ALL, after_position=after)), "POSITION_AHEAD_OF_LOG"
    )

    state = refusal.failure.log_state
    assert (state.head_position, state.last_common_position) == (15, 0)
    assert state.log_id == (await head_of(event_store)).log_id


@pytest.mark.parametrize("direction", [FORWARDS, BACKWARDS], ids=["forwards", "backwards"])
async def test_a_limit_of_0_is_none_only_the_state(event_store, corpus, direction):
    answer = await read(event_store, stream="order-1", limit=0, direction=direction)

    assert (answer.events, len(answer.responses)) == ([], 1)
    assert (answer.head_position, answer.stream_version) == (15, 3)


async def test_a_limit_of_0_still_tells_the_state_under_until(event_store, corpus):
    answer = await read(event_store, stream="order-1", limit=0, until_position=2)

    assert (answer.head_position, answer.stream_version) == (2, 2)


async def test_without_a_direction_a_read_goes_forwards(event_store, corpus):
    assert (await read(event_store, limit=2)).positions == [1, 2]


async def test_an_empty_log(event_store):
    log_id = (await head_of(event_store)).log_id
    for fields in ({}, {"direction": BACKWARDS}, {"stream": "a"}, {"until_position": 9}):
        answer = await read(event_store, **fields)

        assert answer == Answer([], 0, 0, log_id, answer.responses)


# --- time


@pytest.fixture
async def times(event_store, corpus) -> list[int]:
    """When the events of the corpus were recorded, in nanoseconds; no two are equal."""
    recorded = [nanoseconds(event.recorded_at) for event in (await read(event_store)).events]
    assert sorted(set(recorded)) == recorded
    return recorded


@pytest.mark.parametrize("offset", [-1, 0, 1], ids=["just before", "at", "just after"])
async def test_after_a_time(event_store, times, offset):
    bound = times[6] + offset

    forwards = await read(event_store, after_time=timestamp(bound))
    backwards = await read(event_store, after_time=timestamp(bound), direction=BACKWARDS)

    assert forwards.positions == [n for n, t in enumerate(times, 1) if t > bound]
    assert backwards.positions == [n for n, t in reversed([*enumerate(times, 1)]) if t < bound]
    assert forwards.head_position == backwards.head_position == 15


@pytest.mark.parametrize("offset", [-1, 0, 1], ids=["just before", "at", "just after"])
async def test_until_a_time_the_log_is_as_it_stood_then(event_store, times, offset):
    bound = times[6] + offset

    forwards = await read(event_store, until_time=timestamp(bound))
    backwards = await read(event_store, until_time=timestamp(bound), direction=BACKWARDS)

    expected = [n for n, t in enumerate(times, 1) if t <= bound]
    assert (forwards.positions, backwards.positions) == (expected, expected[::-1])
    assert forwards.head_position == backwards.head_position == len(expected)


async def test_times_before_and_after_everything(event_store, times):
    early, late = timestamp(times[0] - 1), timestamp(times[-1] + 10**9 * 10**6)

    assert len((await read(event_store, after_time=early)).events) == 15
    assert (await read(event_store, after_time=early, direction=BACKWARDS)).events == []
    assert (await read(event_store, after_time=late)).events == []
    assert len((await read(event_store, after_time=late, direction=BACKWARDS)).events) == 15
    assert (await read(event_store, until_time=early)).head_position == 0
    assert (await read(event_store, until_time=late)).head_position == 15


async def test_the_version_of_a_stream_at_a_time(event_store, times):
    answer = await read(event_store, stream="order-1", until_time=timestamp(times[1]))

    assert (answer.versions, answer.stream_version, answer.head_position) == ([1, 2], 2, 2)


async def test_a_stream_between_times(event_store, times):
    answer = await read(
        event_store,
        stream="order-1",
        after_time=timestamp(times[0]),
        until_time=timestamp(times[6]),
    )

    assert (answer.positions, answer.head_position) == ([2], 7)


async def test_a_query_between_a_time_and_a_position(event_store, times):
    answer = await read(
        event_store,
        query=matching(types=["Placed"]),
        after_time=timestamp(times[0]),
        until_position=9,
    )

    assert (answer.positions, answer.head_position) == ([3, 6, 7, 9], 9)


# --- responses


async def test_a_response_has_at_most_about_1_mib(event_store):
    await append(
        event_store,
        *(append_to("a", *(make_event(data=b"x" * 300_000) for _ in range(10))) for _ in range(2)),
    )

    answer = await read(event_store)

    assert len(answer.events) == 20
    assert max(response.ByteSize() for response in answer.responses) <= 1024 * 1024 + 64 * 1024


async def test_one_larger_event_travels_alone(event_store):
    large = make_event(data=MEGABYTE, metadata={"k": "v" * (64 * 1024 - 1)})
    await append(event_store, append_to("a", make_event(), large, make_event()))

    answer = await read(event_store)

    assert answer.positions == [1, 2, 3]
    [with_large] = [r for r in answer.responses if any(e.id == large.id for e in r.events)]
    assert len(with_large.events) == 1


async def test_small_events_travel_together(event_store):
    await append(event_store, append_to("a", *(make_event() for _ in range(2000))))

    answer = await read(event_store)

    assert len(answer.events) == 2000
    assert len(answer.responses) < 50


async def test_a_read_yields_nothing_above_the_head_that_it_noted(event_store):
    await append(event_store, *(append_to("a", make_event(data=MEGABYTE)) for _ in range(12)))
    call = event_store.Read(ReadRequest(query=ALL))
    first = await next_response(call)

    await append(event_store, append_to("a"), append_to("a"))

    answer = whole([first, *await rest_of(call)])
    assert (answer.positions, answer.head_position) == (list(range(1, 13)), 12)


async def test_a_read_sees_what_was_acknowledged_before_it_began(event_store):
    async def writer_and_reader(stream: str) -> None:
        for version in range(1, 21):
            await append(event_store, append_to(stream))
            assert (await read(event_store, stream=stream)).stream_version == version

    await asyncio.gather(*(writer_and_reader(f"s-{n}") for n in range(4)))


# --- which log


async def test_expected_log_id(event_store, corpus):
    log_id = (await head_of(event_store)).log_id

    for known in (log_id, log_id.upper()):
        assert (await read(event_store, expected_log_id=known, limit=1)).log_id == log_id
    refusal = await refused(
        event_store.Read(ReadRequest(query=ALL, expected_log_id=new_id())), "LOG_MISMATCH"
    )
    assert refusal.failure.log_state.log_id == log_id
    assert refusal.failure.log_state.head_position == 15


async def test_any_other_log_is_not_found(event_store):
    await refused(event_store.Read(ReadRequest(query=ALL, log="other")), "NOT_FOUND")
