"""Subscribe: how a subscription starts, what comes, and how it is resumed."""

import asyncio
import time
from contextlib import AsyncExitStack

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from calls import (
    ALL,
    MAX_NUMBER,
    WAIT_SECONDS,
    append,
    append_to,
    head_of,
    make_event,
    matching,
    nanoseconds,
    new_id,
    read,
    refused,
    subscribed,
    timestamp,
)
from servers import InProcessServer
from treering.v1.event_store_service_pb2 import (
    AppendRequest,
    CaughtUp,
    Heartbeat,
    SubscribeRequest,
    SubscriptionStarted,
)
from treering.v1.event_store_service_pb2_grpc import EventStoreServiceStub

SOON = Duration(nanos=100_000_000)
"""The shortest heartbeat interval."""


@pytest.fixture
async def six(event_store) -> list[str]:
    """Six events: "a" at 1, 3, 4; "b" at 2, 6 (type Other); no stream at 5. Their ids."""
    await append(
        event_store,
        append_to("a", make_event("T", "tag")),
        append_to("b", make_event("Other", "tag")),
        append_to("a", make_event("T")),
        append_to("a", make_event("T", "tag")),
        AppendRequest(events=[make_event("T", "tag")]),
        append_to("b", make_event("Other")),
    )
    return (await read(event_store)).ids


async def subscribe_refused(event_store, reason: str, **fields):
    """The refusal of a subscription, instead of `started`."""
    if "stream" not in fields and "query" not in fields:
        fields["query"] = ALL
    return await refused(event_store.Subscribe(SubscribeRequest(**fields)), reason)


# --- started


async def test_initial_metadata_and_started_come_at_once(event_store):
    async with subscribed(event_store, heartbeat_interval=Duration(seconds=3600)) as subscription:
        async with asyncio.timeout(2):
            await subscription.call.initial_metadata()
            kind, _ = await subscription.next()

        assert kind == "started"


@pytest.mark.parametrize(
    ("fields", "after", "positions"),
    [
        ({}, 0, [1, 2, 3, 4, 5, 6]),
        ({"after_position": 0}, 0, [1, 2, 3, 4, 5, 6]),
        ({"after_position": 2}, 2, [3, 4, 5, 6]),
        ({"after_position": 6}, 6, []),
        ({"from_head": True}, 6, []),
        ({"stream": "a"}, 0, [1, 3, 4]),
        ({"stream": "a", "after_position": 2}, 2, [3, 4]),
        ({"stream": "a", "from_head": True}, 6, []),
        ({"query": matching(tags=["tag"]), "after_position": 1}, 1, [2, 4, 5]),
    ],
)
async def test_where_a_subscription_starts(event_store, six, fields, after, positions):
    head = await head_of(event_store)
    async with subscribed(event_store, **fields) as subscription:
        _, started = await subscription.next()
        await subscription.until("caught_up")

    assert started == SubscriptionStarted(log_id=head.log_id, after_position=after, head_position=6)
    assert [event.position for event in subscription.received] == positions


@pytest.mark.parametrize(
    ("stream", "after_version", "positions"),
    [("a", 0, [1, 3, 4]), ("a", 1, [3, 4]), ("a", 2, [4]), ("a", 3, []), ("none", 0, [])],
)
async def test_after_a_version(event_store, six, stream, after_version, positions):
    async with subscribed(event_store, stream=stream, after_version=after_version) as subscription:
        _, started = await subscription.next()
        await subscription.until("caught_up")

    assert [event.position for event in subscription.received] == positions
    everything = await read(event_store, stream=stream, after_position=started.after_position)
    assert everything.positions == positions, "nothing between after_position and the start"


@pytest.mark.parametrize("offset", [-1, 0, 1], ids=["just before", "at", "just after"])
@pytest.mark.parametrize("source", [{"query": ALL}, {"stream": "a"}], ids=["all", "stream"])
async def test_after_a_time(event_store, six, source, offset):
    times = [nanoseconds(event.recorded_at) for event in (await read(event_store)).events]
    bound = times[2] + offset
    expected = await read(event_store, **source, after_time=timestamp(bound))

    async with subscribed(event_store, **source, after_time=timestamp(bound)) as subscription:
        _, started = await subscription.next()
        await subscription.until("caught_up")

    positions = [event.position for event in subscription.received]
    assert positions == expected.positions
    everything = await read(event_store, **source, after_position=started.after_position)
    assert everything.positions == positions, "nothing between after_position and the start"


