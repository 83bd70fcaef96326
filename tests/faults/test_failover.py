"""A standby that lacks the end of the log becomes the primary, or a copy of the log is served:
promise 9, by everything that a caller may have been told before."""

import asyncio
import subprocess
import sys
import uuid
from contextlib import AsyncExitStack

import grpc
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration

import treering
from calls import (
    ALL,
    BACKWARDS,
    append,
    append_many,
    append_to,
    fail_if,
    head_of,
    make_event,
    matching,
    new_id,
    next_response,
    read,
    reason_of,
    refused,
    subscribed,
)
from checks import check_log
from databases import PostgresServer, url_at, wait_for
from failover import (
    PASSING,
    BlockingFollower,
    DecidingTraffic,
    LibraryFollower,
    Pair,
    StubFollower,
    as_the_client_gives,
    incarnations_in,
    last_position,
    log_in,
    query,
)
from proxy import Proxy
from runs import count
from servers import InProcessServer, environment
from traffic import SECONDS, connect, stub
from traffic import reason_of as reason_of_error
from treering.v1.event_store_service_pb2 import (
    AppendRequest,
    ReadRequest,
    SubscribeRequest,
)
from treering.v1.stream_service_pb2 import DeleteStreamRequest
from treering.v1.stream_service_pb2_grpc import StreamServiceStub

APPEND_LOCK = "('log'::regclass::oid::bigint + (x'74726565'::bigint << 32))"
"""As in the server: to hold up what it does."""
BIG = b"x" * 200_000
NEVER = Duration(seconds=3600)


@pytest.fixture
async def pair(own_postgres):
    """A primary and its asynchronous standby."""
    url = own_postgres.create_database()
    with await asyncio.to_thread(own_postgres.standby) as standby:
        yield Pair(own_postgres, standby, url)


