"""The live end of the log, over a real SQLite; where others do something, on both databases."""

import asyncio
import threading
import time
from contextlib import ExitStack, asynccontextmanager
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from databases import sqlite_url
from plans.logs import (
    delete,
    erased,
    event_like,
    keep,
    lose_end,
    make_event,
    opened,
    write,
)
from plans.strategies import EXAMPLES, queries, terms
from treering.v1.event_store_service_pb2 import ReadResponse, SubscribeResponse
from treering_server.core import pages
from treering_server.core.errors import StorageUnavailable
from treering_server.core.feed import (
    EVENT_OVERHEAD_BYTES,
    FRESH_SECONDS,
    PUSHED_EVENTS,
    RING_BYTES,
    RUNG_SLEEPERS,
    SHARED_SECONDS,
    Feed,
    FellOut,
)
from treering_server.core.query import EVERYTHING, Query, QueryItem, events_of_stream
from treering_server.core.removal import Rule
from treering_server.core.tail import FEW_RULES
from treering_server.storage import changes

SECONDS = 10.0


@pytest.fixture
def storage(sqlite_file_url):
    with opened(sqlite_file_url, readers=2) as storage:
        yield storage


@pytest.fixture
async def feed(storage):
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


def events_in(batch):
    return SubscribeResponse.FromString(batch.payload).events.events


def ids_in(batch):
    return [event.id for event in events_in(batch)]


def positions_in(batch):
    return [event.position for event in events_in(batch)]


async def publish(feed, storage, *placed):
    """Records events and hands them in, as the writer of this server does."""
    committed = write(storage, placed)
    feed.published(committed)
    last = committed.records[-1].position
    while feed.head < last:  # noqa: ASYNC110 - it takes in a large batch by parts
        await asyncio.sleep(0)
    return [text(record.id) for record in committed.records]


async def ended(future):
    async with asyncio.timeout(SECONDS):
        return await future


async def until(holds):
    async with asyncio.timeout(SECONDS):
        while not holds():  # noqa: ASYNC110 - whatever it is
            await asyncio.sleep(0.01)


def text(event_id):
    return str(UUID(bytes=event_id))


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


async def test_a_batch_is_cut_by_bytes_but_holds_at_least_one_event(storage, feed):
    ids = await publish(
        feed, storage, *(("a", make_event(data=b"x" * size)) for size in (10, 10, 5_000, 10))
    )
    with feed.live(EVERYTHING) as live:
        batches, position = [], 0
        while position < feed.head:
            batch = feed.batch(live, position, 400)
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


# --- what other servers write


async def test_what_others_wrote_is_fetched_when_somebody_tells_of_it(storage, following):
    with following.live(of_type("B")) as live:
        woken = live.woken
        written = write(storage, [("a", make_event("A")), ("a", make_event("B"))])
        following.nudge()
        assert await ended(woken) == 1
        assert ids_in(following.batch(live, 0)) == [text(written.records[1].id)]


async def test_what_others_wrote_comes_before_what_this_server_wrote_after_it(storage, following):
    with following.live(EVERYTHING) as live:
        woken = live.woken
        others = write(storage, [("a", make_event())])
        own = write(storage, [("b", make_event())])
        following.published(own)
        await ended(woken)
        ids = [text(written.records[0].id) for written in (others, own)]
        assert ids_in(following.batch(live, 0)) == ids
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
            await until(lambda: not following.available)
        write(storage, [("a", make_event())])
        following.nudge()
        await ended(woken)
        await until(lambda: following.available)


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
            found += events_in(batch)
            position = batch.position
    assert [event.position for event in found] == list(range(1, 3 * 2_700 + 1))


# --- what is removed


@asynccontextmanager
async def followed(storage, **named):
    """A feed that looks at the database when it is nudged."""
    feed = make_feed(storage, **named)
    feed.start()
    try:
        yield feed
    finally:
        await feed.stop()


@pytest.fixture
def either(database_url):
    """A storage on either database."""
    with opened(database_url, readers=2) as storage:
        yield storage


@pytest.fixture
def others(either, database_url):
    """The storage of another server over the same database. A SQLite file has but one: there
    it is that others do something and tell nobody."""
    if database_url.startswith("sqlite"):
        yield either
        return
    with opened(database_url, readers=2) as storage:
        yield storage


def some(stream, count):
    return [(stream, make_event()) for _ in range(count)]