@pytest.mark.parametrize("when", ["before everything", "after everything"])
async def test_after_a_time_beyond_the_log(event_store, six, when):
    seconds = 1 if when == "before everything" else 10**10
    async with subscribed(event_store, after_time=timestamp(seconds * 10**9)) as subscription:
        caught_up = await subscription.until("caught_up")

    assert caught_up.position == 6
    assert len(subscription.received) == (6 if when == "before everything" else 0)


# --- caught up


@pytest.mark.parametrize(
    "fields", [{}, {"from_head": True}, {"stream": "a"}, {"after_position": 0}]
)
async def test_an_empty_log_is_caught_up_with_right_after_started(event_store, fields):
    async with subscribed(event_store, **fields) as subscription:
        _, started = await subscription.next()
        kind, caught_up = await subscription.next()

    assert (started.after_position, started.head_position) == (0, 0)
    assert (kind, caught_up) == ("caught_up", CaughtUp(position=0, event_id=""))


@pytest.mark.parametrize("fields", [{"from_head": True}, {"after_position": 6}])
async def test_where_there_is_no_history_caught_up_comes_right_after_started(
    event_store, six, fields
):
    async with subscribed(event_store, **fields) as subscription:
        await subscription.next()
        kind, caught_up = await subscription.next()

    assert (kind, caught_up) == ("caught_up", CaughtUp(position=6, event_id=six[5]))


@pytest.mark.parametrize(
    "source", [{"query": ALL}, {"stream": "a"}, {"stream": "none"}, {"query": matching(tags=["x"])}]
)
async def test_caught_up_is_a_checkpoint_at_the_head(event_store, six, source):
    """Also where nothing at the end matches: everything up to there was looked at."""
    async with subscribed(event_store, **source) as subscription:
        caught_up = await subscription.until("caught_up")

    assert caught_up == CaughtUp(position=6, event_id=six[5])


async def test_all_history_was_sent_before_caught_up(event_store):
    await append(event_store, append_to("a", *(make_event() for _ in range(3000))))

    async with subscribed(event_store) as subscription:
        await subscription.until("caught_up")

    assert [event.position for event in subscription.received] == list(range(1, 3001))


# --- live


async def test_then_live(event_store, six):
    async with subscribed(event_store) as subscription:
        await subscription.until("caught_up")
        for _ in range(3):
            appended = await append(event_store, append_to("a", make_event(), make_event()))
            await subscription.until_received(appended.last_position)

    assert subscription.received == (await read(event_store)).events


async def test_a_stream_need_not_exist(event_store):
    async with subscribed(event_store, stream="later") as subscription:
        await subscription.until("caught_up")
        await append(event_store, append_to("other"), append_to("later"))
        [event] = await subscription.until_received(1)

    assert (event.stream, event.version, event.position) == ("later", 1, 2)


@pytest.mark.parametrize(
    ("query", "positions"),
    [
        (matching(types=["T"]), [1, 3, 4, 5]),
        (matching(tags=["tag"], types=["T"]), [1, 4, 5]),
        (matching(stream_prefixes=["b"]), [2, 6]),
        (matching(categories=["b", "none"]), [2, 6]),
        (matching(streams=["a"], tags=["tag"]), [1, 4]),
        (matching(tags=["none"]), []),
    ],
)
async def test_only_events_that_match_in_history_and_live(event_store, six, query, positions):
    async with subscribed(event_store, query=query) as subscription:
        await subscription.until("caught_up")
        assert [event.position for event in subscription.received] == positions

        for event in (await read(event_store)).events:
            again = make_event(event.type, *event.tags)
            request = (
                append_to(event.stream, again) if event.stream else AppendRequest(events=[again])
            )
            await append(event_store, request)
        await append(event_store, append_to("a"))
        await subscription.until_received(2 * len(positions))

    assert [e.position for e in subscription.received] == positions + [6 + p for p in positions]


async def test_events_are_those_a_read_gives(event_store, six):
    async with subscribed(event_store) as history:
        await history.until("caught_up")
        async with subscribed(event_store, from_head=True) as live:
            await live.until("caught_up")
            event = make_event("T", "x", data=b"\x00\xff", metadata={"a": "b"}, time=timestamp(7))
            await append(event_store, append_to("a", event))
            await live.until_received(1)
            await history.until_received(7)

    recorded = (await read(event_store)).events
    assert history.received == recorded
    assert live.received == recorded[6:]


async def test_several_subscriptions_of_one_query_each_get_every_event(event_store, six):
    contexts = [subscribed(event_store, query=matching(types=["T"])) for _ in range(5)]
    subscriptions = [await context.__aenter__() for context in contexts]
    for subscription in subscriptions:
        await subscription.until("caught_up")

    await append(event_store, append_to("a", make_event("T")), append_to("a", make_event("T")))

    for subscription, context in zip(subscriptions, contexts, strict=True):
        await subscription.until_received(6)
        await context.__aexit__(None, None, None)
        assert [e.position for e in subscription.received] == [1, 3, 4, 5, 7, 8]


