"""The live end of the log, over a real SQLite."""

import asyncio
import threading
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from databases import sqlite_url
from plans.logs import event_like, make_event, opened, write
from plans.strategies import EXAMPLES, queries, terms
from treering.v1.event_store_service_pb2 import EventBatch
from treering_server.core import feed as feed_module
from treering_server.core.feed import EVENT_OVERHEAD_BYTES, RING_BYTES, Feed, FellOut
from treering_server.core.query import EVERYTHING, Query, QueryItem, events_of_stream

SECONDS = 10.0


@pytest.fixture
def storage(sqlite_file_url):
    with opened(sqlite_file_url, readers=2) as storage:
        yield storage


@pytest.fixture
def feed(storage):
    """A feed that looks at the database only when it is nudged."""
    return make_feed(storage)


@pytest.fixture
async def following(feed):
    feed.start()
    yield feed
    await feed.stop()


def make_feed(storage, ring_bytes=RING_BYTES):
    return Feed(storage, storage.head(), ring_bytes=ring_bytes, poll_seconds=1_000)


def of_type(*types):
    return Query((QueryItem(types=frozenset(types)),))


def tagged(*tags):
    return Query((QueryItem(tags=frozenset(tags)),))


def ids_in(batch):
    return [event.id for event in EventBatch.FromString(batch.payload).events]


async def publish(feed, storage, *placed):
    """Records events and hands them in, as the writer of this server does."""
    records = write(storage, placed)
    feed.published(records)
    while feed.head < records[-1].position:  # noqa: ASYNC110 - it takes in a large batch by parts
        await asyncio.sleep(0)
    return [str(record.id) for record in records]


async def ended(future):
    async with asyncio.timeout(SECONDS):
        return await future


# --- batches


async def test_a_batch_holds_what_matches_after_a_position(storage, feed):
    placed = [("a", make_event("A")), ("", make_event("B")), ("b", make_event("A"))]
    ids = await publish(feed, storage, *placed)
    with feed.live(of_type("A")) as live:
        batch = feed.batch(live, 0)
        assert (ids_in(batch), batch.position) == ([ids[0], ids[2]], 3)
        assert ids_in(feed.batch(live, 1)) == [ids[2]]
        nothing = feed.batch(live, 3)
        assert (nothing.payload, nothing.position) == (b"", 3)


async def test_who_has_read_further_than_the_feed_knows_stays_there(storage, feed):
    with feed.live(EVERYTHING) as live:
        batch = feed.batch(live, 5)
    assert (batch.payload, batch.position) == (b"", 5)


async def test_equal_queries_are_one_and_share_their_batches(storage, feed):
    with feed.live(of_type("A", "B")) as one, feed.live(of_type("B", "A")) as other:
        assert one is other
        await publish(feed, storage, ("a", make_event("A")))
        assert feed.batch(one, 0) is feed.batch(other, 0)
        await publish(feed, storage, ("a", make_event("B")))
        assert len(ids_in(feed.batch(one, 0))) == 2
        with feed.live(of_type("A")) as another:
            assert another is not one


async def test_a_query_that_nobody_waits_for_any_more_is_forgotten(storage, feed):
    with feed.live(EVERYTHING) as first, feed.live(EVERYTHING):
        pass
    with feed.live(EVERYTHING) as again:
        assert again is not first
    await publish(feed, storage, ("a", make_event()))
    assert not first.woken.done()
    assert not feed._queries
    assert not feed._waiting


async def test_a_batch_is_cut_by_bytes_but_holds_at_least_one_event(storage, feed, monkeypatch):
    ids = await publish(
        feed, storage, *(("a", make_event(data=b"x" * size)) for size in (10, 10, 5_000, 10))
    )
    monkeypatch.setattr(feed_module, "PAGE_BYTES", 400)
    with feed.live(EVERYTHING) as live:
        batches, position = [], 0
        while position < feed.head:
            batch = feed.batch(live, position)
            batches.append(ids_in(batch))
            position = batch.position
    assert batches == [ids[:2], [ids[2]], [ids[3]]]


# --- the ring


async def test_the_ring_is_bounded_by_bytes(storage):
    size = 2_000
    room = 10
    feed = make_feed(storage, ring_bytes=room * (size + 200 + EVENT_OVERHEAD_BYTES))
    with feed.live(EVERYTHING) as live:
        for _ in range(5):
            await publish(feed, storage, *(("a", make_event(data=b"x" * size)) for _ in range(6)))
        held = [after for after in range(feed.head + 1) if feed.holds_after(after)]
        assert len(held) - 1 in (room - 1, room, room + 1)
        assert feed.event_id(held[0]) is None
        assert feed.event_id(held[1]) == storage.event_id(held[1])
        assert len(ids_in(feed.batch(live, held[0]))) == len(held) - 1
        with pytest.raises(FellOut):
            feed.batch(live, held[0] - 1)