async def test_a_change_removes_from_the_ring_at_once(storage, feed):
    await publish(feed, storage, *some("a", 3), *some("b", 1), *some("a", 1))
    with feed.live(EVERYTHING) as live, feed.live(EVERYTHING):
        assert positions_in(feed.batch(live, 0)) == [1, 2, 3, 4, 5]
        feed.changed(*keep(storage, "a", truncate_before=3))
        batch = feed.batch(live, 0)
        assert positions_in(batch) == [3, 4, 5]
        feed.changed(*delete(storage, "a"))
        assert positions_in(feed.batch(live, 0)) == [4]
        nothing = feed.batch(live, 4)
        assert (nothing.payload, nothing.position, nothing.last_position) == (b"", 5, 0)
        await publish(feed, storage, *some("a", 1))
        assert positions_in(feed.batch(live, 0)) == [4, 6], "it goes on after its deletion"


async def test_as_a_stream_grows_its_oldest_events_leave_the_ring(storage, feed):
    await publish(feed, storage, *some("a", 3))
    with feed.live(EVERYTHING) as live:
        feed.changed(*keep(storage, "a", max_count=2))
        for position in range(4, 8):
            assert positions_in(feed.batch(live, 0)) == [position - 2, position - 1]
            await publish(feed, storage, *some("a", 1))
        await publish(feed, storage, *some("a", 1_000))
        assert positions_in(feed.batch(live, 0)) == [1_006, 1_007]


async def test_what_a_commit_tells_of_its_streams_is_enough(storage):
    """The ring began after the change: nobody tells of that any more."""
    write(storage, some("a", 5))
    keep(storage, "a", max_count=2)
    feed = make_feed(storage)
    with feed.live(EVERYTHING) as live:
        await publish(feed, storage, *some("a", 3), *some("b", 3))
        assert positions_in(feed.batch(live, feed._tail.base)) == [7, 8, 9, 10, 11]


async def test_a_commit_to_very_many_streams_tells_of_all_of_them(storage):
    names = [f"a-{n}" for n in range(2 * FEW_RULES)]
    write(storage, [(name, make_event()) for name in names])
    for name in names:
        keep(storage, name, max_count=1)
    feed = make_feed(storage)
    base = feed.head
    with feed.live(EVERYTHING) as live:
        await publish(feed, storage, *(each for name in names for each in some(name, 2)))
        assert positions_in(feed.batch(live, base)) == list(range(base + 2, feed.head + 1, 2))


async def test_what_is_too_old_leaves_the_ring_also_for_those_who_share_a_batch(storage, feed):
    await publish(feed, storage, *some("a", 1))
    feed.changed(*keep(storage, "a", max_age=200_000))
    with feed.live(EVERYTHING) as live, feed.live(EVERYTHING):
        await publish(feed, storage, *some("a", 2), *some("b", 1))
        assert positions_in(feed.batch(live, 1)) == [2, 3, 4]
        await until(lambda: positions_in(feed.batch(live, 1)) == [4])


async def test_a_batch_is_shared_for_a_moment_only_while_anything_may_get_too_old(storage, feed):
    await publish(feed, storage, *some("a", 2), *some("b", 1))
    with feed.live(EVERYTHING) as live, feed.live(EVERYTHING):
        first = feed.batch(live, 0)
        await asyncio.sleep(2 * SHARED_SECONDS)
        assert feed.batch(live, 0) is first
        feed.changed(*keep(storage, "a", max_age=10**12))
        ruled = feed.batch(live, 0)
        assert ruled is not first
        await asyncio.sleep(2 * SHARED_SECONDS)
        assert feed.batch(live, 0) is not ruled
        assert feed.batch(live, 0) == ruled == first


async def test_a_permanent_deletion_wakes_who_follows_the_stream(storage, feed):
    await publish(feed, storage, *some("a", 2), *some("b", 1))
    both = Query((QueryItem(streams=frozenset({"a", "b"})),))
    with (
        feed.live(events_of_stream("a")) as live,
        feed.live(events_of_stream("b")) as another,
        feed.live(both) as of_both,
    ):
        woken = live.woken
        feed.changed(*delete(storage, "a"))
        assert not live.is_deleted and not woken.done(), "its name can be used again"
        feed.changed(*delete(storage, "a", permanent=True))
        assert live.is_deleted and woken.result() == 0
        for each in (another, of_both):
            assert not each.is_deleted and not each.woken.done()
        assert positions_in(feed.batch(of_both, 0)) == [3]
    feed.changed(*delete(storage, "nobody's", permanent=True))