async def test_a_batch_has_at_most_about_1_mib(event_store):
    for _ in range(2):
        await append(
            event_store, append_to("a", *(make_event(data=b"x" * 300_000) for _ in range(10)))
        )
    async with subscribed(event_store) as subscription:
        sizes = []
        while len(subscription.received) < 20:
            _, content = await subscription.next()
            sizes.append(content.ByteSize())

    assert max(sizes) <= 1024 * 1024 + 64 * 1024


# --- heartbeats


async def test_a_heartbeat_comes_after_each_silent_interval(event_store, six):
    async with subscribed(event_store, heartbeat_interval=SOON) as subscription:
        await subscription.until("caught_up")
        began = time.monotonic()
        for _ in range(3):
            kind, heartbeat = await subscription.next()
            assert (kind, heartbeat) == ("heartbeat", Heartbeat(position=6, event_id=six[5]))
        elapsed = time.monotonic() - began

    assert 0.25 <= elapsed <= 3


async def test_the_checkpoint_of_a_narrow_query_moves_with_heartbeats(event_store, six):
    async with subscribed(
        event_store, query=matching(tags=["never"]), heartbeat_interval=SOON
    ) as subscription:
        await subscription.until("caught_up")
        for _ in range(3):
            appended = await append(event_store, append_to("other"))
            heartbeat = await subscription.until("heartbeat")
            while heartbeat.position < appended.last_position:
                heartbeat = await subscription.until("heartbeat")

            assert heartbeat.position == appended.last_position
            assert heartbeat.event_id == (await read(event_store)).ids[-1]


async def test_a_heartbeat_of_an_empty_log(event_store):
    async with subscribed(event_store, heartbeat_interval=SOON) as subscription:
        await subscription.until("caught_up")

        assert await subscription.until("heartbeat") == Heartbeat(position=0, event_id="")


@pytest.mark.parametrize(
    "interval",
    [
        Duration(nanos=99_999_999),
        Duration(seconds=3600, nanos=1),
        Duration(),
        Duration(seconds=-1),
        Duration(seconds=10**10),
        Duration(seconds=1, nanos=-1),
        Duration(seconds=1, nanos=10**9),
        Duration(seconds=MAX_NUMBER),
        Duration(seconds=-(2**63)),
    ],
    ids=lambda interval: f"{interval.seconds}s {interval.nanos}ns",
)
async def test_a_heartbeat_interval_out_of_bounds_is_invalid(event_store, interval):
    refusal = await subscribe_refused(event_store, "INVALID_REQUEST", heartbeat_interval=interval)

    assert refusal.fields[0].startswith("heartbeat_interval")


@pytest.mark.parametrize("interval", [SOON, Duration(seconds=3600), None])
async def test_a_heartbeat_interval_within_bounds(event_store, interval):
    async with subscribed(event_store, heartbeat_interval=interval) as subscription:
        await subscription.until("caught_up")


async def test_events_count_as_signs_of_life(event_store):
    """While events come more often than the interval there is no silence, so no heartbeat."""
    async with subscribed(event_store, heartbeat_interval=Duration(seconds=5)) as subscription:
        await subscription.until("caught_up")
        kinds = []
        for _ in range(20):
            await append(event_store, append_to("a"))
            kinds.append((await subscription.next())[0])

    assert set(kinds) == {"events"}


# --- resuming


async def test_resuming_at_every_event_gives_the_rest(event_store, six):
    log_id = (await head_of(event_store)).log_id
    for position, event_id in enumerate(["", *six]):
        async with subscribed(
            event_store,
            after_position=position,
            after_event_id=event_id,
            expected_log_id=log_id,
        ) as subscription:
            await subscription.until("caught_up")

        assert [e.id for e in subscription.received] == six[position:]


async def test_ids_are_compared_without_case(event_store, six):
    log_id = (await head_of(event_store)).log_id.upper()
    async with subscribed(
        event_store, after_position=3, after_event_id=six[2].upper(), expected_log_id=log_id
    ) as subscription:
        await subscription.until("caught_up")

    assert len(subscription.received) == 3


async def test_the_checkpoints_told_can_be_resumed(event_store, six):
    """Those of `caught_up` and `heartbeat`, passed back as they are."""
    checkpoints = []
    async with subscribed(
        event_store, query=matching(types=["Other"]), heartbeat_interval=SOON
    ) as subscription:
        checkpoints += [await subscription.until("caught_up")]
        checkpoints += [await subscription.until("heartbeat")]

    for checkpoint in checkpoints:
        async with subscribed(
            event_store, after_position=checkpoint.position, after_event_id=checkpoint.event_id
        ) as resumed:
            await resumed.until("caught_up")
        assert resumed.received == []