async def patiently(call, *arguments, **keywords):
    """Repeats a call for as long as it fails for a reason that passes."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                return await call(*arguments, **keywords)
            except grpc.RpcError as error:
                assert reason_of_error(error) in PASSING, error
                await asyncio.sleep(0.02)


async def fill(event_store, count, stream="filled", type="Filled", *tags):
    """Makes so many appends of one event."""
    for _ in range(count):
        await append(event_store, append_to(stream, make_event(type, *tags)))


def under(request, log_id):
    """The same append, decided under a log id."""
    request.expected_log_id = log_id
    return request


def check_diverged(refusal, log_id, head, fork):
    """What a caller is told to go on with."""
    state = refusal.failure.log_state
    told = (state.log_id, state.head_position, state.last_common_position)
    assert told == (log_id, head, fork)


class Callers:
    """Servers, and everybody who calls them, for as long as an `AsyncExitStack` is open."""

    def __init__(self, stack):
        self._stack = stack
        self.addresses, self.stores = [], []
        self._following = []

    async def serve(self, url, **settings):
        """Starts one more server."""
        server = await self._stack.enter_async_context(InProcessServer(url, **settings))
        self.addresses.append(server.address)
        channel = await self._stack.enter_async_context(connect(server.address))
        self.stores.append(stub(channel))
        return self.stores[-1]

    async def clients(self):
        """A client of the library for each server."""
        clients = [treering.AsyncClient(address, timeout=SECONDS) for address in self.addresses]
        return [await self._stack.enter_async_context(client) for client in clients]

    def blocking_client(self):
        """A blocking one of the last server."""
        return self._stack.enter_context(treering.Client(self.addresses[-1], timeout=SECONDS))

    def follow(self, *followers):
        """Starts followers."""
        self._following += [
            (follower, asyncio.create_task(follower.follow())) for follower in followers
        ]

    def look(self):
        """Fails with the first follower that has failed."""
        for _, task in self._following:
            if task.done():
                task.result()

    async def until(self, condition):
        """Waits until something is so, unless a follower fails."""
        async with asyncio.timeout(SECONDS):
            while not condition():
                self.look()
                await asyncio.sleep(0.01)

    async def finish(self):
        """Appends one more event, and waits until all followers have come there: they
        themselves, and the answer to that append."""
        goal = (await head_of(self.stores[0])).head_position + 1
        for follower, _ in self._following:
            follower.goal = goal
        last = await append(self.stores[0], append_to("quiet-1"))
        async with asyncio.timeout(SECONDS):
            await asyncio.gather(*(task for _, task in self._following))
        return [follower for follower, _ in self._following], last


# --- under load


WAYS = ["one server", "two servers", "several hosts", "before it is promoted"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_lost_end_under_load(pair, way):
    """Several hosts: in the URL, as PostgreSQL's own clients take it. Before it is promoted:
    the standby is reached while it is one still."""
    async with AsyncExitStack() as stack:
        switches = [stack.enter_context(pair.switch()) for _ in range(2)]
        callers = Callers(stack)
        for number in range(1 if way == "one server" else 2):
            url = (
                url_at(pair.url, pair.primary.port, pair.standby.port)
                if way == "several hosts"
                else pair.url_through(switches[number])
            )
            # The second one's subscribers fall out of its memory again and again.
            await callers.serve(url, feed_bytes=20_000 if number else 2**26)
        stores, clients = callers.stores, await callers.clients()
        for _ in range(12):
            await append(stores[0], append_to("big", make_event("Big", data=BIG)))
        await append(stores[0], append_to("quiet-1"))
        old_id = (await head_of(stores[0])).log_id

        live = [
            *(StubFollower(store) for store in stores),
            StubFollower(
                stores[-1], lambda event: event.type == "Guarded", query=matching(types=["Guarded"])
            ),
            LibraryFollower(clients[-1]),
            BlockingFollower(callers.blocking_client()),
        ]
        quiet = StubFollower(
            stores[0], lambda event: event.stream == "quiet-1", heartbeat=8, stream="quiet-1"
        )
        callers.follow(*live, quiet)
        await callers.until(quiet.caught_up.is_set)
        async with DecidingTraffic(stores, clients) as traffic:
            await traffic.more(60)
            await pair.cut_off()
            await traffic.more(120)
            to_lose = last_position(pair.standby_url)
            await callers.until(lambda: all(each.done > to_lose for each in live))
            callers.follow(
                *(StubFollower(store, pause=0.1) for store in stores),
                *(StubFollower(store, pause=0.02) for store in stores),
            )
            await traffic.more(5)
            if way == "before it is promoted":
                await asyncio.to_thread(pair.primary.kill)
                for switch in switches:
                    switch.turn_to(pair.standby)
                await asyncio.sleep(1)
                await asyncio.to_thread(pair.standby.promote)
            else:
                await pair.fail_over()
                for switch in switches:
                    switch.turn_to(pair.standby)
            await traffic.more(120)
        followers, last = await callers.finish()
        log = (await read(stores[-1])).events

    [(_, first_id, _), (ordinal, new_id, first_position)] = incarnations_in(pair.standby_url)
    assert (first_id, ordinal, last.log_id) == (old_id, 2, new_id)
    fork = first_position - 1
    assert log == log_in(pair.standby_url)
    logs = {old_id: await pair.lost_log(), new_id: log}
    assert logs[old_id][:fork] == log[:fork]
    assert len(logs[old_id]) > fork, "nothing was lost"
    traffic.check_logs(logs)
    assert traffic.refused["LOG_DIVERGED"] > 0
    for follower in followers:
        follower.check(logs, {old_id: fork})
    assert all(len(each.losses) == 1 for each in live)
    count({"postgresql: failovers that lose an end": 1})


async def test_a_synchronous_standby_lacks_nothing(pair):
    pair.primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    pair.primary.execute("SELECT pg_reload_conf()")
    is_waited_for = "SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
    await asyncio.to_thread(wait_for, pair.url, is_waited_for)
    async with AsyncExitStack() as stack:
        switches = [stack.enter_context(pair.switch()) for _ in range(2)]
        callers = Callers(stack)
        for switch in switches:
            await callers.serve(pair.url_through(switch))
        stores, clients = callers.stores, await callers.clients()
        old_id = (await head_of(stores[0])).log_id
        callers.follow(*map(StubFollower, stores), *map(LibraryFollower, clients))
        async with DecidingTraffic(stores, clients, seed=2) as traffic:
            await traffic.more(150)
            await pair.fail_over()
            for switch in switches:
                switch.turn_to(pair.standby)
            await traffic.more(100)
        followers, _ = await callers.finish()
        log = (await read(stores[0])).events

    [(_, first_id, _), (_, new_id, first_position)] = incarnations_in(pair.standby_url)
    assert first_id == old_id
    logs = {old_id: log[: first_position - 1], new_id: log}
    assert max(traffic.told[old_id].values()) < first_position
    traffic.check_logs(logs)
    for follower in followers:
        follower.check(logs, {})
        assert not follower.losses


# --- what callers know


async def test_what_a_checkpoint_is_worth(pair):
    with pair.switch() as switch:
        async with (
            InProcessServer(pair.url_through(switch)) as server,
            connect(server.address) as channel,
            treering.AsyncClient(server.address) as client,
        ):
            store = stub(channel)
            await fill(store, 20)
            await pair.cut_off_here()
            await fill(store, 10)
            old = await read(store)
            assert await pair.fail_over() == 20
            switch.turn_to(pair.standby)

            # Before anything is appended.
            head = await patiently(lambda: head_of(store))
            assert (head.head_position, head.log_id == old.log_id) == (20, False)
            new = await read(store)
            assert (new.events, new.log_id) == (old.events[:20], head.log_id)
            await check_checkpoints(store, old, new)
            refusal = await refused(
                store.Subscribe(
                    SubscribeRequest(query=ALL, after_position=25, after_event_id=old.events[24].id)
                ),
                "POSITION_AHEAD_OF_LOG",
            )
            assert refusal.failure.log_state.log_id == head.log_id

            await fill(store, 15)
            new = await read(store)
            check_log(new.events)
            assert (len(new.events), new.log_id) == (35, head.log_id)
            await check_checkpoints(store, old, new)
            # Only the event's id tells that it is another one.
            for position in (21, 30):
                refusal = await refused(
                    store.Subscribe(
                        SubscribeRequest(
                            query=ALL,
                            after_position=position,
                            after_event_id=old.events[position - 1].id,
                        )
                    ),
                    "LOG_DIVERGED",
                )
                check_diverged(refusal, new.log_id, 35, 20)
            await check_library(client, old, new)
            await check_versions_and_ends(store, old, new)


async def check_checkpoints(store, old, new):
    """Up to the fork, after 20, they are good; later ones are void."""
    head = new.head_position
    for position in (0, 1, 19, 20):
        for event_id in {"", old.events[position - 1].id if position else ""}:
            async with subscribed(
                store,
                after_position=position,
                after_event_id=event_id,
                expected_log_id=old.log_id,
            ) as subscription:
                _, started = await subscription.next()
                assert (started.log_id, started.after_position) == (new.log_id, position)
                assert started.head_position == head
                due = new.events[position:]
                assert await subscription.until_received(len(due)) == due
        answer = await read(store, after_position=position, expected_log_id=old.log_id)
        assert (answer.events, answer.log_id) == (new.events[position:], new.log_id)
        assert (await read(store, after_position=position, expected_log_id=new.log_id)) == answer
    for position in (21, 25, 30, 10**9):
        for event_id in {"", old.events[min(position, 30) - 1].id}:
            asked = SubscribeRequest(
                query=ALL,
                after_position=position,
                after_event_id=event_id,
                expected_log_id=old.log_id.upper(),
            )
            check_diverged(
                await refused(store.Subscribe(asked), "LOG_DIVERGED"), new.log_id, head, 20
            )
        for source in ({"query": ALL}, {"stream": "filled"}):
            for direction in (0, BACKWARDS):
                asked = ReadRequest(
                    after_position=position,
                    expected_log_id=old.log_id,
                    direction=direction,
                    **source,
                )
                check_diverged(
                    await refused(store.Read(asked), "LOG_DIVERGED"), new.log_id, head, 20
                )
    # What begins at the end, or in the beginning, was learnt under no id.
    answer = await read(store, expected_log_id=old.log_id, direction=BACKWARDS)
    assert answer.events == new.events[::-1]
    async with subscribed(store, from_head=True, expected_log_id=old.log_id) as subscription:
        assert (await subscription.until("started")).after_position == head
    never = str(uuid.uuid4())
    await refused(store.Read(ReadRequest(query=ALL, expected_log_id=never)), "LOG_MISMATCH")
    await refused(
        store.Subscribe(SubscribeRequest(query=ALL, expected_log_id=never)), "LOG_MISMATCH"
    )


async def check_versions_and_ends(store, old, new):
    """What else a caller learnt under the old id: a version of the stream, which has all events,
    and where a read is to end."""
    for version in (0, 1, 20):
        stream = {"stream": "filled", "after_version": version, "expected_log_id": old.log_id}
        assert (await read(store, **stream)).events == new.events[version:]
        async with subscribed(store, **stream) as subscription:
            due = new.events[version:]
            assert await subscription.until_received(len(due)) == due
    for version in (21, 30):
        stream = {"stream": "filled", "after_version": version, "expected_log_id": old.log_id}
        await refused(store.Read(ReadRequest(**stream)), "LOG_DIVERGED")
        await refused(store.Subscribe(SubscribeRequest(**stream)), "LOG_DIVERGED")
    answer = await read(store, until_position=20, expected_log_id=old.log_id)
    assert answer.events == new.events[:20]
    asked = ReadRequest(query=ALL, after_position=10, until_position=30, expected_log_id=old.log_id)
    await refused(store.Read(asked), "LOG_DIVERGED")


async def check_library(client, old, new):
    """An exception tells where to go on, and from there on all is well."""
    void = treering.Checkpoint(old.log_id, 25, old.events[24].id)
    with pytest.raises(treering.LogDiverged) as caught:
        async for _ in client.subscribe(after=void):
            pass
    assert (caught.value.log_id, caught.value.last_common_position) == (new.log_id, 20)
    good = treering.Checkpoint(caught.value.log_id, caught.value.last_common_position)
    ids = []
    async with client.subscribe(after=good) as subscription:
        async for event in subscription.events():
            ids.append(str(event.id))
            if len(ids) == 15:
                break
    assert ids == [event.id for event in new.events[20:]]
    assert subscription.checkpoint == treering.Checkpoint(new.log_id, 35, ids[-1])
    with pytest.raises(treering.LogDiverged):
        await client.append("filled", treering.Event("A"), expected_log_id=old.log_id)
    with pytest.raises(treering.LogDiverged):
        await client.read(after_position=21, expected_log_id=old.log_id).to_list()


async def test_what_becomes_of_open_calls(pair):
    heartbeats = Duration(nanos=100_000_000)
    with pair.switch() as switch:
        async with (
            AsyncExitStack() as stack,
            InProcessServer(pair.url_through(switch)) as server,
            connect(server.address) as channel,
        ):
            store = stub(channel)
            to_server = stack.enter_context(Proxy(server.address))
            client = await stack.enter_async_context(treering.AsyncClient(to_server.address))

            async def subscribe(**fields):
                return await stack.enter_async_context(subscribed(store, **fields))

            await append(store, append_to("quiet"))
            for _ in range(5):
                await append(store, append_to("big", *(make_event(data=BIG) for _ in range(5))))
            fork = (await head_of(store)).head_position
            await pair.cut_off_here()
            told_of_less = [
                await subscribe(stream="quiet", heartbeat_interval=NEVER),
                await subscribe(query=matching(tags=["none"]), heartbeat_interval=NEVER),
                await subscribe(from_head=True, stream="quiet", heartbeat_interval=NEVER),
            ]
            told_of_more = [
                await subscribe(),
                await subscribe(stream="quiet", heartbeat_interval=heartbeats),
            ]
            for subscription in (*told_of_less, *told_of_more):
                assert (await subscription.until("caught_up")).position == fork
            for _ in range(5):
                await append(store, append_to("big", *(make_event(data=BIG) for _ in range(5))))
            lost_head = await head_of(store)
            told_of_more.append(await subscribe(from_head=True, heartbeat_interval=NEVER))
            for subscription in told_of_more:
                while subscription.done < lost_head.head_position:
                    await subscription.next()
            log = (await read(store)).events
            # Too much to be under way at a time: what comes later is read later.
            of_all = store.Read(ReadRequest(query=ALL))
            of_what_remains = store.Read(ReadRequest(query=ALL, until_position=fork))
            begun = [await of_all.read(), await of_what_remains.read()]
            reading = client.read()
            read_by_client = [await anext(reading)]
            to_server.cut()

            assert await pair.fail_over() == fork
            switch.turn_to(pair.standby)
            new_id = (await patiently(lambda: head_of(store))).log_id
            for subscription in told_of_more:
                check_diverged(await subscription.end(), new_id, fork, fork)
            for subscription in told_of_less:
                fell_behind = await subscription.until("fell_behind")
                assert fell_behind.log_id == new_id
                assert fell_behind.position <= fork
                assert (await subscription.until("caught_up")).position == fork
            await patiently(lambda: append(store, append_to("quiet"), append_to("quiet")))
            first, _, from_head = told_of_less
            assert len(await first.until_received(3)) == 3
            assert [event.position for event in first.received] == [1, fork + 1, fork + 2]
            await from_head.until_received(2)
            assert [event.version for event in from_head.received] == [2, 3]

            # A read shows one state of the log, or ends.
            assert await rest(of_all, begun) in {"LOG_DIVERGED", "STORAGE_UNAVAILABLE"}
            assert await rest(of_what_remains, begun) in {"OK", "STORAGE_UNAVAILABLE"}
            for response in begun:
                assert response.log_id == lost_head.log_id
                for event in response.events:
                    assert event == log[event.position - 1]
            # So does one of the client library, which calls again where a call breaks.
            await fill(store, len(log) - fork)
            with pytest.raises(treering.LogDiverged) as raised:
                read_by_client.extend([event async for event in reading])
            assert raised.value.last_common_position == fork
            assert read_by_client == as_the_client_gives(log[: len(read_by_client)])


async def rest(call, responses):
    """Takes all that a read still brings, and tells how it ended."""
    try:
        while (response := await next_response(call)) is not grpc.aio.EOF:
            responses.append(response)
    except grpc.RpcError as error:
        return reason_of_error(error)
    return "OK"


async def test_decisions_are_made_on_what_is_left(pair):
    """One server has seen the end that is lost; the other goes on first. What the one keeps in
    memory must not count."""
    with pair.switch() as to_one, pair.switch() as to_other:
        async with AsyncExitStack() as stack:
            callers = Callers(stack)
            one = await callers.serve(pair.url_through(to_one))
            other = await callers.serve(pair.url_through(to_other))
            streams_of_one, streams_of_other = [
                StreamServiceStub(await stack.enter_async_context(connect(address)))
                for address in callers.addresses
            ]
            for stream in ("kept", "doomed", "spared"):
                await append(one, append_to(stream, make_event("Old"), make_event("Old")))
            await pair.cut_off_here()
            # The end that is lost: a name, a tag, a version, and a deletion.
            lost_events = [make_event("Lost", "first"), make_event("Lost")]
            await append(one, append_to("kept", *lost_events, expected_version=2))
            await append(one, append_to("lost-1", make_event("Lost"), expected_version=0))
            await append(one, AppendRequest(events=[make_event("Old", "taken")]))
            await streams_of_one.DeleteStream(DeleteStreamRequest(stream="spared"))
            old = await head_of(one)
            assert old.head_position == 10
            assert (await read(one, stream="spared")).stream_version == 0
            guarded = AppendRequest(
                events=[make_event("Guarded", "taken")],
                conditions=[fail_if(matching(tags=["taken"]), after=10)],
            )
            await append(one, guarded)
            async with await psycopg.AsyncConnection.connect(pair.url, autocommit=True) as holder:
                await holder.execute(f"SELECT pg_advisory_lock({APPEND_LOCK})".encode())
                # What is looked at before the lock is looked at in the log that is lost.
                request = AppendRequest(
                    events=[make_event("Waited", "second")],
                    conditions=[fail_if(matching(tags=["second"]), after=6)],
                )
                waiting = one.Append(request)
                await asyncio.sleep(0.3)
                await pair.fail_over()

            to_other.turn_to(pair.standby)
            second = AppendRequest(events=[make_event("New", "second")])
            answer = await patiently(lambda: append(other, second))
            assert answer.first_position == 7
            await append(other, append_to("new-1", make_event("New"), expected_version=0))
            await streams_of_other.DeleteStream(DeleteStreamRequest(stream="doomed"))
            to_one.turn_to(pair.standby)

            try:
                refusal = await refused(waiting, "CONDITION_FAILED")
            except AssertionError:
                # It was away for too long.
                refusal = await refused_at_last(lambda: one.Append(request), "CONDITION_FAILED")
            assert refusal.failure.condition_failed.position == 7
            new = await patiently(lambda: head_of(one))
            assert new.log_id == answer.log_id
            assert new.head_position == 8

            # Expectations, conditions and ids.
            for expected, reason in ((4, "VERSION_CONFLICT"), (3, "VERSION_CONFLICT")):
                conflict = await refused(
                    one.Append(append_to("kept", expected_version=expected)), reason
                )
                assert conflict.failure.version_conflict.actual_version == 2
            await refused(one.Append(append_to("lost-1", expected_exists=True)), "VERSION_CONFLICT")
            ahead = AppendRequest(
                events=[make_event()], conditions=[fail_if(matching(tags=["taken"]), after=11)]
            )
            await refused(one.Append(ahead), "POSITION_AHEAD_OF_LOG")
            free = AppendRequest(
                events=[make_event("Old", "taken")],
                conditions=[fail_if(matching(tags=["taken"]), after=0)],
            )
            assert (await append(one, free)).first_position == 9
            again = await append(one, append_to("kept", *lost_events, expected_version=2))
            assert (again.first_position, again.duplicate) == (10, False)
            for log_id, reason in ((old.log_id, "LOG_DIVERGED"), (new_id(), "LOG_MISMATCH")):
                for store in (one, other):
                    stale = under(append_to("kept", expected_version=4), log_id)
                    refusal = await refused(store.Append(stale), reason)
            [result, fine] = await append_many(
                one, under(append_to("kept"), old.log_id), under(append_to("kept"), new.log_id)
            )
            assert reason_of(result.failure) == "LOG_DIVERGED"
            assert result.failure.log_state.last_common_position == 6
            assert fine.appended.first_position == 12
            repeat = under(append_to("kept", *lost_events, expected_version=2), old.log_id)
            assert (await append(one, repeat)).duplicate, "which is looked for first"

            # Names have other numbers now, and other streams are deleted.
            await append(one, append_to("lost-1", make_event("Lost"), make_event("Newer")))
            await append(other, append_to("newer-1", make_event("Newer"), make_event("New")))
            log = [event for event in log_in(pair.standby_url) if event.stream != "doomed"]
            for store in (one, other):
                assert (await read(store)).events == log
                for type in ("Old", "Lost", "New", "Newer"):
                    found = await read(store, query=matching(types=[type]))
                    assert found.events == [event for event in log if event.type == type]
                for category in ("kept", "lost", "new", "newer", "spared"):
                    found = await read(store, query=matching(categories=[category]))
                    assert found.events == [
                        event for event in log if event.stream.partition("-")[0] == category
                    ]
                assert (await read(store, stream="spared")).versions == [1, 2]
                assert (await read(store, stream="doomed")).stream_version == 0


async def refused_at_last(call, reason):
    """Repeats a call until it is refused for good, which must be for this reason."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                return await refused(call(), reason)
            except AssertionError as error:
                assert "STORAGE_UNAVAILABLE" in str(error) or "OUTCOME_UNKNOWN" in str(error)
                await asyncio.sleep(0.02)


