"""AppendMany: many appends on one call, in order, and what ends the call."""

import asyncio

import grpc
import pytest

from calls import (
    ALL,
    WAIT_SECONDS,
    append,
    append_all,
    append_many,
    append_to,
    check_failure,
    fail_if,
    head_of,
    make_event,
    new_id,
    outcome,
    read,
    reason_of,
    refused,
    to_stream,
    with_unknown_field,
)
from treering.v1.event_store_service_pb2 import AppendItem, AppendManyRequest, AppendRequest


def message(*items: tuple[int, AppendRequest]) -> AppendManyRequest:
    """A message of these items."""
    return AppendManyRequest(items=[AppendItem(request_id=n, append=a) for n, a in items])


async def sent(*messages: AppendManyRequest):
    """These messages, then half-close."""
    for request in messages:
        yield request


async def results_until_end(call) -> list:
    """All results of a call that may end with an error."""
    results = []
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            async for response in call:
                results += response.results
    except grpc.RpcError:
        pass
    return results


# --- in the order sent


async def test_results_come_in_the_order_of_the_items(event_store):
    requests = [append_to(f"s-{n % 7}") for n in range(200)]

    results = await append_many(event_store, *requests)

    assert [result.appended.first_position for result in results] == list(range(1, 201))


async def test_many_items_in_one_message(event_store):
    request = message(*((n, append_to("a")) for n in range(500, 0, -1)))

    responses = await outcome(event_store.AppendMany(sent(request)))

    results = [result for response in responses for result in response.results]
    assert [result.request_id for result in results] == list(range(500, 0, -1))
    assert [result.appended.versions[0].version for result in results] == list(range(1, 501))


async def test_an_answer_is_that_of_append(event_store):
    request = append_all(to_stream("a", make_event()), to_stream("b", make_event()))

    [result] = await append_many(event_store, request)

    repeat = await append(event_store, request)
    assert repeat.duplicate
    repeat.duplicate = False
    assert result.appended == repeat


async def test_results_come_while_the_call_is_open(event_store):
    call = event_store.AppendMany()

    for n in (1, 2, 3):
        await call.write(message((n, append_to("a"))))
        async with asyncio.timeout(WAIT_SECONDS):
            response = await call.read()
        assert [(r.request_id, r.appended.first_position) for r in response.results] == [(n, n)]

    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() == grpc.StatusCode.OK


async def test_after_half_close_all_are_answered_then_the_call_ends_ok(event_store):
    call = event_store.AppendMany(sent(*(message((n, append_to("a"))) for n in range(100))))

    responses = await outcome(call)

    assert sum(len(response.results) for response in responses) == 100
    assert await call.code() == grpc.StatusCode.OK


async def test_a_call_without_items_ends_ok(event_store):
    call = event_store.AppendMany(sent())

    assert await outcome(call) == []
    assert await call.code() == grpc.StatusCode.OK


@pytest.mark.parametrize("request_id", [0, 1, 2**64 - 1])
async def test_any_request_id_is_echoed(event_store, request_id):
    responses = await outcome(event_store.AppendMany(sent(message((request_id, append_to("a"))))))

    assert [result.request_id for result in responses[0].results] == [request_id]


async def test_a_request_id_may_be_used_again_once_answered(event_store):
    call = event_store.AppendMany()

    for n in (1, 2):
        await call.write(message((7, append_to("a"))))
        async with asyncio.timeout(WAIT_SECONDS):
            response = await call.read()
        assert response.results[0].appended.last_position == n
    call.cancel()


async def test_chains_of_expected_version_sent_without_waiting_work(event_store):
    chain = [append_to("a", expected_version=n) for n in range(300)]

    results = await append_many(event_store, *chain)

    assert [result.appended.versions[0].version for result in results] == list(range(1, 301))