# --- what others remove


async def test_what_others_remove_leaves_the_ring_with_the_next_look(either, others):
    async with followed(either) as feed:
        await publish(feed, either, *some("a", 3), *some("b", 2))
        with feed.live(EVERYTHING) as live:
            keep(others, "a", truncate_before=3)
            delete(others, "b")
            assert positions_in(feed.batch(live, 0)) == [1, 2, 3, 4, 5], "nobody told of it"
            await feed.look_again()
            assert positions_in(feed.batch(live, 0)) == [3]
            keep(others, "a", max_count=1)
            await feed.look_again()
            await publish(feed, either, *some("a", 1), *some("b", 1))
            assert positions_in(feed.batch(live, 0)) == [6, 7]


async def test_a_commit_after_a_change_of_others_makes_the_feed_look(either, others):
    async with followed(either) as feed:
        await publish(feed, either, *some("a", 2))
        await feed.look_again()
        delete(others, "a")
        # By then it may have been looked at long ago.
        await asyncio.sleep(2 * FRESH_SECONDS)
        await publish(feed, either, *some("b", 1))
        assert not feed.is_fresh
        with feed.live(EVERYTHING) as live:
            await until(lambda: positions_in(feed.batch(live, 0)) == [3])


async def test_what_others_write_to_ruled_streams_is_fetched_with_its_rules(either, others):
    write(others, [*some("a", 2), *some("b", 2), *some("c", 2)])
    keep(others, "a", max_count=2)
    keep(others, "b", max_age=10**12)
    keep(others, "c", truncate_before=2)
    async with followed(either) as feed:
        base = feed.head
        with feed.live(EVERYTHING) as live:
            write(others, [*some("a", 2), *some("b", 1), *some("c", 1)])
            await feed.look_again()
            assert positions_in(feed.batch(live, base)) == [7, 8, 9, 10]
            await publish(feed, either, *some("a", 1))
            assert positions_in(feed.batch(live, base)) == [8, 9, 10, 11]
            assert feed._tail._rules["b"].rule == Rule(0, None, 10**12)


async def test_what_was_removed_before_it_was_fetched_is_passed_over(either, others):
    async with followed(either) as feed:
        with feed.live(EVERYTHING) as live:
            write(others, [*some("a", 3), *some("b", 1), *some("c", 2)])
            keep(others, "a", truncate_before=3)
            await erased(others)
            delete(others, "b")
            await feed.look_again()
            batch = feed.batch(live, 0)
            assert (positions_in(batch), batch.position) == ([3, 5, 6], 6)
            assert feed.event_id(1) is None
            assert feed.event_id(3) == either.event_id(3)


async def test_others_delete_a_stream_permanently(either, others):
    async with followed(either) as feed:
        await publish(feed, either, *some("a", 1))
        with (
            feed.live(events_of_stream("a")) as live,
            feed.live(events_of_stream("never-written")) as never,
        ):
            woken = [live.woken, never.woken]
            delete(others, "a", permanent=True)
            delete(others, "never-written", permanent=True)
            feed.nudge()
            assert [await ended(each) for each in woken] == [0, 0]
            assert live.is_deleted and never.is_deleted


async def test_more_changes_than_are_told_at_a_time(either, others, monkeypatch):
    monkeypatch.setattr(changes, "CHANGES", 2)
    names = [f"a-{n}" for n in range(7)]
    async with followed(either) as feed:
        await publish(feed, either, *((name, make_event()) for name in names), *some("b", 1))
        for name in names:
            delete(others, name)
        await feed.look_again()
        with feed.live(EVERYTHING) as live:
            assert positions_in(feed.batch(live, 0)) == [8]


# --- looking now


async def test_whoever_asks_waits_for_a_look_that_began_later(storage, monkeypatch):
    began, may_end = threading.Semaphore(0), threading.Semaphore(0)
    news = storage.news

    def slow_news(since):
        found = news(since)
        began.release()
        assert may_end.acquire(timeout=SECONDS)
        return found

    async with followed(storage) as feed:
        await publish(feed, storage, *some("a", 1))
        monkeypatch.setattr(storage, "news", slow_news)
        feed.nudge()
        assert await asyncio.to_thread(began.acquire, timeout=SECONDS)
        # The look that goes on has seen the changes already, and this one is not among them.
        delete(storage, "a")
        asking = asyncio.create_task(feed.look_again())
        may_end.release()
        assert await asyncio.to_thread(began.acquire, timeout=SECONDS)
        assert not asking.done()
        for _ in range(5):
            may_end.release()
        await ended(asking)
        with feed.live(EVERYTHING) as live:
            assert feed.batch(live, 0).payload == b""


