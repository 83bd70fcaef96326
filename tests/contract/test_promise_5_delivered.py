"""Promise 5: a subscription yields every matching event after its start exactly once per
call, in order, first from history, then live, with no hole at the seam."""

import asyncio
import random

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from calls import (
    WAIT_SECONDS,
    Subscription,
    append,
    append_all,
    append_to,
    make_event,
    matching,
    read,
    subscribed,
    to_stream,
)
from checks import check_subscription
from servers import InProcessServer
from treering.v1.event_store_service_pb2 import SubscribeRequest
from treering.v1.event_store_service_pb2_grpc import EventStoreServiceStub
from treering.v1.query_pb2 import QueryItem

LAST = "Last"
"""Type of the event that ends a test: who has seen it has seen all before it."""


async def write(event_store, rng: random.Random, count: int) -> None:
    """Appends of all shapes to a few streams, with a few types and tags."""
    for _ in range(count):
        parts = [
            to_stream(
                f"{rng.choice(('order', 'cart'))}-{rng.randrange(4)}",
                make_event(rng.choice("ABC"), *rng.sample(["x", "y", "z"], rng.randrange(4))),
            )
            for _ in range(rng.randrange(3))
        ]
        await append(event_store, append_all(*parts, events=[make_event(rng.choice("ABC"), "x")]))


async def until_last(subscription: Subscription) -> None:
    """Receives until the last event of the test has come."""
    while not (subscription.received and subscription.received[-1].type == LAST):
        await subscription.next()
    subscription.received.pop()


SOURCES = {
    "all": ({}, lambda e: True),
    "a stream": ({"stream": "order-1"}, lambda e: e.stream == "order-1"),
    "a type": ({"query": matching(types=["B", LAST])}, lambda e: e.type == "B"),
    "tags": (
        {"query": matching(QueryItem(tags=["x", "y"]), QueryItem(types=[LAST]))},
        lambda e: {"x", "y"} <= set(e.tags),
    ),
    "a category": (
        {"query": matching(QueryItem(categories=["cart"]), QueryItem(types=[LAST]))},
        lambda e: e.stream.startswith("cart-"),
    ),
    "a prefix and a type": (
        {
            "query": matching(
                QueryItem(stream_prefixes=["order-"], types=["A"]), QueryItem(types=[LAST])
            )
        },
        lambda e: e.stream.startswith("order-") and e.type == "A",
    ),
}


@pytest.mark.parametrize("name", SOURCES)
async def test_no_hole_at_the_seam_under_concurrent_writers(event_store, name):
    """Subscriptions that begin at any moment while writers append, each from a random
    position: every one gets exactly what the log then has after its start."""
    source, matches = SOURCES[name]
    rng = random.Random(name)
    await write(event_store, rng, 40)
    writers = [asyncio.create_task(write(event_store, random.Random(n), 40)) for n in range(4)]

    async def follow() -> None:
        await asyncio.sleep(rng.uniform(0, 0.3))
        after = rng.randrange(40)
        async with subscribed(event_store, **source, after_position=after) as subscription:
            if "stream" in source:
                await asyncio.gather(*writers)
                due = await read(event_store, **source, after_position=after)
                await subscription.until_received(len(due.events))
            else:
                await until_last(subscription)
            received[after] = subscription.received

    received: dict[int, list] = {}
    followers = [asyncio.create_task(follow()) for _ in range(12)]
    await asyncio.gather(*writers)
    end = append(event_store, append_to("end", make_event(LAST)))
    await asyncio.gather(end, *followers)

    log = [event for event in (await read(event_store)).events if event.type != LAST]
    assert received
    for after, events in received.items():
        check_subscription(events, log, matches, after=after)


async def test_a_subscription_resumed_again_and_again_misses_and_repeats_nothing(event_store):
    """The caller goes away after each few events and resumes with what it saw last."""
    rng = random.Random(5)

    async def write_all() -> None:
        await asyncio.gather(*(write(event_store, random.Random(n), 30) for n in range(3)))
        await append(event_store, append_to("end", make_event(LAST)))

    writing = asyncio.create_task(write_all())
    received: list = []
    while not received or received[-1].type != LAST:
        last = received[-1] if received else None
        async with subscribed(
            event_store,
            after_position=last.position if last else 0,
            after_event_id=last.id if last else "",
        ) as subscription:
            await subscription.until_received(1)
            received += subscription.received[: rng.randrange(1, 20)]
    await writing

    check_subscription(received, (await read(event_store)).events)