# --- beginning an incarnation


async def test_two_servers_begin_one(pair):
    """Both notice at the same time, and wait for the same lock."""
    with pair.switch() as to_one, pair.switch() as to_other:
        async with AsyncExitStack() as stack:
            callers = Callers(stack)
            one = await callers.serve(pair.url_through(to_one, application_name="one"))
            other = await callers.serve(pair.url_through(to_other, application_name="other"))
            await fill(one, 5)
            old_id = (await head_of(other)).log_id
            await pair.cut_off_here()
            await fill(other, 2)
            await pair.fail_over()
            async with await psycopg.AsyncConnection.connect(
                pair.standby_url, autocommit=True
            ) as holder:
                await holder.execute(f"SELECT pg_advisory_lock({APPEND_LOCK})".encode())
                to_one.turn_to(pair.standby)
                to_other.turn_to(pair.standby)
                heads = [
                    asyncio.create_task(patiently(lambda store=store: head_of(store)))
                    for store in (one, other)
                ]
                appends = [
                    asyncio.create_task(
                        patiently(lambda store=store: append(store, append_to("both")))
                    )
                    for store in (one, other)
                ]
                waiting = """
                    SELECT count(DISTINCT application_name) = 2 FROM pg_locks
                    JOIN pg_stat_activity USING (pid)
                    WHERE locktype = 'advisory' AND NOT granted
                """
                await asyncio.to_thread(wait_for, pair.standby_url, waiting)
                assert len(incarnations_in(pair.standby_url)) == 1
            async with asyncio.timeout(SECONDS):
                answers = await asyncio.gather(*heads, *appends)
            [(_, first_id, _), (ordinal, new_id, first)] = incarnations_in(pair.standby_url)
            assert (first_id, ordinal, first) == (old_id, 2, 6)
            assert {answer.log_id for answer in answers} == {new_id}
            assert [(await head_of(store)).head_position for store in (one, other)] == [7, 7]