async def test_a_look_that_fails_is_told_to_whoever_asked(storage, following, monkeypatch):
    def fail(*arguments, **named):
        raise StorageUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "news", fail)
        asking = [asyncio.create_task(following.look_again()) for _ in range(2)]
        for each in asking:
            with pytest.raises(StorageUnavailable):
                await ended(each)
        assert not following.is_fresh
    await ended(following.look_again())
    assert following.available


async def test_who_gives_up_waiting_for_a_look_leaves_it_to_the_others(following):
    one = asyncio.create_task(following.look_again())
    other = asyncio.create_task(following.look_again())
    await asyncio.sleep(0)
    one.cancel()
    await ended(other)


async def test_it_is_fresh_for_a_moment(storage, following):
    assert not following.is_fresh
    before = time.monotonic()
    await following.look_again()
    assert following.is_fresh or time.monotonic() - before >= FRESH_SECONDS
    await asyncio.sleep(FRESH_SECONDS)
    assert not following.is_fresh
    before = time.monotonic()
    await publish(following, storage, *some("a", 1))
    assert following.is_fresh or time.monotonic() - before >= FRESH_SECONDS, (
        "under the append lock the generation was seen"
    )


# --- whatever happens, in any order

STREAMS = ["a", "b", "c"]
HOURS = 3_600 * 10**6
retentions = st.fixed_dictionaries(
    {},
    optional={
        "max_count": st.integers(1, 3),
        # Of the one everything is too old by the time that anybody looks, of the other nothing.
        "max_age": st.sampled_from([1, HOURS]),
        "truncate_before": st.just(2),
    },
)
steps = st.one_of(
    st.tuples(st.just("write"), st.lists(st.sampled_from(["", *STREAMS]), min_size=1, max_size=4)),
    st.tuples(st.just("keep"), st.sampled_from(STREAMS), retentions),
    st.tuples(st.just("delete"), st.sampled_from(STREAMS), st.booleans()),
    st.tuples(st.just("look")),
    st.tuples(st.just("erase")),
)
doers = st.sampled_from(["this", "this", "this, told late", "another"])


class Doing:
    """Does things to a log, as this server or as another one. Of what this server does the feed
    may hear late, and so in another order; but of commits in theirs."""

    def __init__(self, storage, feed):
        self.storage = storage
        self.feed = feed
        self.base = feed.head
        self.streams = {name: f"{name}-{self.base}" for name in STREAMS} | {"": ""}
        self.living = set()
        self.gone = set()
        self.all_is_own = True
        self.late = []

    async def do(self, step, by):
        match step:
            case ("write", streams):
                names = [self.streams[stream] for stream in streams]
                placed = [(name, make_event()) for name in names if name not in self.gone]
                if placed:
                    self.living |= {name for name, _ in placed if name}
                    self.tell(by, self.feed.published, write(self.storage, placed))
            case ("keep", stream, retention) if self.streams[stream] in self.living:
                change = keep(self.storage, self.streams[stream], **retention)
                self.tell(by, self.feed.changed, *change)
            case ("delete", stream, permanent) if self.streams[stream] in self.living:
                name = self.streams[stream]
                self.living.discard(name)
                self.gone |= {name} if permanent else set()
                change = delete(self.storage, name, permanent=permanent)
                self.tell(by, self.feed.changed, *change)
            case ("look",):
                await self.feed.look_again()
            case ("erase",):
                await erased(self.storage)

    def tell(self, by, hear, *what):
        self.all_is_own = self.all_is_own and by != "another"
        if by == "this, told late":
            self.late.append((hear, what))
        elif by == "this":
            if hear == self.feed.published:
                self.tell_late(self.feed.published)
            hear(*what)

    def tell_late(self, *kinds):
        due = [each for each in self.late if each[0] in kinds]
        self.late = [each for each in self.late if each[0] not in kinds]
        for hear, what in due:
            hear(*what)

    @property
    def held(self):
        with self.feed.live(EVERYTHING) as live:
            return positions_in(self.feed.batch(live, self.base))

    @property
    def there(self):
        walk = pages.walk(self.storage, EVERYTHING, self.base, 10**9, backwards=False)
        page = ReadResponse.FromString(walk.next(10**6).payload)
        return [event.position for event in page.events]


