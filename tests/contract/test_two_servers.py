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
    BACKWARDS,
    MEGABYTE,
    Subscription,
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
from changes import A_MOMENT, DELETED, HOURS, PERMANENT, delete, info_of, keep, listed
from checks import check_atomic, check_log, check_subscription
from servers import InProcessServer
from treering.v1.event_pb2 import Event
from treering.v1.event_store_service_pb2 import AppendRequest, AppendResponse, SubscribeRequest
from treering.v1.event_store_service_pb2_grpc import EventStoreServiceStub
from treering.v1.stream_service_pb2 import DeleteStreamRequest
from treering.v1.stream_service_pb2_grpc import StreamServiceStub

SOON = Duration(nanos=100_000_000)


@pytest.fixture
async def servers(postgres_url: str) -> AsyncIterator[list[InProcessServer]]:
    """Two servers over one database."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(InProcessServer(postgres_url)) for _ in range(2)]


@pytest.fixture
async def channels(servers: list[InProcessServer]) -> AsyncIterator[list[grpc.aio.Channel]]:
    """A channel to each of them."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(grpc.aio.insecure_channel(server.address))
            for server in servers
        ]


@pytest.fixture
def stores(channels: list[grpc.aio.Channel]) -> list[Any]:
    """The stubs to append, read and subscribe by."""
    return [EventStoreServiceStub(channel) for channel in channels]


@pytest.fixture
def streams(channels: list[grpc.aio.Channel]) -> list[Any]:
    """The stubs for streams, their retention and deletion."""
    return [StreamServiceStub(channel) for channel in channels]


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


# --- deletion and retention

