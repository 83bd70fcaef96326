"""Append: what is recorded, what is answered, and which preconditions can be given."""

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from calls import (
    ALL,
    append,
    append_all,
    append_to,
    fail_if,
    head_of,
    make_event,
    matching,
    nanoseconds,
    new_id,
    read,
    refused,
    timestamp,
    to_stream,
)
from servers import InProcessServer
from treering.v1.event_pb2 import Event
from treering.v1.event_store_service_pb2 import AppendRequest
from treering.v1.event_store_service_pb2_grpc import EventStoreServiceStub
from treering.v1.query_pb2 import QueryItem

# --- where the events are


async def test_the_first_event_of_a_log_is_at_position_1(event_store):
    response = await append(event_store, append_to("order-1"))

    assert (response.first_position, response.last_position) == (1, 1)


async def test_positions_are_dense(event_store):
    await append(event_store, append_to("order-1", make_event(), make_event()))

    response = await append(event_store, append_to("order-2", make_event(), make_event()))

    assert (response.first_position, response.last_position) == (3, 4)


async def test_the_nth_event_counting_appends_in_order_and_then_events(event_store):
    events = [make_event() for _ in range(6)]
    request = append_all(
        to_stream("b", events[0], events[1]),
        to_stream("a", events[2]),
        to_stream("b", events[3]),
        events=events[4:],
    )

    response = await append(event_store, append_to("before"), request)

    recorded = (await read(event_store, after_position=1)).events
    assert (response.first_position, response.last_position) == (2, 7)
    assert [(e.id, e.position, e.stream, e.version) for e in recorded] == [
        (events[0].id, 2, "b", 1),
        (events[1].id, 3, "b", 2),
        (events[2].id, 4, "a", 1),
        (events[3].id, 5, "b", 3),
        (events[4].id, 6, "", 0),
        (events[5].id, 7, "", 0),
    ]


async def test_versions_of_each_stream_written_to_once_in_order_of_first_appearance(event_store):
    await append(event_store, append_to("a", make_event(), make_event()))
    request = append_all(
        to_stream("c", make_event()),
        to_stream("only-checked", expected_exists=False),
        to_stream("a", make_event()),
        to_stream("c", make_event()),
        events=[make_event()],
    )

    response = await append(event_store, request)

    assert [(v.stream, v.version) for v in response.versions] == [("c", 2), ("a", 3)]


async def test_events_of_no_stream_have_no_versions(event_store):
    response = await append(event_store, AppendRequest(events=[make_event(), make_event()]))

    assert list(response.versions) == []
    assert response.last_position == 2


async def test_recorded_at_of_the_answer_is_that_of_the_events(event_store):
    response = await append(event_store, append_to("a", make_event(), make_event()))

    events = (await read(event_store)).events
    assert {nanoseconds(event.recorded_at) for event in events} == {
        nanoseconds(response.recorded_at)
    }


async def test_recorded_at_is_in_microseconds(event_store):
    response = await append(event_store, append_to("a"))

    assert response.recorded_at.nanos % 1000 == 0
    assert response.recorded_at.seconds > 1_700_000_000


async def test_the_answer_has_the_log_id_and_is_no_duplicate(event_store):
    response = await append(event_store, append_to("a"))

    assert response.log_id == (await head_of(event_store)).log_id
    assert str(uuid.UUID(response.log_id)) == response.log_id
    assert not response.duplicate


# --- what is recorded


async def test_a_recorded_event_is_what_was_appended(event_store):
    event = make_event(
        "OrderPlaced",
        "customer:7",
        "région:eu",
        data=bytes(range(256)),
        content_type="application/octet-stream",
        metadata={"correlation_id": "x-1", "": "empty key", "leer": "", "naïve": "ключ"},
        time=timestamp(1_234_567_890_123_456_789),
    )

    await append(event_store, append_to("order-1", event))

    [recorded] = (await read(event_store)).events
    assert Event.FromString(event.SerializeToString()) == Event(
        id=recorded.id,
        type=recorded.type,
        data=recorded.data,
        content_type=recorded.content_type,
        tags=recorded.tags,
        metadata=recorded.metadata,
        time=recorded.time,
    )