@settings(max_examples=EXAMPLES)
@given(todo=st.lists(st.tuples(steps, doers), min_size=1, max_size=12), changes_first=st.booleans())
def test_after_a_look_the_ring_holds_what_a_read_finds(shared_storage, todo, changes_first):
    """And what this server did itself it holds without any."""

    async def run():
        async with followed(shared_storage) as feed:
            doing = Doing(shared_storage, feed)
            # So that it is at the generation that others have left.
            await feed.look_again()
            for step, by in todo:
                await doing.do(step, by)
            kinds = [feed.published, feed.changed]
            for kind in reversed(kinds) if changes_first else kinds:
                doing.tell_late(kind)
            # So that a microsecond has passed.
            await asyncio.sleep(0.000_01)
            if doing.all_is_own:
                assert doing.held == doing.there
            await feed.look_again()
            assert doing.held == doing.there

    asyncio.run(run())


# --- a new incarnation


async def test_what_came_after_the_fork_is_forgotten(either, others):
    async with followed(either) as feed:
        await publish(feed, either, *some("a", 5))
        await feed.look_again()
        with feed.live(EVERYTHING) as live, feed.live(of_type("nobody's")) as idle:
            assert len(positions_in(feed.batch(live, 0))) == 5
            log_id = lose_end(others, 3)
            woken = [live.woken, idle.woken]
            feed.nudge()
            assert [await ended(each) for each in woken] == [0, 0], "who waits must know"
            await feed.look_again()
            assert (feed.log_id, feed.head) == (log_id, 3)
            assert either.log_id == log_id
            written = write(others, some("b", 1))
            await feed.look_again()
            batch = feed.batch(live, 3)
            assert ids_in(batch) == [text(written.records[0].id)]
            assert batch.position == 4
            assert str(feed.event_id(4)) == text(written.records[0].id)


async def test_a_fork_after_all_that_it_knows_takes_nothing_from_the_ring(either, others):
    async with followed(either) as feed:
        await publish(feed, either, *some("a", 2))
        write(others, some("b", 2))
        with feed.live(EVERYTHING) as live:
            woken = live.woken
            log_id = lose_end(others, 3)
            feed.nudge()
            await ended(woken)
            await feed.look_again()
            assert (feed.log_id, feed.head) == (log_id, 3)
            assert positions_in(feed.batch(live, feed._tail.base)) == list(
                range(feed._tail.base + 1, 4)
            )


async def test_several_forks_at_once(either, others):
    async with followed(either) as feed:
        await publish(feed, either, *some("a", 6))
        lose_end(others, 2)
        write(others, some("b", 6))
        log_id = lose_end(others, 5)
        with feed.live(EVERYTHING) as live:
            await feed.look_again()
            assert (feed.log_id, feed.head) == (log_id, 5)
            assert ids_in(feed.batch(live, 2)) == [str(either.event_id(n)) for n in (3, 4, 5)]


async def test_own_commits_of_the_incarnation_before_are_dropped(either, others):
    async with followed(either) as feed:
        await publish(feed, either, *some("a", 2))
        old = write(either, some("a", 2 * PUSHED_EVENTS + 1))
        log_id = lose_end(others, 2)
        await feed.look_again()
        feed.published(old)
        new = write(others, some("b", 1))
        feed.published(new)
        await until(lambda: feed.head >= 3 and not feed._incoming)
        await feed.look_again()
        assert (feed.log_id, feed.head) == (log_id, 3)
        assert str(feed.event_id(3)) == text(new.records[0].id)


async def test_own_commits_of_the_next_incarnation_wait_until_it_is_known(either, others):
    async with followed(either) as feed:
        await publish(feed, either, *some("a", 3))
        log_id = lose_end(others, 2)
        new = write(either, some("b", 2))
        feed.published(new)
        assert feed.head == 3, "of which history that would be nobody could tell"
        await until(lambda: feed.log_id == log_id and feed.head == 4)
        with feed.live(EVERYTHING) as live:
            assert ids_in(feed.batch(live, 2)) == [text(record.id) for record in new.records]