@pytest.mark.parametrize("source", [{"query": ALL}, {"stream": "b"}], ids=["all", "stream"])
async def test_another_event_at_the_checkpoint_is_a_log_that_went_another_way(
    event_store, six, source
):
    for wrong in (new_id(), six[2]):
        refusal = await subscribe_refused(
            event_store, "LOG_DIVERGED", **source, after_position=4, after_event_id=wrong
        )

        state = refusal.failure.log_state
        assert (state.head_position, state.last_common_position) == (6, 0)
        assert state.log_id == (await head_of(event_store)).log_id


async def test_the_event_of_a_checkpoint_need_not_be_of_the_source(event_store, six):
    async with subscribed(
        event_store, stream="a", after_position=2, after_event_id=six[1]
    ) as subscription:
        await subscription.until("caught_up")

    assert [event.position for event in subscription.received] == [3, 4]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"after_event_id": new_id()}, "after_event_id"),
        ({"after_event_id": new_id(), "from_head": True}, "after_event_id"),
        ({"after_event_id": new_id(), "stream": "a", "after_version": 1}, "after_event_id"),
        ({"after_event_id": new_id(), "after_time": timestamp(0)}, "after_event_id"),
        ({"after_event_id": new_id(), "after_position": 0}, "after_event_id"),
        ({"after_event_id": "no uuid", "after_position": 1}, "after_event_id"),
        ({"after_event_id": "no uuid", "after_position": 0}, "after_event_id"),
        ({"expected_log_id": "no uuid"}, "expected_log_id"),
        ({"expected_log_id": "{" + new_id() + "}"}, "expected_log_id"),
        ({"from_head": False}, "from_head"),
        ({"after_version": 1}, "after_version"),
        ({"stream": ""}, "stream"),
    ],
    ids=str,
)
async def test_a_start_that_makes_no_sense_is_invalid(event_store, six, fields, field):
    refusal = await subscribe_refused(event_store, "INVALID_REQUEST", **fields)

    assert set(refusal.fields) == {field}


@pytest.mark.parametrize(
    "fields",
    [
        {"after_position": 7},
        {"after_position": MAX_NUMBER},
        {"stream": "a", "after_position": 7},
        {"stream": "a", "after_version": 4},
        {"stream": "none", "after_version": 1},
        {"after_position": 7, "after_event_id": new_id()},
    ],
    ids=str,
)
async def test_a_start_after_the_end_is_refused(event_store, six, fields):
    refusal = await subscribe_refused(event_store, "POSITION_AHEAD_OF_LOG", **fields)

    assert refusal.failure.log_state.head_position == 6
    assert refusal.failure.log_state.log_id == (await head_of(event_store)).log_id


async def test_an_id_that_the_log_never_had(event_store, six):
    refusal = await subscribe_refused(event_store, "LOG_MISMATCH", expected_log_id=new_id())

    assert refusal.failure.log_state.log_id == (await head_of(event_store)).log_id


async def test_any_other_log_is_not_found(event_store):
    await subscribe_refused(event_store, "NOT_FOUND", log="other")


async def test_a_reserved_stream_matches_nothing_yet(event_store, six):
    async with subscribed(event_store, stream="$all") as subscription:
        caught_up = await subscription.until("caught_up")

    assert (caught_up.position, subscription.received) == (6, [])


# --- the end


async def test_a_cancelled_subscription_leaves_others_alone(event_store, six):
    async with subscribed(event_store) as other:
        async with subscribed(event_store) as subscription:
            await subscription.until("caught_up")
        assert await subscription.call.code() == grpc.StatusCode.CANCELLED

        await other.until("caught_up")
        await append(event_store, append_to("a"))
        await other.until_received(7)


async def test_a_subscription_is_open_for_as_long_as_nobody_ends_it(event_store):
    async with subscribed(event_store, heartbeat_interval=SOON) as subscription:
        for _ in range(10):
            await subscription.until("heartbeat")
        assert not subscription.call.done()


async def test_a_server_that_stops_ends_subscriptions_with_shutting_down(database_url):
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(InProcessServer(database_url))
        async with (
            grpc.aio.insecure_channel(server.address) as channel,
            subscribed(EventStoreServiceStub(channel)) as subscription,
        ):
            await subscription.until("caught_up")
            ending = asyncio.create_task(subscription.end())
            async with asyncio.timeout(WAIT_SECONDS):
                await stack.aclose()
                refusal = await ending

    assert refusal.reason == "SHUTTING_DOWN"
    assert refusal.failure.HasField("retry_after")
