"""Errors: `google.rpc.Status` in the trailers, with an `ErrorInfo` and a `Failure`.

Every refusal in these tests goes through `calls.unpack`, which checks shape, codes and sizes;
here are the refusals that try to be larger than allowed, and the facts in each.
"""

import grpc
import pytest

from calls import (
    ALL,
    CODES,
    DETAILS,
    append,
    append_all,
    append_to,
    fail_if,
    head_of,
    make_event,
    new_id,
    refused,
    to_stream,
)
from treering.v1.event_store_service_pb2 import ReadRequest, SubscribeRequest
from treering.v1.failure_pb2 import Failure, FailureReason
from treering.v1.stream_service_pb2 import GetStreamRequest, ListStreamsRequest

WIDE = "€" * 85
"""A name of 255 bytes that takes three times as many when percent-encoded."""


def test_every_reason_has_a_code():
    names = {name.removeprefix("FAILURE_REASON_") for name, _ in FailureReason.items()}

    assert names - {"UNSPECIFIED"} == set(CODES)
    assert set(DETAILS.values()) == {field.name for field in Failure.DESCRIPTOR.oneofs[0].fields}


async def test_the_facts_of_a_version_conflict(event_store):
    await append(event_store, append_to("order-1"), append_to("order-1"))

    refusal = await refused(
        event_store.Append(append_to("order-1", expected_version=7)), "VERSION_CONFLICT"
    )

    assert refusal.code == grpc.StatusCode.ABORTED
    assert {"order-1", "7", "2"} <= set(refusal.facts.values())
    assert "order-1" in refusal.message
    assert not refusal.failure.HasField("retry_after")


async def test_the_facts_of_a_failed_condition(event_store):
    await append(event_store, append_to("a"), append_to("a"))
    request = append_all(
        to_stream("b", make_event()), conditions=[fail_if(ALL, 2), fail_if(ALL, 1)]
    )

    refusal = await refused(event_store.Append(request), "CONDITION_FAILED")

    assert {"1", "2"} <= set(refusal.facts.values())


async def test_the_facts_of_a_taken_id(event_store):
    event_id = new_id()
    await append(event_store, append_to("a"), append_to("a", make_event(id=event_id)))

    refusal = await refused(
        event_store.Append(append_to("b", make_event(id=event_id.upper()))), "EVENT_ID_CONFLICT"
    )

    conflict = refusal.failure.event_id_conflict
    assert (conflict.id, conflict.position) == (event_id, 2)
    assert {event_id, "2"} <= set(refusal.facts.values())


async def test_the_facts_of_a_position_ahead_of_the_log(event_store):
    await append(event_store, append_to("a"))
    log_id = (await head_of(event_store)).log_id

    refusal = await refused(
        event_store.Read(ReadRequest(query=ALL, after_position=12)), "POSITION_AHEAD_OF_LOG"
    )

    assert {log_id, "1"} <= set(refusal.facts.values())


async def test_what_is_not_found_is_named(stream_service):
    refusal = await refused(
        stream_service.GetStream(GetStreamRequest(stream="order-9")), "NOT_FOUND"
    )

    assert "order-9" in refusal.message
    assert "order-9" in refusal.facts.values()


async def test_each_violation_names_its_field_and_says_what_is_wrong(event_store):
    request = append_all(
        to_stream("a", make_event()),
        to_stream("b", make_event(), make_event("", "tag", "")),
        events=[make_event(id="x")],
    )

    refusal = await refused(event_store.Append(request), "INVALID_REQUEST")

    assert refusal.fields == [
        "appends[1].events[1].type",
        "appends[1].events[1].tags[1]",
        "events[0].id",
    ]
    assert all(v.limit == v.actual == 0 for v in refusal.violations)


async def test_the_first_16_violations_are_told(event_store):
    request = append_to("a", *(make_event("") for _ in range(40)))

    refusal = await refused(event_store.Append(request), "INVALID_REQUEST")

    assert refusal.fields == [f"appends[0].events[{n}].type" for n in range(16)]