async def test_one_failover_after_another(pair):
    with pair.switch() as switch:
        async with (
            InProcessServer(pair.url_through(switch)) as server,
            connect(server.address) as channel,
        ):
            store = stub(channel)
            await fill(store, 10)
            ids = [(await head_of(store)).log_id]
            await pair.cut_off_here()
            await fill(store, 5)
            await pair.fail_over()
            switch.turn_to(pair.standby)
            await patiently(lambda: fill(store, 10))
            ids.append((await head_of(store)).log_id)
            with await asyncio.to_thread(pair.standby.standby) as third:
                later = Pair(pair.standby, third, pair.standby_url)
                await later.cut_off_here()
                await fill(store, 5)
                assert await later.fail_over() == 20
                switch.turn_to(third)
                await patiently(lambda: fill(store, 10))
                ids.append((await head_of(store)).log_id)
                rows = incarnations_in(later.standby_url)
                assert rows == [(1, ids[0], 1), (2, ids[1], 11), (3, ids[2], 21)]
                for log_id, fork in zip(ids, (10, 20, 30), strict=True):
                    answer = await read(store, after_position=fork, expected_log_id=log_id)
                    assert len(answer.events) == 30 - fork
                    if fork < 30:
                        asked = ReadRequest(
                            query=ALL, after_position=fork + 1, expected_log_id=log_id
                        )
                        refusal = await refused(store.Read(asked), "LOG_DIVERGED")
                        check_diverged(refusal, ids[2], 30, fork)


