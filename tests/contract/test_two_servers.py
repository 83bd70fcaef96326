"""Two servers over one PostgreSQL: every promise holds as if they were one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from calls import (
    ALL,
    append,
    append_all,
    append_many,
    append_to,
    fail_if,
    head_of,
    make_event,
    matching,
    read,
    refused,
    subscribed,
    to_stream,
    unpack,
)
from checks import check_atomic, check_log, check_subscription
from servers import InProcessServer
from treering.v1.event_store_service_pb2 import AppendRequest
from treering.v1.event_store_service_pb2_grpc import EventStoreServiceStub

SOON = Duration(nanos=100_000_000)


@pytest.fixture
async def stores(postgres_url: str) -> AsyncIterator[list[Any]]:
    """Stubs of two servers over one database."""
    async with AsyncExitStack() as stack:
        stubs = []
        for _ in range(2):
            server = await stack.enter_async_context(InProcessServer(postgres_url))
            channel = grpc.aio.insecure_channel(server.address)
            stubs.append(EventStoreServiceStub(await stack.enter_async_context(channel)))
        yield stubs


async def contend(stores: list[Any], requests: list[AppendRequest]) -> tuple[int, set[str]]:
    """Sends all at once, by turns to each server: how many won, and why the others lost."""
    calls = [stores[n % 2].Append(request) for n, request in enumerate(requests)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    errors = [answer for answer in answers if isinstance(answer, grpc.RpcError)]
    return len(answers) - len(errors), {unpack(error).reason for error in errors}


async def test_both_are_one_log(stores):
    one, other = stores
    await append(one, append_to("a"))
    await append(other, append_to("a", expected_version=1))

    assert await head_of(one) == await head_of(other)
    assert (await read(one)).events == (await read(other)).events
    check_log((await read(one)).events)


async def test_of_conflicting_appends_exactly_one_wins(stores):
    for n in range(20):
        won, reasons = await contend(
            stores, [append_to(f"s-{n}", expected_version=0) for _ in range(10)]
        )
        assert (won, reasons) == (1, {"VERSION_CONFLICT"})


async def test_of_conflicting_conditions_exactly_one_wins(stores):
    for n in range(20):
        guard = fail_if(matching(tags=[f"name:{n}"]))
        requests = [
            AppendRequest(events=[make_event("Registered", f"name:{n}")], conditions=[guard])
            for _ in range(10)
        ]
        won, reasons = await contend(stores, requests)
        assert (won, reasons) == (1, {"CONDITION_FAILED"})


async def test_no_write_skew(stores):
    for n in range(20):
        x, y = f"x:{n}", f"y:{n}"
        requests = [
            AppendRequest(events=[make_event("T", x)], conditions=[fail_if(matching(tags=[y]))]),
            AppendRequest(events=[make_event("T", y)], conditions=[fail_if(matching(tags=[x]))]),
        ]
        assert (await contend(stores, requests))[0] == 1


async def test_a_counter_incremented_through_both_loses_nothing(stores):
    async def increment(n: int) -> None:
        while True:
            version = (await read(stores[n % 2], stream="c", limit=0)).stream_version
            try:
                await append(stores[(n + 1) % 2], append_to("c", expected_version=version))
            except grpc.RpcError as error:
                assert unpack(error).reason == "VERSION_CONFLICT"
            else:
                return

    await asyncio.gather(*(increment(n) for n in range(30)))

    assert (await read(stores[0], stream="c")).versions == list(range(1, 31))


async def test_an_expectation_sees_what_the_other_recorded(stores):
    for version in range(20):
        await append(stores[version % 2], append_to("a", expected_version=version))
    for store in stores:
        await refused(store.Append(append_to("a", expected_version=19)), "VERSION_CONFLICT")


async def test_a_condition_sees_what_the_other_recorded(stores):
    """Each one's condition looks after the head that the other one's append made."""
    for n in range(20):
        head = (await append(stores[n % 2], append_to("a"))).last_position
        request = append_all(to_stream("b", make_event()), conditions=[fail_if(ALL, head - 1)])
        await refused(stores[(n + 1) % 2].Append(request), "CONDITION_FAILED")
        request = append_all(to_stream("b", make_event()), conditions=[fail_if(ALL, head)])
        await append(stores[(n + 1) % 2], request)


async def test_concurrent_writers_on_both_make_one_dense_log(stores):
    requests = [
        append_all(
            to_stream(f"s-{n % 5}", make_event(), make_event()),
            to_stream("shared", make_event()),
            events=[make_event()],
        )
        for n in range(160)
    ]

    async def write(n: int) -> None:
        for request in requests[n::8]:
            await append(stores[n % 2], request)

    await asyncio.gather(*(write(n) for n in range(8)))

    log = (await read(stores[0])).events
    check_log(log)
    check_atomic(
        log,
        [
            [event.id for part in request.appends for event in part.events]
            + [event.id for event in request.events]
            for request in requests
        ],
    )
    assert len(log) == 160 * 4


async def test_subscribers_on_each_see_the_same_dense_order(stores):
    async def write(n: int) -> None:
        for _ in range(40):
            await append(stores[n % 2], append_to(f"s-{n}"))

    async with subscribed(stores[0]) as one, subscribed(stores[1]) as other:
        await asyncio.gather(*(write(n) for n in range(6)))
        await asyncio.gather(one.until_received(240), other.until_received(240))

    log = (await read(stores[0])).events
    check_subscription(one.received, log)
    check_subscription(other.received, log)


async def test_a_subscriber_that_moves_between_servers_misses_and_repeats_nothing(stores):
    async def write(n: int) -> None:
        for _ in range(60):
            await append(stores[n % 2], append_to(f"s-{n}"))

    writers = asyncio.gather(*(write(n) for n in range(4)))
    received: list[Any] = []
    turn = 0
    while len(received) < 240:
        last = received[-1] if received else None
        async with subscribed(
            stores[turn % 2],
            after_position=last.position if last else 0,
            after_event_id=last.id if last else "",
        ) as subscription:
            received += await subscription.until_received(1)
        turn += 1
    await writers

    check_subscription(received, (await read(stores[0])).events)


async def test_what_one_recorded_reaches_a_subscriber_of_the_other_soon(stores):
    async with subscribed(stores[1], stream="a") as subscription:
        await subscription.until("caught_up")
        for n in range(1, 6):
            await append(stores[0], append_to("a"))
            async with asyncio.timeout(2):
                await subscription.until_received(n)


async def test_heartbeats_move_with_what_the_other_recorded(stores):
    async with subscribed(
        stores[1], query=matching(tags=["never"]), heartbeat_interval=SOON
    ) as subscription:
        await subscription.until("caught_up")
        await append(stores[0], append_to("a"), append_to("a"))
        heartbeat = await subscription.until("heartbeat")
        while heartbeat.position < 2:
            heartbeat = await subscription.until("heartbeat")

    assert heartbeat.event_id == (await read(stores[0])).ids[1]


async def test_a_repeat_through_the_other_server(stores):
    request = append_all(to_stream("a", make_event(), expected_version=0), events=[make_event()])
    first = await append(stores[0], request)
    await append(stores[0], append_to("a"))

    repeat = await append(stores[1], request)

    assert repeat.duplicate
    repeat.duplicate = False
    assert repeat == first


async def test_concurrent_repeats_through_both_record_once(stores):
    for n in range(10):
        request = append_to(f"s-{n}", make_event(), make_event())
        calls = [stores[k % 2].Append(request) for k in range(8)]
        responses = await asyncio.gather(*calls)

        assert sum(not response.duplicate for response in responses) == 1
        assert {r.first_position for r in responses} == {2 * n + 1}


async def test_an_id_that_is_taken_through_the_other_server(stores):
    event = make_event()
    await append(stores[0], append_to("a", event))

    refusal = await refused(stores[1].Append(append_to("b", event)), "EVENT_ID_CONFLICT")

    assert refusal.failure.event_id_conflict.position == 1


async def test_writes_are_read_through_the_other_server(stores):
    for version in range(1, 31):
        writer, reader = stores[version % 2], stores[(version + 1) % 2]
        appended = await append(writer, append_to("a"))
        answer = await read(reader, stream="a", min_position=appended.last_position)
        assert (answer.stream_version, answer.head_position) == (version, appended.last_position)


async def test_reads_heads_and_subscriptions_see_all_that_any_server_acknowledged(stores):
    """Without `min_position`: they look at the database."""
    for n in range(1, 21):
        writer, reader = stores[n % 2], stores[(n + 1) % 2]
        await append(writer, append_to("a"))

        assert (await head_of(reader)).head_position == n
        assert (await read(reader, stream="a", limit=0)).stream_version == n
        async with subscribed(reader, from_head=True) as subscription:
            _, started = await subscription.next()
        assert (started.after_position, started.head_position) == (n, n)


async def test_pipelines_through_both_keep_their_order(stores):
    chains = [[append_to(f"s-{n}", expected_version=v) for v in range(100)] for n in range(2)]

    results = await asyncio.gather(
        *(append_many(store, *chain) for store, chain in zip(stores, chains, strict=True))
    )

    for chain in results:
        positions = [result.appended.first_position for result in chain]
        assert positions == sorted(positions)
    check_log((await read(stores[0])).events)


async def test_one_server_goes_and_the_other_goes_on(postgres_url, server_process):
    one, other = server_process(postgres_url), server_process(postgres_url)
    async with (
        grpc.aio.insecure_channel(one.address) as one_channel,
        grpc.aio.insecure_channel(other.address) as other_channel,
    ):
        stub = EventStoreServiceStub(one_channel)
        writing = [asyncio.create_task(append(stub, append_to(f"s-{n}"))) for n in range(100)]
        await asyncio.wait(writing, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.to_thread(one.kill)
        await asyncio.gather(*writing, return_exceptions=True)

        event_store = EventStoreServiceStub(other_channel)
        await append(event_store, append_to("after"))
        log = (await read(event_store)).events

    check_log(log)
    acknowledged = [task.result().first_position for task in writing if not task.exception()]
    assert {event.position for event in log} >= set(acknowledged)
