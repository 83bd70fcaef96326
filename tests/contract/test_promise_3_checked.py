"""Promise 3: expectations and append conditions are decided inside the write, so of two
conflicting appends exactly one wins."""

import asyncio

import grpc
import pytest

from calls import (
    append,
    append_all,
    append_to,
    fail_if,
    make_event,
    matching,
    read,
    to_stream,
    unpack,
)
from treering.v1.event_store_service_pb2 import AppendRequest


async def contend(event_store, requests: list[AppendRequest]) -> tuple[list, list]:
    """Sends all at once: the answers of those that won, and why the others lost."""
    answers = await asyncio.gather(*map(event_store.Append, requests), return_exceptions=True)
    won = [answer for answer in answers if not isinstance(answer, BaseException)]
    lost = [unpack(answer) for answer in answers if isinstance(answer, grpc.RpcError)]
    assert len(won) + len(lost) == len(requests)
    return won, lost


@pytest.mark.parametrize("expectation", [{"expected_version": 0}, {"expected_exists": False}])
async def test_of_conflicting_expectations_exactly_one_wins(event_store, expectation):
    won, lost = await contend(event_store, [append_to("a", **expectation) for _ in range(50)])

    assert len(won) == 1
    assert {refusal.reason for refusal in lost} == {"VERSION_CONFLICT"}
    assert {refusal.failure.version_conflict.actual_version for refusal in lost} == {1}
    assert (await read(event_store, stream="a")).stream_version == 1


async def test_of_conflicting_conditions_exactly_one_wins(event_store):
    """A name may be taken once, whatever the stream."""
    guard = fail_if(matching(types=["Registered"], tags=["name:ada"]))

    won, lost = await contend(
        event_store,
        [
            append_all(
                to_stream(f"user-{n}", make_event("Registered", "name:ada")), conditions=[guard]
            )
            for n in range(50)
        ],
    )

    assert len(won) == 1
    assert {refusal.reason for refusal in lost} == {"CONDITION_FAILED"}
    position = won[0].first_position
    assert {refusal.failure.condition_failed.position for refusal in lost} == {position}


async def test_conditions_that_do_not_conflict_all_win(event_store):
    requests = [
        append_all(
            to_stream(f"user-{n}", make_event("Registered", f"name:{n}")),
            conditions=[fail_if(matching(types=["Registered"], tags=[f"name:{n}"]))],
        )
        for n in range(50)
    ]

    won, lost = await contend(event_store, requests)

    assert (len(won), lost) == (50, [])


async def test_no_write_skew_between_conditions_that_read_what_the_other_writes(event_store):
    """Each of two appends is made void by the other's event: never do both win."""
    for n in range(30):
        one, other = (f"one:{n}", f"other:{n}")
        won, lost = await contend(
            event_store,
            [
                AppendRequest(
                    events=[make_event("T", one)], conditions=[fail_if(matching(tags=[other]))]
                ),
                AppendRequest(
                    events=[make_event("T", other)], conditions=[fail_if(matching(tags=[one]))]
                ),
            ],
        )
        assert (len(won), len(lost)) == (1, 1)


async def test_no_write_skew_between_expectations_that_check_what_the_other_writes(event_store):
    for n in range(30):
        a, b = f"a-{n}", f"b-{n}"
        won, lost = await contend(
            event_store,
            [
                append_all(to_stream(a, make_event()), to_stream(b, expected_version=0)),
                append_all(to_stream(b, make_event()), to_stream(a, expected_version=0)),
            ],
        )
        assert (len(won), len(lost)) == (1, 1)


async def test_a_counter_that_many_increment_loses_no_increment(event_store):
    """Load, decide, append under expected_version; again after each conflict."""

    async def increment() -> None:
        while True:
            version = (await read(event_store, stream="counter", limit=0)).stream_version
            try:
                await append(event_store, append_to("counter", expected_version=version))
            except grpc.RpcError as error:
                assert unpack(error).reason == "VERSION_CONFLICT"
            else:
                return

    await asyncio.gather(*(increment() for _ in range(40)))

    assert (await read(event_store, stream="counter")).versions == list(range(1, 41))


async def test_seats_are_never_sold_twice(event_store):
    """The dynamic consistency boundary as it is used: read a query, append after its head."""
    seats = 10
    sold = matching(types=["Sold"], tags=["show:1"])

    async def buy(customer: int) -> bool:
        while True:
            answer = await read(event_store, query=sold)
            if len(answer.events) >= seats:
                return False
            event = make_event("Sold", "show:1", f"customer:{customer}")
            condition = fail_if(sold, answer.head_position)
            try:
                await append(event_store, AppendRequest(events=[event], conditions=[condition]))
            except grpc.RpcError as error:
                assert unpack(error).reason == "CONDITION_FAILED"
            else:
                return True

    bought = await asyncio.gather(*(buy(n) for n in range(30)))

    assert sum(bought) == seats
    assert len((await read(event_store, query=sold)).events) == seats


async def test_a_winner_is_seen_by_the_condition_of_the_next_in_the_same_batch(event_store):
    """Appended at once on one call, where each one's condition forbids the one before."""
    requests = [
        append_all(
            to_stream(f"s-{n}", make_event("T", f"step:{n}")),
            conditions=[fail_if(matching(tags=[f"step:{n - 1}"]))],
        )
        for n in range(20)
    ]

    won, lost = await contend(event_store, requests)

    recorded = {event.stream for event in (await read(event_store)).events}
    assert len(won) == len(recorded)
    order = [e.stream for e in (await read(event_store)).events]
    for refusal in lost:
        assert refusal.reason == "CONDITION_FAILED"
    for n in range(1, 20):
        if {f"s-{n}", f"s-{n - 1}"} <= recorded:
            assert order.index(f"s-{n}") < order.index(f"s-{n - 1}"), "the guarded one was first"