async def test_a_resumption_from_heartbeats_misses_nothing(event_store):
    """A narrow query resumed from the checkpoints that heartbeats and `caught_up` tell."""
    query = matching(tags=["rare"])
    received, checkpoint = [], (0, "")
    for n in range(10):
        await append(event_store, *(append_to("noise") for _ in range(5)))
        if n % 3 == 0:
            await append(event_store, append_to("a", make_event("T", "rare")))
        async with subscribed(
            event_store,
            query=query,
            after_position=checkpoint[0],
            after_event_id=checkpoint[1],
            heartbeat_interval=Duration(nanos=100_000_000),
        ) as subscription:
            told = await subscription.until("caught_up" if n % 2 else "heartbeat")
            received += subscription.received
            checkpoint = (told.position, told.event_id)

    log = (await read(event_store)).events
    check_subscription(received, log, lambda event: "rare" in event.tags)
    assert len(received) == 4


# --- slow readers


async def test_who_reads_too_slowly_is_told_and_gets_all_the_same(database_url):
    """A subscriber that stops reading while far more is appended than the feed keeps."""
    payload = b"x" * 100_000
    async with (
        InProcessServer(database_url, feed_bytes=1024 * 1024) as server,
        grpc.aio.insecure_channel(server.address) as channel,
        grpc.aio.insecure_channel(server.address, [("grpc.http2.bdp_probe", 0)]) as slow_channel,
    ):
        event_store = EventStoreServiceStub(channel)
        call = EventStoreServiceStub(slow_channel).Subscribe(
            SubscribeRequest(query=matching(streams=["a"]))
        )
        subscription = Subscription(call)
        await subscription.until("caught_up")

        for _ in range(30):
            await append(
                event_store, append_to("a", *(make_event(data=payload) for _ in range(10)))
            )

        fell_behind = await subscription.until("fell_behind")
        assert fell_behind.position == (
            subscription.received[-1].position if subscription.received else 0
        )
        caught_up = await subscription.until("caught_up")
        assert caught_up.position == 300
        await append(event_store, append_to("a"))
        await subscription.until_received(301)
        call.cancel()

        check_subscription(subscription.received, (await read(event_store)).events)


async def test_a_slow_reader_holds_up_nobody(database_url):
    payload = b"x" * 100_000
    async with (
        InProcessServer(database_url, feed_bytes=1024 * 1024) as server,
        grpc.aio.insecure_channel(server.address) as channel,
        grpc.aio.insecure_channel(server.address, [("grpc.http2.bdp_probe", 0)]) as slow_channel,
    ):
        event_store = EventStoreServiceStub(channel)
        slow = [
            Subscription(
                EventStoreServiceStub(slow_channel).Subscribe(SubscribeRequest(stream="a"))
            )
            for _ in range(5)
        ]
        for subscription in slow:
            await subscription.until("caught_up")
        async with subscribed(event_store, stream="a") as quick:
            await quick.until("caught_up")
            async with asyncio.timeout(3 * WAIT_SECONDS):
                for n in range(1, 101):
                    await append(event_store, append_to("a", make_event(data=payload)))
                    await quick.until_received(n)
        for subscription in slow:
            await subscription.until_received(100)
            subscription.call.cancel()


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "a stream"])
async def test_no_hole_where_history_and_live_change_again_and_again(database_url, name):
    """A feed that remembers almost nothing, appends larger than it, and subscribers that
    pause: each gets everything once all the same."""
    source, matches = SOURCES[name]
    async with (
        InProcessServer(database_url, feed_bytes=20_000) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        event_store = EventStoreServiceStub(channel)

        async def write_large(rng: random.Random) -> None:
            for _ in range(6):
                events = [make_event(rng.choice("ABC"), "x", "y") for _ in range(300)]
                await append(event_store, append_to(f"order-{rng.randrange(3)}", *events))
                await write(event_store, rng, 5)

        async def follow(pause: float) -> Subscription:
            async with subscribed(event_store, **source) as subscription:
                while not (subscription.received and subscription.received[-1].type == LAST):
                    await subscription.next()
                    await asyncio.sleep(pause)
                subscription.received.pop()
            return subscription

        following = [asyncio.create_task(follow(pause)) for pause in (0, 0, 0.001, 0.02)]
        await asyncio.gather(*(write_large(random.Random(n)) for n in range(3)))
        await append(event_store, append_to("end", make_event(LAST)))
        async with asyncio.timeout(60):
            subscriptions = await asyncio.gather(*following)

        log = [event for event in (await read(event_store)).events if event.type != LAST]
        for subscription in subscriptions:
            check_subscription(subscription.received, log, matches)