async def test_the_last_event_stays_however_large_it_is(storage):
    feed = make_feed(storage, ring_bytes=1)
    with feed.live(EVERYTHING) as live:
        ids = await publish(feed, storage, ("a", make_event()), ("a", make_event(data=b"x" * 999)))
        assert ids_in(feed.batch(live, 1)) == ids[1:]
        with pytest.raises(FellOut):
            feed.batch(live, 0)


async def test_erased_events_are_passed_over(storage, following):
    with following.live(EVERYTHING) as live:
        records = write(storage, [("a", make_event()) for _ in range(3)])
        with storage.write(1) as transaction:
            transaction._execute("UPDATE events SET record = NULL WHERE position = 2")
            transaction.commit()
        woken = live.woken
        following.nudge()
        await ended(woken)
        batch = following.batch(live, 0)
        assert ids_in(batch) == [str(records[0].id), str(records[2].id)]
        assert batch.position == 3


# --- what other servers write


async def test_what_others_wrote_is_fetched_when_somebody_tells_of_it(storage, following):
    with following.live(of_type("B")) as live:
        woken = live.woken
        records = write(storage, [("a", make_event("A")), ("a", make_event("B"))])
        following.nudge()
        assert await ended(woken) == 1
        assert ids_in(following.batch(live, 0)) == [str(records[1].id)]


async def test_what_others_wrote_comes_before_what_this_server_wrote_after_it(storage, following):
    with following.live(EVERYTHING) as live:
        woken = live.woken
        others = write(storage, [("a", make_event())])
        own = write(storage, [("b", make_event())])
        following.published(own)
        await ended(woken)
        assert ids_in(following.batch(live, 0)) == [str(others[0].id), str(own[0].id)]
        following.published(others)
        assert following.head == 2


async def test_a_poll_finds_it_without_being_told(storage):
    feed = Feed(storage, storage.head(), ring_bytes=1_000, poll_seconds=0.01)
    feed.start()
    with feed.live(EVERYTHING) as live:
        woken = live.woken
        write(storage, [("a", make_event())])
        assert await ended(woken) == 0
    await feed.stop()


async def test_it_goes_on_after_whatever_went_wrong(storage, following, monkeypatch):
    """Health is told, and the next look may do better."""

    def fail(*arguments, **named):
        failed.set()
        raise RuntimeError

    failed = threading.Event()
    with following.live(EVERYTHING) as live:
        woken = live.woken
        with monkeypatch.context() as patch:
            patch.setattr(storage, "records", fail)
            following.nudge()
            assert await asyncio.to_thread(failed.wait, SECONDS)
            async with asyncio.timeout(SECONDS):
                while following.available:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        write(storage, [("a", make_event())])
        following.nudge()
        await ended(woken)
        assert following.available


async def test_many_events_of_others_and_of_its_own_arrive_in_order(storage, following):
    """More than one fetch may hold, while this server's own come in between."""
    with following.live(EVERYTHING) as live:
        for _ in range(3):
            write(storage, [("a", make_event()) for _ in range(2_000)])
            following.nudge()
            await publish(following, storage, *(("b", make_event()) for _ in range(700)))
        found, position = [], 0
        while position < following.head:
            batch = following.batch(live, position)
            found += EventBatch.FromString(batch.payload).events
            position = batch.position
    assert [event.position for event in found] == list(range(1, 3 * 2_700 + 1))


# --- who is woken


async def test_only_those_wake_that_match_and_learn_up_to_where_it_was_quiet(storage, feed):
    with ExitStack() as stack:
        matching, others = [
            [stack.enter_context(feed.live(query)) for query in queries]
            for queries in (
                (EVERYTHING, of_type("B"), tagged("x"), events_of_stream("a-1")),
                (of_type("C"), tagged("x", "y"), events_of_stream("a-2")),
            )
        ]
        woken = [live.woken for live in matching]
        await publish(feed, storage, ("", make_event("A")), ("a-1", make_event("B", ["x"])))
        assert [each.result() for each in woken] == [0, 1, 1, 1]
        assert not any(live.woken.done() for live in others + matching)


@pytest.fixture(scope="module")
def shared_storage(tmp_path_factory):
    with opened(sqlite_url(tmp_path_factory.mktemp("feed"))) as storage:
        yield storage


@settings(max_examples=EXAMPLES)
@given(log=st.lists(terms, min_size=1, max_size=6), asked=st.lists(queries, min_size=1, max_size=5))
def test_whoever_has_a_match_is_woken_and_finds_it(shared_storage, log, asked):
    async def run():
        feed = make_feed(shared_storage)
        base = feed.head
        with ExitStack() as stack:
            lives = [stack.enter_context(feed.live(query)) for query in asked]
            woken = [live.woken for live in lives]
            placed = [(terms.stream, event_like(terms)) for terms in log]
            ids = await publish(feed, shared_storage, *placed)
            for query, live, future in zip(asked, lives, woken, strict=True):
                due = [n for n, terms in enumerate(log) if query.matches(terms)]
                assert future.done() == bool(due)
                assert not due or future.result() == base + due[0]
                assert ids_in(feed.batch(live, base)) == [ids[n] for n in due]

    asyncio.run(run())