async def test_after_one_conflict_the_rest_of_the_chain_conflicts_too(event_store):
    chain = [append_to("a", expected_version=n) for n in (0, 1, 1, 2, 3, 4)]

    results = await append_many(event_store, *chain)

    assert [result.WhichOneof("outcome") for result in results] == [
        "appended",
        "appended",
        "failure",
        "appended",
        "appended",
        "appended",
    ]
    broken = [append_to("b", expected_version=n) for n in (0, 2, 3, 4)]
    outcomes = [r.WhichOneof("outcome") for r in await append_many(event_store, *broken)]
    assert outcomes == ["appended", "failure", "failure", "failure"]


async def test_the_same_append_twice_on_one_call_is_a_repeat(event_store):
    request = append_to("a", expected_version=0)

    first, second = await append_many(event_store, request, request)

    assert not first.appended.duplicate
    assert second.appended.duplicate
    assert second.appended.first_position == first.appended.first_position == 1


async def test_a_condition_sees_the_appends_before_it_on_the_call(event_store):
    guarded = append_all(to_stream("b", make_event()), conditions=[fail_if(ALL)])

    _, result = await append_many(event_store, append_to("a"), guarded)

    assert reason_of(result.failure) == "CONDITION_FAILED"
    assert result.failure.condition_failed.position == 1


async def test_results_are_answered_under_back_pressure_once_they_are_read(event_store):
    """The caller sends about 20 MB and reads nothing meanwhile; then it reads all."""
    payload = b"x" * 20_000
    messages = [
        message((n, append_to(f"s-{n % 10}", make_event(data=payload)))) for n in range(1000)
    ]
    call = event_store.AppendMany()

    async def write_all() -> None:
        for request in messages:
            await call.write(request)
        await call.done_writing()

    writing = asyncio.create_task(write_all())
    await asyncio.wait({writing}, timeout=1)
    results = []
    async with asyncio.timeout(60):
        async for response in call:
            results += response.results
        await writing

    assert [result.request_id for result in results] == list(range(1000))
    assert [result.appended.first_position for result in results] == list(range(1, 1001))


# --- what is a result


def refused_appends() -> dict[str, AppendRequest]:
    """An append for each final refusal, against a log with "a" at version 1, event `taken`."""
    taken = TAKEN
    return {
        "VERSION_CONFLICT": append_to("a", expected_version=0),
        "CONDITION_FAILED": append_all(to_stream("b", make_event()), conditions=[fail_if(ALL)]),
        "EVENT_ID_CONFLICT": append_to("b", make_event("Other", id=taken)),
        "INVALID_REQUEST": append_to("b", make_event("")),
        "LIMIT_EXCEEDED": append_to("b", make_event("x" * 256)),
        "POSITION_AHEAD_OF_LOG": append_all(
            to_stream("b", make_event()), conditions=[fail_if(ALL, 10**6)]
        ),
        "LOG_MISMATCH": append_all(to_stream("b", make_event()), expected_log_id=new_id()),
        "NOT_FOUND": append_all(to_stream("b", make_event()), log="other"),
    }


TAKEN = new_id()


@pytest.mark.parametrize("reason", list(refused_appends()))
async def test_a_final_refusal_is_the_result_of_its_item_alone(event_store, reason):
    await append(event_store, append_to("a", make_event(id=TAKEN)))
    request = refused_appends()[reason]

    before, result, after = await append_many(event_store, append_to("c"), request, append_to("c"))

    assert reason_of(result.failure) == reason
    assert [before.appended.first_position, after.appended.first_position] == [2, 3]


@pytest.mark.parametrize("reason", list(refused_appends()))
async def test_the_failure_of_an_item_is_the_one_append_has_in_its_trailers(event_store, reason):
    await append(event_store, append_to("a", make_event(id=TAKEN)))
    request = refused_appends()[reason]

    [result] = await append_many(event_store, request)

    assert result.failure == (await refused(event_store.Append(request), reason)).failure


@pytest.mark.parametrize(
    "request_",
    [
        append_to("a", with_unknown_field(make_event())),
        with_unknown_field(append_to("a")),
        append_to("a", make_event(id="no uuid")),
        AppendRequest(),
    ],
    ids=["unknown field in an event", "unknown field in the append", "bad id", "no events"],
)
async def test_what_is_wrong_inside_the_append_is_its_result(event_store, request_):
    before, result, after = await append_many(event_store, append_to("c"), request_, append_to("c"))

    assert reason_of(result.failure) == "INVALID_REQUEST"
    assert [before.appended.first_position, after.appended.first_position] == [1, 2]