async def test_half_taken_in_commits_of_the_incarnation_before_are_dropped(either, others):
    async with followed(either) as feed:
        old = write(either, some("a", 3 * PUSHED_EVENTS))
        log_id = lose_end(others, 5)
        feed.published(old)
        await feed.look_again()
        assert not feed._incoming
        assert (feed.log_id, feed.head) == (log_id, 5)
        with feed.live(EVERYTHING) as live:
            new = write(others, some("b", 1))
            await feed.look_again()
            assert ids_in(feed.batch(live, 5)) == [text(new.records[0].id)]


def lose_changes(storage):
    """Takes all changes of streams away, as the loss of the log's end may."""
    with getattr(storage, "_writing", storage._engine).connect() as connection:
        connection.exec_driver_sql("UPDATE log SET generation = 0")
        connection.exec_driver_sql(
            "UPDATE streams SET floor_version = 0, deleted_version = 0, state = 0, changed = NULL, "
            "max_count = NULL, max_age_us = NULL"
        )


async def test_changes_that_the_fork_lost_are_lost_to_the_ring_too(either, others):
    """What was removed by them is there again."""
    async with followed(either) as feed:
        await publish(feed, either, *some("a", 2), *some("b", 2))
        feed.changed(*delete(either, "a"))
        await feed.look_again()
        lose_changes(others)
        lose_end(others, 4)
        await feed.look_again()
        base = feed._tail.base
        with feed.live(EVERYTHING) as live:
            assert positions_in(feed.batch(live, base)) == list(range(base + 1, 5))


async def test_changes_of_the_new_incarnation_are_told_whatever_generation_was_known(
    either, others
):
    async with followed(either) as feed:
        await publish(feed, either, *some("a", 2), *some("b", 2))
        for _ in range(3):
            feed.changed(*keep(either, "a", max_count=2))
        await feed.look_again()
        lose_changes(others)
        lose_end(others, 4)
        delete(others, "b")
        await feed.look_again()
        with feed.live(events_of_stream("b")) as live:
            assert positions_in(feed.batch(live, feed._tail.base)) == []


# --- told in another order than done


async def test_a_commit_told_late_brings_nothing_back_that_was_deleted_after_it(storage, feed):
    """The loop may hear of a commit after it heard of a change that came after that."""
    await publish(feed, storage, *some("a", 1))
    feed.changed(*keep(storage, "a", max_count=5))
    committed = write(storage, some("a", 2))
    feed.changed(*delete(storage, "a"))
    with feed.live(EVERYTHING) as live:
        feed.published(committed)
        assert positions_in(feed.batch(live, 0)) == []


async def test_a_commit_told_late_does_not_bring_a_rule_back_that_ended_after_it(storage, feed):
    await publish(feed, storage, *some("a", 1))
    feed.changed(*keep(storage, "a", max_count=2))
    committed = write(storage, some("a", 2))
    feed.changed(*keep(storage, "a"))
    feed.published(committed)
    await publish(feed, storage, *some("a", 1))
    with feed.live(EVERYTHING) as live:
        assert positions_in(feed.batch(live, 0)) == [2, 3, 4]


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


# --- who sleeps


async def test_thousands_that_sleep_wake_a_few_at_a_time(storage, feed):
    """So that they hold up nobody else: others have their turn in between."""
    counts, done = [], 0

    async def sleep(live):
        nonlocal done
        await live.sleep(1_000)
        done += 1

    with feed.live(EVERYTHING) as live:
        sleepers = [asyncio.create_task(sleep(live)) for _ in range(1_000)]
        await asyncio.sleep(0)
        feed.published(write(storage, some("a", 1)))
        async with asyncio.timeout(SECONDS):
            while done < len(sleepers):
                counts.append(done)
                await asyncio.sleep(0)
    steps = [later - before for before, later in pairwise(counts)]
    assert max(steps) <= RUNG_SLEEPERS
    assert not live.sleepers


async def test_a_sleep_ends_with_time_a_page_a_match_or_the_server(storage, feed):
    async def page():
        pass

    with feed.live(of_type("A")) as live:
        async with asyncio.timeout(SECONDS):
            await live.sleep(0.001)
            await live.sleep(1_000, asyncio.create_task(page()))
        for happens in (
            lambda: feed.published(write(storage, [("a", make_event("A"))])),
            feed.wake_all,
        ):
            sleeping = asyncio.create_task(live.sleep(1_000))
            await asyncio.sleep(0)
            happens()
            await ended(sleeping)