async def test_an_unset_time_stays_unset_and_empty_data_empty(event_store):
    await append(event_store, append_to("a", make_event()))

    [recorded] = (await read(event_store)).events
    assert not recorded.HasField("time")
    assert recorded.data == b""


@pytest.mark.parametrize("seconds", [-62_135_596_800, -1, 0, 253_402_300_799])
async def test_time_may_be_anywhere_in_the_range_of_timestamp(event_store, seconds):
    time = timestamp(seconds * 10**9 + 999_999_999)

    await append(event_store, append_to("a", make_event(time=time)))

    [recorded] = (await read(event_store)).events
    assert recorded.time == time


async def test_a_time_of_zero_is_a_time(event_store):
    await append(event_store, append_to("a", make_event(time=Timestamp())))

    [recorded] = (await read(event_store)).events
    assert recorded.HasField("time")


async def test_an_empty_content_type_is_recorded_as_json(event_store):
    await append(event_store, append_to("a", make_event(content_type="")))

    [recorded] = (await read(event_store)).events
    assert recorded.content_type == "application/json"


async def test_tags_are_kept_as_given(event_store):
    tags = ["z", "a", "Z", "z", "é", "e\u0301"]

    await append(event_store, append_to("a", make_event("T", *tags)))

    [recorded] = (await read(event_store)).events
    assert list(recorded.tags) == tags


async def test_an_id_is_taken_in_any_case_and_answered_in_lower_case(event_store):
    event_id = new_id()

    await append(event_store, append_to("a", make_event(id=event_id.upper())))

    assert (await read(event_store)).ids == [event_id]


@pytest.mark.parametrize("event_id", ["12345678-1234-0000-0000-123456789abc"])
async def test_an_id_of_any_version_and_variant_is_taken(event_store, event_id):
    await append(event_store, append_to("a", make_event(id=event_id)))

    assert (await read(event_store)).ids == [event_id]


async def test_the_server_makes_version_7_ids_and_a_repeat_is_a_second_append(event_store):
    request = append_to("a", make_event(id=""), make_event(id=""))

    await append(event_store, request)
    second = await append(event_store, request)

    ids = (await read(event_store)).ids
    assert (second.first_position, second.duplicate) == (3, False)
    assert len(set(ids)) == 4
    assert {uuid.UUID(event_id).version for event_id in ids} == {7}
    assert all(str(uuid.UUID(event_id)) == event_id for event_id in ids)


async def test_streams_differ_byte_by_byte(event_store):
    names = ["order-1", "Order-1", "ordér-1", "orde\u0301r-1", "order-1 "]

    response = await append(event_store, append_all(*(to_stream(n, make_event()) for n in names)))

    assert [(v.stream, v.version) for v in response.versions] == [(name, 1) for name in names]


# --- expectations


@pytest.mark.parametrize(
    "expectation",
    [{}, {"expected_version": 0}, {"expected_exists": False}],
    ids=["any", "version 0", "not there"],
)
async def test_an_expectation_that_a_new_stream_meets(event_store, expectation):
    response = await append(event_store, append_to("a", **expectation))

    assert response.versions[0].version == 1


@pytest.mark.parametrize(
    "expectation",
    [{}, {"expected_version": 2}, {"expected_exists": True}],
    ids=["any", "version 2", "there"],
)
async def test_an_expectation_that_a_stream_at_version_2_meets(event_store, expectation):
    await append(event_store, append_to("a", make_event(), make_event()))

    response = await append(event_store, append_to("a", **expectation))

    assert response.versions[0].version == 3


@pytest.mark.parametrize(
    ("expectation", "actual_version"),
    [
        ({"expected_version": 1}, 0),
        ({"expected_version": 2**63 - 1}, 0),
        ({"expected_exists": True}, 0),
        ({"expected_version": 0}, 2),
        ({"expected_version": 1}, 2),
        ({"expected_version": 3}, 2),
        ({"expected_exists": False}, 2),
    ],
)
async def test_an_expectation_that_is_not_met(event_store, expectation, actual_version):
    if actual_version:
        await append(event_store, append_to("a", *(make_event() for _ in range(actual_version))))

    refusal = await refused(event_store.Append(append_to("a", **expectation)), "VERSION_CONFLICT")

    conflict = refusal.failure.version_conflict
    [name] = expectation
    assert conflict.WhichOneof("expectation") == name
    assert getattr(conflict, name) == expectation[name]
    assert (conflict.stream, conflict.actual_version) == ("a", actual_version)
    assert (await head_of(event_store)).head_position == actual_version