async def test_an_incarnation_that_is_lost_itself(pair):
    """The second standby to be promoted never heard of the first one's time: what callers know
    of that is of no log that it had. For the rest the server just goes on."""
    with (
        pair.switch() as switch,
        await asyncio.to_thread(pair.primary.standby) as second,
    ):
        async with (
            InProcessServer(pair.url_through(switch)) as server,
            connect(server.address) as channel,
        ):
            store = stub(channel)
            await fill(store, 10)
            first_id = (await head_of(store)).log_id
            await Pair(pair.primary, second, pair.url).cut_off_here()
            await pair.cut_off_here()
            await pair.fail_over()
            switch.turn_to(pair.standby)
            await patiently(lambda: fill(store, 5))
            lost = await head_of(store)
            async with (
                subscribed(store, after_position=8, expected_log_id=first_id) as told_of_more,
                subscribed(store, stream="other", heartbeat_interval=NEVER) as told_of_id,
            ):
                await told_of_more.until_received(7)
                assert (await told_of_id.until("started")).log_id == lost.log_id
                await told_of_id.until("caught_up")
                await asyncio.to_thread(pair.standby.kill)
                await asyncio.to_thread(second.promote)
                switch.turn_to(second)
                await patiently(lambda: fill(store, 7))
                for subscription in (told_of_more, told_of_id):
                    # Or it is to call again, and is told then.
                    refusal = await subscription.end()
                    assert refusal.reason in {"LOG_MISMATCH", "STORAGE_UNAVAILABLE"}
            now = await head_of(store)
            assert (now.head_position, now.log_id in {first_id, lost.log_id}) == (17, False)
            for position in (10, 15):
                asked = SubscribeRequest(
                    query=ALL, after_position=position, expected_log_id=lost.log_id
                )
                await refused(store.Subscribe(asked), "LOG_MISMATCH")
            await refused(store.Append(under(append_to("other"), lost.log_id)), "LOG_MISMATCH")
            asked = SubscribeRequest(query=ALL, after_position=11, expected_log_id=first_id)
            check_diverged(
                await refused(store.Subscribe(asked), "LOG_DIVERGED"), now.log_id, 17, 10
            )
            # From history to live.
            async with subscribed(
                store, after_position=10, expected_log_id=first_id
            ) as subscription:
                assert (await subscription.until("caught_up")).position == 17
                await fill(store, 3)
                await subscription.until_received(10)
                assert [event.position for event in subscription.received] == [*range(11, 21)]