async def test_limits_and_other_violations_together_are_invalid(event_store):
    request = append_to("a", make_event("x" * 256), make_event(""))

    refusal = await refused(event_store.Append(request), "INVALID_REQUEST")

    limits = [(v.field, v.limit, v.actual) for v in refusal.violations]
    assert limits == [("appends[0].events[0].type", 255, 256), ("appends[0].events[1].type", 0, 0)]


async def test_only_violations_that_are_reported_decide_the_reason(event_store):
    """Sixteen limits are reported; what else is wrong after them is not."""
    request = append_to("a", *(make_event("x" * 256) for _ in range(16)), make_event(""))

    await refused(event_store.Append(request), "LIMIT_EXCEEDED")


# --- sizes, which `unpack` checks

LONG_PATH = [make_event("T", *["\x01" * 255] * 60) for _ in range(16)]

LARGE_REFUSALS = {
    "a conflict on a wide name": (append_to(WIDE, expected_version=1), "VERSION_CONFLICT"),
    "16 violations with long paths": (
        append_all(*(to_stream("a", make_event()) for _ in range(900)), to_stream("a", *LONG_PATH)),
        "INVALID_REQUEST",
    ),
    "16 limits": (
        append_to("a", *(make_event(WIDE + "€", *[f"{n}" for n in range(70)]) for n in range(16))),
        "LIMIT_EXCEEDED",
    ),
    "16 control characters in wide names": (
        append_all(*(to_stream("\x85" + WIDE[:-2], make_event()) for _ in range(16))),
        "INVALID_REQUEST",
    ),
    "bad ids as long as a request": (
        append_to("a", *(make_event(id="€" * 50_000) for _ in range(16))),
        "INVALID_REQUEST",
    ),
    "a wide log": (append_all(to_stream("a", make_event()), log=WIDE), "NOT_FOUND"),
    "bad metadata keys": (
        append_to("a", *(make_event(metadata={"$" + "€" * 9000: ""}) for _ in range(16))),
        "INVALID_REQUEST",
    ),
    "a bad log id as long as a request": (
        append_all(to_stream("a", make_event()), expected_log_id="€" * 500_000),
        "INVALID_REQUEST",
    ),
}


@pytest.mark.parametrize("name", LARGE_REFUSALS)
async def test_a_refusal_is_never_too_large(event_store, name):
    request, reason = LARGE_REFUSALS[name]

    await refused(event_store.Append(request), reason)


async def test_a_taken_id_and_a_wide_stream_are_never_too_large(event_store):
    event = make_event()
    await append(event_store, append_to(WIDE, event))

    await refused(event_store.Append(append_to("a", event)), "EVENT_ID_CONFLICT")


@pytest.mark.parametrize("log", ["other", "x" * 256, "€" * 100_000, "\x00", " "])
async def test_any_log_but_the_empty_one_is_refused_by_every_method(
    event_store, stream_service, log
):
    calls = [
        event_store.Append(append_all(to_stream("a", make_event()), log=log)),
        event_store.Read(ReadRequest(query=ALL, log=log)),
        event_store.Subscribe(SubscribeRequest(query=ALL, log=log)),
        stream_service.GetStream(GetStreamRequest(stream="a", log=log)),
        stream_service.ListStreams(ListStreamsRequest(log=log)),
    ]
    for call in calls:
        await refused(call, "NOT_FOUND")


async def test_a_wide_stream_that_is_not_found(stream_service):
    await refused(stream_service.GetStream(GetStreamRequest(stream=WIDE)), "NOT_FOUND")


async def test_a_refusal_of_a_stream_of_responses_is_in_its_trailers_too(event_store):
    request = ReadRequest(query=ALL, limit=2**64 - 1, after_position=9)

    refusal = await refused(event_store.Read(request), "POSITION_AHEAD_OF_LOG")

    assert "grpc-status-details-bin" in refusal.trailers


@pytest.mark.parametrize("method", ["CreateConsumerGroup", "ListConsumerGroups", "Consume"])
async def test_consumer_groups_are_not_served_yet(channel, method):
    call = channel.unary_unary(f"/treering.v1.ConsumerGroupService/{method}")

    with pytest.raises(grpc.RpcError) as error:
        await call(b"")

    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