async def test_the_first_expectation_in_the_order_of_the_request_is_named(event_store):
    request = append_all(
        to_stream("d", make_event()),
        to_stream("c", make_event(), expected_version=0),
        to_stream("b", expected_version=7),
        to_stream("a", make_event(), expected_exists=True),
    )

    refusal = await refused(event_store.Append(request), "VERSION_CONFLICT")

    assert refusal.failure.version_conflict.stream == "b"


async def test_no_events_only_the_expectation_is_checked(event_store):
    request = append_all(
        to_stream("checked", expected_version=1), to_stream("written", make_event())
    )
    await append(event_store, append_to("checked"))

    response = await append(event_store, request)

    assert [(v.stream, v.version) for v in response.versions] == [("written", 1)]
    assert (await read(event_store, stream="checked")).stream_version == 1


async def test_a_stream_that_was_only_checked_does_not_exist(event_store, stream_service):
    request = append_all(to_stream("checked", expected_version=0), events=[make_event()])

    await append(event_store, request)

    assert (await read(event_store, stream="checked")).stream_version == 0


async def test_an_expectation_looks_at_the_state_before_the_request(event_store):
    request = append_all(
        to_stream("a", make_event(), expected_version=0), to_stream("a", make_event())
    )

    response = await append(event_store, request)

    assert [(v.stream, v.version) for v in response.versions] == [("a", 2)]


async def test_only_the_first_part_of_a_stream_may_have_an_expectation(event_store):
    request = append_all(
        to_stream("a", make_event(), expected_version=0),
        to_stream("b", make_event()),
        to_stream("a", make_event(), expected_version=1),
    )

    refusal = await refused(event_store.Append(request), "INVALID_REQUEST")

    assert refusal.fields[0].startswith("appends[2]")


@pytest.mark.parametrize(
    "request_",
    [
        AppendRequest(),
        append_all(to_stream("a", expected_version=0)),
        AppendRequest(conditions=[fail_if(ALL)]),
    ],
    ids=["nothing", "only an expectation", "only a condition"],
)
async def test_an_append_has_at_least_one_event(event_store, request_):
    await refused(event_store.Append(request_), "INVALID_REQUEST")


async def test_neither_events_nor_an_expectation_is_invalid(event_store):
    request = append_all(to_stream("a", make_event()), to_stream("b"))

    refusal = await refused(event_store.Append(request), "INVALID_REQUEST")

    assert refusal.fields[0].startswith("appends[1]")


# --- conditions


async def seed(event_store) -> None:
    """Positions 1 to 4."""
    await append(
        event_store,
        append_to("seat-1", make_event("Reserved", "seat:1", "show:5")),
        append_to("seat-2", make_event("Reserved", "seat:2", "show:5")),
        AppendRequest(events=[make_event("Moved", "show:5")]),
        append_to("seat-1", make_event("Released", "seat:1", "show:5")),
    )


@pytest.fixture(params=["recent", "of before a restart"])
async def seats(database_url, request) -> AsyncIterator[Any]:
    """The stub of a server with the events of `seed`, which it recorded itself or found."""
    async with AsyncExitStack() as stack:

        async def start() -> Any:
            server = await stack.enter_async_context(InProcessServer(database_url))
            channel = grpc.aio.insecure_channel(server.address)
            return EventStoreServiceStub(await stack.enter_async_context(channel))

        event_store = await start()
        await seed(event_store)
        if request.param == "of before a restart":
            await stack.aclose()
            event_store = await start()
        yield event_store