async def test_paths_start_at_the_items_append(event_store):
    request = append_all(to_stream("a", make_event(), make_event("T", "ok", "")))

    _, result = await append_many(event_store, append_to("a"), request)

    [violation] = result.failure.invalid_request.violations
    assert violation.field == "appends[0].events[1].tags[1]"


# --- what ends the call

WRONG_MESSAGES = {
    "unknown field in the message": with_unknown_field(message((2, append_to("a")))),
    "unknown field in the item": AppendManyRequest(
        items=[with_unknown_field(AppendItem(request_id=2, append=append_to("a")))]
    ),
    "no append": AppendManyRequest(items=[AppendItem(request_id=2)]),
    "request_id used twice": message((2, append_to("a")), (2, append_to("a"))),
}


@pytest.mark.parametrize("name", WRONG_MESSAGES)
async def test_what_is_wrong_outside_of_the_append_ends_the_call(event_store, name):
    call = event_store.AppendMany(
        sent(message((1, append_to("a"))), WRONG_MESSAGES[name], message((3, append_to("a"))))
    )

    refusal = await refused(call, "INVALID_REQUEST")

    assert refusal.violations


@pytest.mark.parametrize("name", WRONG_MESSAGES)
async def test_what_a_call_that_ends_has_recorded_is_a_prefix_of_what_was_sent(event_store, name):
    requests = [append_to("a") for _ in range(20)]
    call = event_store.AppendMany(
        sent(
            *(message((100 + n, request)) for n, request in enumerate(requests)),
            WRONG_MESSAGES[name],
            message((3, append_to("after"))),
        )
    )

    results = await results_until_end(call)

    recorded = (await read(event_store, stream="a")).ids
    ids = [request.appends[0].events[0].id for request in requests]
    assert recorded[: len(ids)] == ids[: len(recorded)]
    assert len(results) <= len(recorded)
    assert (await read(event_store, stream="after")).ids == []


async def test_bytes_that_are_no_message_end_the_call(channel, event_store):
    method = channel.stream_stream("/treering.v1.EventStoreService/AppendMany")

    async def messages():
        yield b"\xff\xff\xff"

    await refused(method(messages()), "INVALID_REQUEST")


async def test_what_a_cancelled_call_has_recorded_is_a_prefix_of_what_was_sent(event_store):
    requests = [append_to("a") for _ in range(500)]
    call = event_store.AppendMany(
        sent(*(message((n, request)) for n, request in enumerate(requests)))
    )

    async with asyncio.timeout(WAIT_SECONDS):
        await call.read()
    call.cancel()

    recorded = (await read(event_store, stream="a")).ids
    assert recorded
    assert recorded == [r.appends[0].events[0].id for r in requests[: len(recorded)]]


async def test_a_message_has_no_limit_but_the_transports(event_store):
    """Three appends of almost 4 MiB in one message."""
    megabyte = b"x" * (1024 * 1024)
    large = [append_to(f"s-{n}", *(make_event(data=megabyte) for _ in range(3))) for n in range(3)]

    responses = await outcome(event_store.AppendMany(sent(message(*enumerate(large)))))

    results = [result for response in responses for result in response.results]
    assert [result.appended.last_position for result in results] == [3, 6, 9]


async def test_an_empty_message_changes_nothing(event_store):
    call = event_store.AppendMany(sent(AppendManyRequest(), message((1, append_to("a")))))

    responses = await outcome(call)

    assert [r.request_id for response in responses for r in response.results] == [1]
    assert (await head_of(event_store)).head_position == 1


async def test_many_refusals_on_one_call_are_all_answered(event_store):
    results = await append_many(
        event_store, *(append_to("x" * 255, make_event("")) for _ in range(2000))
    )

    for result in results:
        check_failure(result.failure)