CHANGES = {
    # a change of a stream with three events, and what it leaves
    "deletion": (delete, {}, []),
    "permanent deletion": (delete, {"permanent": True}, []),
    "truncation": (keep, {"truncate_before": 3}, [3]),
    "max_count": (keep, {"max_count": 2}, [2, 3]),
    "max_age": (keep, {"max_age": A_MOMENT}, []),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_what_one_removes_the_other_no_longer_meets(stores, streams, change):
    """At once: its reads, conditions, repeats, lists and subscriptions all know, although it
    made the events itself, or has handed them out before."""
    make_change, fields, kept = CHANGES[change]
    for turn in range(2):
        tag = f"turn:{turn}"
        one, other = stores[turn], stores[1 - turn]
        stream_a = f"a-{turn}"

        events = [make_event("T", tag, data=b"1") for _ in range(3)]
        first = await append(other, append_to(stream_a, *events))
        await append(one, append_to("b", make_event("T", tag)))
        positions = [first.first_position + version - 1 for version in kept]
        seen = [*positions, first.last_position + 1]
        sources = (
            {"query": matching(tags=[tag])},
            {
                "query": matching(streams=[stream_a, "b"]),
                "after_position": first.first_position - 1,
            },
            {"query": ALL, "after_position": first.first_position - 1},
        )
        for source in sources:
            assert len((await read(other, **source)).events) == 4

        stream = await make_change(streams[turn], stream_a, **fields)

        for source in sources:
            assert (await read(other, **source)).positions == seen
        backwards = await read(other, query=matching(tags=[tag]), direction=BACKWARDS)
        assert backwards.positions == seen[::-1]
        answer = await read(other, stream=stream_a)
        assert (answer.versions, answer.stream_version) == (kept, stream.version)
        assert await info_of(streams[1 - turn], stream_a) == stream
        everything = await listed(streams[1 - turn], prefix=stream_a, show_deleted=True)
        assert everything == [stream]
        assert await listed(streams[1 - turn], prefix=stream_a) == (
            [stream] if stream.version else []
        )
        async with subscribed(other, query=matching(tags=[tag])) as subscription:
            await subscription.until("caught_up")
        assert [event.position for event in subscription.received] == seen
        request = append_all(
            to_stream("c", make_event()), conditions=[fail_if(matching(tags=[tag]))]
        )
        refusal = await refused(other.Append(request), "CONDITION_FAILED")
        assert refusal.failure.condition_failed.position == seen[0]
        changed = [Event(id=event.id, type="Other") for event in events[: 3 - len(kept)]]
        repeat = await append(other, append_to(stream_a, *changed))
        assert (repeat.duplicate, repeat.first_position) == (True, first.first_position)
        if stream.deletion == PERMANENT:
            await refused(other.Append(append_to(stream_a)), "STREAM_DELETED")
            request = SubscribeRequest(stream=stream_a)
            await refused(other.Subscribe(request), "STREAM_DELETED")
        else:
            if stream.version != 2:
                request = append_to(stream_a, expected_version=2)
                refusal = await refused(other.Append(request), "VERSION_CONFLICT")
                conflict = refusal.failure.version_conflict
                assert conflict.actual_version == stream.version
            response = await append(other, append_to(stream_a, expected_version=stream.version))
            assert response.versions[0].version == 4


async def test_by_turns_one_deletes_and_the_other_begins_anew(stores, streams):
    last = 0
    for n in range(1, 21):
        deletes, appends = n % 2, 1 - n % 2
        response = await append(stores[appends], append_to("a", expected_version=0))
        assert response.versions[0].version == n
        assert (await read(stores[deletes], stream="a")).versions == [n]

        stream = await delete(streams[deletes], "a", expected_version=n)

        assert (stream.deletion, stream.next_version) == (DELETED, n + 1)
        answer = await read(stores[appends], stream="a")
        assert (answer.events, answer.stream_version) == ([], 0)
        assert response.first_position == last + 1
        last = response.first_position


async def test_a_max_count_that_one_sets_moves_with_the_others_appends(stores, streams):
    await append(stores[0], append_to("a", make_event("T", "x")))
    await keep(streams[1], "a", max_count=2)
    for last in range(2, 22):
        await append(stores[last % 2], append_to("a", make_event("T", "x")))
        for store in stores:
            assert (await read(store, stream="a")).versions == [last - 1, last]
            answer = await read(store, query=matching(tags=["x"]), direction=BACKWARDS)
            assert answer.versions == [last, last - 1]
        request = append_all(
            to_stream("b", make_event()), conditions=[fail_if(matching(tags=["x"]))]
        )
        refusal = await refused(stores[1 - last % 2].Append(request), "CONDITION_FAILED")
        failed = refusal.failure.condition_failed
        assert failed.position == last - 1


async def test_retention_is_replaced_by_turns(stores, streams):
    """Each sees what the other one set, and what that removed stays removed."""
    await append(stores[0], append_to("a", *(make_event() for _ in range(20))))
    first = 1
    for turn, (parts, at_least) in enumerate(
        [
            ({"max_count": 18}, 3),
            ({"max_age": HOURS}, 3),
            ({"truncate_before": 6}, 6),
            ({}, 6),
            ({"max_count": 10}, 11),
            ({"max_count": 15}, 11),
            ({"truncate_before": 4}, 11),
        ]
    ):
        first = max(first, at_least)
        stream = await keep(streams[turn % 2], "a", **parts)
        assert stream.first_version == first
        for store, service in zip(stores, streams, strict=True):
            assert await info_of(service, "a") == stream
            assert (await read(store, stream="a")).versions == list(range(first, 21))


async def test_an_open_subscription_of_the_other_goes_on_over_a_deletion(stores, streams):
    await append(stores[0], append_to("a"))
    async with subscribed(stores[1], stream="a") as subscription:
        await subscription.until("caught_up")
        for n in range(2, 12):
            await delete(streams[0], "a")
            await append(stores[0], append_to("a", expected_version=0))
            await subscription.until_received(n)
    assert [event.version for event in subscription.received] == list(range(1, 12))


async def test_an_open_subscription_of_the_other_ends_when_its_stream_is_deleted_for_good(
    stores, streams
):
    await append(stores[0], append_to("a"))
    async with (
        subscribed(stores[1], stream="a", heartbeat_interval=SOON) as to_a,
        subscribed(stores[1], stream="never") as to_never,
        subscribed(stores[1], query=matching(streams=["a", "b"])) as to_query,
    ):
        for subscription in (to_a, to_never, to_query):
            await subscription.until("caught_up")

        await delete(streams[0], "a", permanent=True)
        await delete(streams[0], "never", permanent=True)

        assert (await to_a.end()).reason == "STREAM_DELETED"
        assert (await to_never.end()).reason == "STREAM_DELETED"
        await append(stores[0], append_to("b"))
        assert (await to_query.until_received(2))[-1].stream == "b"


async def test_a_subscriber_of_the_other_that_lags_is_not_given_what_is_removed(
    servers, stores, streams
):
    """The other server still has the events in memory. But for what was under way, they are
    not sent any more once the deletion was answered."""
    payload = b"x" * 100_000
    async with grpc.aio.insecure_channel(
        servers[1].address, [("grpc.http2.bdp_probe", 0)]
    ) as slow_channel:
        call = EventStoreServiceStub(slow_channel).Subscribe(
            SubscribeRequest(query=matching(streams=["a", "b"]))
        )
        subscription = Subscription(call)
        await subscription.until("caught_up")
        async with subscribed(stores[1], stream="a") as quick:
            for _ in range(30):
                events = (make_event(data=payload) for _ in range(10))
                await append(stores[0], append_to("a", *events))
            await quick.until_received(300)

        await delete(streams[0], "a")
        await append(stores[0], append_to("b"))

        while not (subscription.received and subscription.received[-1].stream == "b"):
            await subscription.next()
        call.cancel()
        assert len(subscription.received) < 60


async def test_from_the_answer_on_the_other_sends_nothing_that_was_removed(
    servers, stores, streams
):
    """Also what it has only just recorded itself. Its subscriber reads on once the deletion was
    answered, and so is given only what is made for it then."""
    met = []
    for n in range(15):
        async with grpc.aio.insecure_channel(
            servers[1].address, [("grpc.http2.bdp_probe", 0), ("own connection", n)]
        ) as slow_channel:
            call = EventStoreServiceStub(slow_channel).Subscribe(
                SubscribeRequest(query=ALL, from_head=True)
            )
            subscription = Subscription(call)
            await subscription.until("caught_up")
            for _ in range(4):
                await append(stores[1], append_to("filler", make_event(data=MEGABYTE)))
            await asyncio.sleep(0.2)  # the first of them fills the connection
            await append(stores[1], append_to(f"a-{n}"), append_to("end"))

            await delete(streams[0], f"a-{n}")

            while not (subscription.received and subscription.received[-1].stream == "end"):
                await subscription.next()
            met += [e.stream for e in subscription.received if e.stream.startswith("a-")]
            call.cancel()
    assert met == []


@pytest.mark.parametrize("count", [300, 3000])
async def test_a_subscriber_of_the_other_sees_nothing_of_an_append_that_it_removes_itself(
    stores, streams, count
):
    await append(stores[0], append_to("a"))
    await keep(streams[0], "a", max_count=3)
    async with subscribed(stores[1]) as subscription:
        await subscription.until("caught_up")
        await append(stores[0], append_to("a", *(make_event() for _ in range(count))))
        await append(stores[0], append_to("b"))
        while not (subscription.received and subscription.received[-1].stream == "b"):
            await subscription.next()
    positions = [event.position for event in subscription.received]
    assert positions == [1, count - 1, count, count + 1, count + 2]


async def test_one_deletes_while_the_other_appends(stores, streams):
    """Every append and deletion takes effect at one moment, in one order for both."""
    answers: list[AppendResponse] = []

    async def write(store: Any) -> None:
        for _ in range(60):
            events = make_event("T", "x"), make_event("T", "x")
            answers.append(await append(store, append_to("a", *events)))

    async def look(store: Any) -> None:
        while not writing.done():
            known = next_versions[-1]
            for fields in ({"stream": "a"}, {"query": matching(tags=["x"])}):
                answer = await read(store, **fields)
                assert all(event.version >= known for event in answer.events)

    next_versions = [1]
    writing = asyncio.gather(write(stores[1]), write(stores[1]), write(stores[0]))
    looking = asyncio.gather(look(stores[0]), look(stores[1]))
    while not writing.done():
        next_versions.append((await delete(streams[0], "a")).next_version)
    await asyncio.gather(writing, looking)

    answers.sort(key=lambda answer: answer.first_position)
    assert [answer.last_position for answer in answers] == list(range(2, 361, 2))
    assert [answer.versions[0].version for answer in answers] == list(range(2, 361, 2))
    assert next_versions == sorted(next_versions)
    for store in stores:
        assert (await read(store)).positions == list(range(next_versions[-1], 361))


async def test_of_a_deletion_and_an_append_at_one_version_exactly_one_wins(stores, streams):
    for n in range(30):
        stream = f"s-{n}"
        await append(stores[0], append_to(stream, make_event(), make_event()))
        answers = await asyncio.gather(
            stores[n % 2].Append(append_to(stream, expected_version=2)),
            streams[1 - n % 2].DeleteStream(
                DeleteStreamRequest(stream=stream, expected_version=2, permanent=n % 3 == 0)
            ),
            return_exceptions=True,
        )

        [lost] = [answer for answer in answers if isinstance(answer, grpc.RpcError)]
        reasons = {"VERSION_CONFLICT"}
        if n % 3 == 0 and lost is answers[0]:
            reasons = {"STREAM_DELETED"}
        assert unpack(lost).reason in reasons
        kept = [] if lost is answers[0] else [1, 2, 3]
        for store in stores:
            assert (await read(store, stream=stream)).versions == kept


async def test_concurrent_changes_through_both_are_one_after_the_other(stores, streams):
    """Each answers with what it left, and truncation never goes back."""
    await append(stores[0], append_to("a", *(make_event() for _ in range(60))))

    answers = await asyncio.gather(
        *(keep(streams[n % 2], "a", truncate_before=n) for n in range(1, 61))
    )

    for n, stream in enumerate(answers, start=1):
        assert stream.first_version >= n
    for service in streams:
        assert (await info_of(service, "a")).retention.truncate_before == 60
    for store in stores:
        assert (await read(store, stream="a")).versions == [60]


# --- one goes


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
