"""Which refusal comes first, where a request deserves several."""

import itertools

import pytest

from calls import (
    ALL,
    append,
    append_all,
    append_to,
    fail_if,
    make_event,
    matching,
    new_id,
    refused,
    to_stream,
)
from treering.v1.event_pb2 import Event
from treering.v1.event_store_service_pb2 import AppendRequest, ReadRequest, SubscribeRequest

KNOWN = make_event("T", "known", id=new_id())
"""The event at position 1, in stream "a"."""


@pytest.fixture(autouse=True)
async def seed(event_store) -> None:
    """KNOWN at position 1 in "a", another event at 2 in "b"."""
    await append(event_store, append_to("a", KNOWN), append_to("b", make_event("T", "later")))


def append_with(*faults: str) -> AppendRequest:
    """An append with these faults and no others."""
    request = append_to("new", make_event())
    if "repeat" in faults:
        request = append_to("a", KNOWN)
    if "EVENT_ID_CONFLICT" in faults:
        request = append_to("new", KNOWN)
    if "INVALID_REQUEST" in faults:
        request.events.append(Event(id=new_id(), type=""))
    if "LIMIT_EXCEEDED" in faults:
        request.events.append(Event(id=new_id(), type="x" * 256))
    if "NOT_FOUND" in faults:
        request.log = "other"
    if "LOG_MISMATCH" in faults:
        request.expected_log_id = new_id()
    if "VERSION_CONFLICT" in faults:
        request.appends.append(to_stream("c", expected_version=7))
    if "POSITION_AHEAD_OF_LOG" in faults:
        request.conditions.append(fail_if(ALL, 99))
    if "CONDITION_FAILED" in faults:
        request.conditions.append(fail_if(matching(tags=["later"])))
    return request


APPEND_ORDER = [
    "INVALID_REQUEST",
    "LIMIT_EXCEEDED",
    "NOT_FOUND",
    "repeat",
    "EVENT_ID_CONFLICT",
    "LOG_MISMATCH",
    "VERSION_CONFLICT",
    "POSITION_AHEAD_OF_LOG",
    "CONDITION_FAILED",
]


async def check_append(event_store, request: AppendRequest, first: str) -> None:
    """Makes an append that must meet this fate."""
    if first == "repeat":
        response = await append(event_store, request)
        assert (response.duplicate, response.first_position) == (True, 1)
    else:
        await refused(event_store.Append(request), first)


async def test_of_two_faults_of_an_append(event_store, subtests):
    for first, second in itertools.combinations(APPEND_ORDER, 2):
        if (first, second) == ("repeat", "EVENT_ID_CONFLICT"):
            continue  # no append is both
        with subtests.test(f"{first} before {second}"):
            await check_append(event_store, append_with(first, second), first)


async def test_of_all_faults_of_an_append(event_store, subtests):
    for number, first in enumerate(APPEND_ORDER):
        later = APPEND_ORDER[number + 1 :]
        if first == "repeat":
            later.remove("EVENT_ID_CONFLICT")
        with subtests.test(first):
            await check_append(event_store, append_with(first, *later), first)


async def test_an_expectation_comes_before_a_condition_whatever_its_stream(event_store):
    request = append_all(
        to_stream("a", make_event()),
        to_stream("b", make_event(), expected_version=9),
        conditions=[fail_if(ALL)],
    )

    await refused(event_store.Append(request), "VERSION_CONFLICT")


@pytest.mark.parametrize(
    ("conditions", "reason"),
    [
        ([fail_if(ALL), fail_if(ALL, 99)], "CONDITION_FAILED"),
        ([fail_if(ALL, 99), fail_if(ALL)], "POSITION_AHEAD_OF_LOG"),
        ([fail_if(ALL, 2), fail_if(ALL, 99), fail_if(ALL)], "POSITION_AHEAD_OF_LOG"),
        ([fail_if(ALL, 2), fail_if(ALL, 1), fail_if(ALL, 99)], "CONDITION_FAILED"),
        ([fail_if(matching(types=["none"]), 99), fail_if(ALL)], "POSITION_AHEAD_OF_LOG"),
    ],
)
async def test_conditions_in_order_of_each_the_position_then_the_match(
    event_store, conditions, reason
):
    await refused(
        event_store.Append(append_all(to_stream("new", make_event()), conditions=conditions)),
        reason,
    )


READ_FAULTS = {
    "INVALID_REQUEST": {"until_position": 2**63},
    "NOT_FOUND": {"log": "other"},
    "LOG_MISMATCH": {"expected_log_id": new_id()},
    "MIN_POSITION_NOT_REACHED": {"min_position": 99},
    "POSITION_AHEAD_OF_LOG": {"after_position": 98},
}


async def test_of_two_faults_of_a_read(event_store, subtests):
    for first, second in itertools.combinations(READ_FAULTS, 2):
        request = ReadRequest(query=ALL, **READ_FAULTS[first], **READ_FAULTS[second])
        with subtests.test(f"{first} before {second}"):
            await refused(event_store.Read(request, timeout=1), first)


async def test_over_a_limit_and_another_log_of_a_read(event_store):
    request = ReadRequest(stream="x" * 256, log="other", expected_log_id=new_id())

    await refused(event_store.Read(request), "LIMIT_EXCEEDED")


SUBSCRIBE_FAULTS = {
    "INVALID_REQUEST": {"heartbeat_interval": {"seconds": -1}},
    "NOT_FOUND": {"log": "other"},
    "LOG_MISMATCH": {"expected_log_id": new_id()},
    "POSITION_AHEAD_OF_LOG": {"after_position": 98},
    "LOG_DIVERGED": {"after_position": 1, "after_event_id": new_id()},
}


async def test_of_two_faults_of_a_subscription(event_store, subtests):
    for first, second in itertools.combinations(SUBSCRIBE_FAULTS, 2):
        fields = SUBSCRIBE_FAULTS[second] | SUBSCRIBE_FAULTS[first]
        with subtests.test(f"{first} before {second}"):
            await refused(event_store.Subscribe(SubscribeRequest(query=ALL, **fields)), first)