async def test_a_role_that_may_not_ask_who_the_cluster_is(own_postgres):
    """It serves in turn with one that may: that alone is no new cluster."""
    url = own_postgres.create_database()
    await serve_and_fill(url, 1)
    for statement in (
        "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC",
        "CREATE ROLE plain LOGIN",
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO plain",
    ):
        query(url, statement)
    await serve_and_fill(url.replace("postgres@", "plain@"), 1)
    await serve_and_fill(url, 1)
    await serve_and_fill(url.replace("postgres@", "plain@"), 1)
    [(ordinal, _, first_position)] = incarnations_in(url)
    assert (ordinal, first_position) == (1, 1)
    assert last_position(url) == 4


async def test_a_fork_by_a_role_that_may_not_ask_who_the_cluster_is(own_postgres):
    """It is one fork, and not another one once somebody serves who may ask."""
    url = own_postgres.create_database()
    await serve_and_fill(url, 1)
    for statement in (
        "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC",
        "CREATE ROLE forker LOGIN",
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO forker",
    ):
        query(url, statement)
    await asyncio.to_thread(fork_by_hand, url.replace("postgres@", "forker@"))
    await serve_and_fill(url, 1)
    assert [(ordinal, first) for ordinal, _, first in incarnations_in(url)] == [(1, 1), (2, 2)]