async def test_a_condition_fails_with_the_first_event_that_matches(seats, subtests):
    for query, after, position in [
        (ALL, 0, 1),
        (ALL, 3, 4),
        (matching(tags=["show:5"]), 1, 2),
        (matching(tags=["show:5", "seat:1"]), 1, 4),
        (matching(types=["Moved"]), 0, 3),
        (matching(types=["Released"], streams=["seat-1"]), 0, 4),
        (matching(streams=["seat-2"]), 0, 2),
        (matching(stream_prefixes=["seat-"]), 2, 4),
        (matching(categories=["seat"]), 2, 4),
        (matching(QueryItem(types=["Released"]), QueryItem(types=["Moved"])), 0, 3),
        (matching(QueryItem(types=["Moved"]), QueryItem(types=["Released"])), 0, 3),
        (matching(QueryItem(types=["none"]), QueryItem(types=["Released"])), 0, 4),
    ]:
        with subtests.test(f"{query} after {after}"):
            request = append_all(to_stream("new", make_event()), conditions=[fail_if(query, after)])

            refusal = await refused(seats.Append(request), "CONDITION_FAILED")

            assert refusal.failure.condition_failed.position == position
            assert refusal.failure.condition_failed.condition_index == 0
    assert (await head_of(seats)).head_position == 4


async def test_a_condition_that_nothing_matches_holds(seats, subtests):
    for query, after in [
        (matching(tags=["show:5"]), 4),
        (matching(tags=["seat:2"]), 2),
        (matching(tags=["seat:1", "seat:2"]), 0),
        (matching(types=["Released"], streams=["seat-2"]), 0),
        (matching(types=["Moved"], categories=["seat"]), 0),
        (matching(tags=["Show:5"]), 0),
        (matching(stream_prefixes=["Seat", "eat"]), 0),
        (matching(QueryItem(types=["none"]), QueryItem(tags=["seat:2"])), 2),
    ]:
        with subtests.test(f"{query} after {after}"):
            head = (await head_of(seats)).head_position
            request = append_all(
                to_stream("new", make_event()),
                conditions=[fail_if(query, after), fail_if(ALL, head)],
            )

            assert (await append(seats, request)).first_position == head + 1


async def test_a_condition_sees_what_was_before_the_request(event_store):
    request = append_all(
        to_stream("a", make_event("T", "tag")),
        events=[make_event("T", "tag")],
        conditions=[fail_if(ALL), fail_if(matching(tags=["tag"]))],
    )

    response = await append(event_store, request)

    assert response.last_position == 2


async def test_all_conditions_must_hold_and_the_first_that_fails_is_named(event_store):
    await seed(event_store)
    conditions = [
        fail_if(matching(types=["Moved"]), 3),
        fail_if(matching(tags=["seat:1"]), 1),
        fail_if(ALL),
    ]
    request = append_all(to_stream("new", make_event()), conditions=conditions)

    refusal = await refused(event_store.Append(request), "CONDITION_FAILED")

    assert refusal.failure.condition_failed.condition_index == 1
    assert refusal.failure.condition_failed.position == 4


async def test_a_condition_after_the_head_is_refused(event_store):
    await seed(event_store)
    request = append_all(to_stream("new", make_event()), conditions=[fail_if(ALL, 5)])

    refusal = await refused(event_store.Append(request), "POSITION_AHEAD_OF_LOG")

    assert refusal.failure.log_state.head_position == 4
    assert refusal.failure.log_state.log_id == (await head_of(event_store)).log_id


async def test_a_condition_and_an_expectation_together(event_store):
    await seed(event_store)
    request = append_all(
        to_stream("seat-1", make_event(), expected_version=2),
        conditions=[fail_if(matching(tags=["show:5"]), 4)],
    )

    assert (await append(event_store, request)).first_position == 5
    await refused(event_store.Append(append_to("seat-1", expected_version=2)), "VERSION_CONFLICT")


# --- which log


async def test_an_append_under_the_log_id_of_now(event_store):
    log_id = (await head_of(event_store)).log_id

    for known in (log_id, log_id.upper()):
        request = append_all(to_stream("a", make_event()), expected_log_id=known)
        assert (await append(event_store, request)).log_id == log_id


async def test_an_append_under_an_id_that_the_log_never_had(event_store):
    await append(event_store, append_to("a"))
    request = append_all(to_stream("a", make_event()), expected_log_id=new_id())

    refusal = await refused(event_store.Append(request), "LOG_MISMATCH")

    assert refusal.failure.log_state.log_id == (await head_of(event_store)).log_id
    assert refusal.failure.log_state.head_position == 1


async def test_any_other_log_is_not_found(event_store):
    request = append_all(to_stream("a", make_event()), log="other")

    await refused(event_store.Append(request), "NOT_FOUND")
    assert (await head_of(event_store)).head_position == 0