@pytest.mark.parametrize("how", ["fast", "immediate"])
async def test_a_restart_of_the_same_primary_begins_none(own_postgres, how):
    url = own_postgres.create_database()
    async with InProcessServer(url) as server, connect(server.address) as channel:
        store = stub(channel)
        await fill(store, 3)
        before = await head_of(store)
        async with subscribed(store, expected_log_id=before.log_id) as subscription:
            await subscription.until_received(3)
            await asyncio.to_thread(own_postgres.restart, how)
            request = under(append_to("filled", expected_version=3), before.log_id)
            answer = await patiently(lambda: append(store, request))
            assert (answer.log_id, answer.first_position) == (before.log_id, 4)
            await subscription.until_received(4)
    async with InProcessServer(url) as server, connect(server.address) as channel:
        after = await head_of(stub(channel))
    assert (after.log_id, after.head_position) == (before.log_id, 4)
    assert incarnations_in(url) == [(1, before.log_id, 1)]


# --- copies


async def check_copy(url, copy_url, fork):
    """A copy of a log that goes on by itself after a position, while the log went on, too."""
    async with AsyncExitStack() as stack:
        callers = Callers(stack)
        store, copy = await callers.serve(url), await callers.serve(copy_url)
        log, copied = await read(store), await read(copy)
        # Told before anything is appended.
        assert copied.log_id != log.log_id
        assert copied.events == log.events[:fork]
        assert (await head_of(copy)).log_id == copied.log_id
        assert incarnations_in(copy_url) == [(1, log.log_id, 1), (2, copied.log_id, fork + 1)]
        await refused(copy.Append(under(append_to("filled"), log.log_id)), "LOG_DIVERGED")
        answer = await read(copy, after_position=fork, expected_log_id=log.log_id)
        assert (answer.events, answer.log_id) == ([], copied.log_id)
        for _ in range(2):
            asked = SubscribeRequest(
                query=ALL, after_position=log.head_position, expected_log_id=log.log_id
            )
            refusal = await refused(copy.Subscribe(asked), "LOG_DIVERGED")
            check_diverged(refusal, copied.log_id, (await head_of(copy)).head_position, fork)
            await fill(copy, 5)
        # The log itself is none the wiser.
        await append(store, under(append_to("filled"), log.log_id))
        await refused(store.Append(under(append_to("filled"), copied.log_id)), "LOG_MISMATCH")
        assert incarnations_in(url) == [(1, log.log_id, 1)]


async def serve_and_fill(url, count):
    """Serves a database for a while."""
    async with InProcessServer(url) as server, connect(server.address) as channel:
        await fill(stub(channel), count)


async def test_a_dump_that_is_loaded_elsewhere(own_postgres):
    url = own_postgres.create_database()
    await serve_and_fill(url, 10)
    dump = str(own_postgres.directory / "dump")
    await asyncio.to_thread(own_postgres.run, "pg_dump", "-Fc", "-f", dump, url)
    await serve_and_fill(url, 5)
    with PostgresServer() as elsewhere:
        copy_url = elsewhere.create_database()
        await asyncio.to_thread(own_postgres.run, "pg_restore", "-d", copy_url, dump)
        await check_copy(url, copy_url, 10)


async def test_a_restore_to_a_point_in_time(own_postgres):
    url = own_postgres.create_database()
    async with InProcessServer(url) as server, connect(server.address) as channel:
        store = stub(channel)
        await fill(store, 10)
        backup = await asyncio.to_thread(own_postgres.standby)
        try:
            await fill(store, 5)
            own_postgres.execute("SELECT pg_create_restore_point('here')")
            await fill(store, 5)
            await asyncio.to_thread(backup.recover_to, "here", own_postgres)
            copy_url = url_at(url, backup.port)
            assert last_position(copy_url) == 15
            await check_copy(url, copy_url, 15)
        finally:
            await asyncio.to_thread(backup.remove)


def fork_by_hand(url):
    """What an operator does where PostgreSQL shows no difference."""
    subprocess.run(
        [sys.executable, "-m", "treering", "fork", "--database-url", url],
        check=True,
        capture_output=True,
        env=environment(),
    )


async def test_a_copy_beside_it_is_forked_by_hand(postgres, postgres_url):
    await serve_and_fill(postgres_url, 10)
    copy_url = postgres.create_database(template=postgres_url.rpartition("/")[2])
    try:
        await serve_and_fill(postgres_url, 5)
        await asyncio.to_thread(fork_by_hand, copy_url)
        await check_copy(postgres_url, copy_url, 10)
    finally:
        postgres.drop_database(copy_url)


async def test_a_fork_by_hand_of_a_log_that_is_served(postgres_url):
    """It goes on under another id, and nobody loses anything."""
    async with AsyncExitStack() as stack:
        callers = Callers(stack)
        stores = [await callers.serve(postgres_url) for _ in "ab"]
        clients = await callers.clients()
        old = await head_of(stores[0])
        callers.follow(*map(StubFollower, stores), LibraryFollower(clients[0]))
        async with DecidingTraffic(stores, clients, seed=3) as traffic:
            await traffic.more(40)
            await asyncio.to_thread(fork_by_hand, postgres_url)
            await traffic.more(60)
        for store in stores:
            await refused(store.Append(under(append_to("filled"), old.log_id)), "LOG_DIVERGED")
        followers, _ = await callers.finish()
        log = (await read(stores[0])).events
    [(_, first_id, _), (_, new_id, first_position)] = incarnations_in(postgres_url)
    assert first_id == old.log_id
    logs = {first_id: log[: first_position - 1], new_id: log}
    traffic.check_logs(logs)
    for follower in followers:
        follower.check(logs, {})
        assert not follower.losses
        assert follower.told_of_new == 1
