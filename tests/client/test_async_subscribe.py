import itertools
import time
import uuid

import grpc
import pytest

from databases import sqlite_url
from scripted import (
    LOG_ID,
    OTHER_LOG_ID,
    Fail,
    Hang,
    caught_up,
    event_id,
    events,
    fail,
    fell_behind,
    heartbeat,
    started,
)
from treering import (
    AsyncClient,
    CaughtUp,
    Checkpoint,
    Event,
    FellBehind,
    Heartbeat,
    InvalidRequest,
    LogDiverged,
    Query,
    RecordedEvent,
    ServerDefect,
    Started,
    StreamAppend,
    StreamDeleted,
    Unavailable,
)
from treering.v1 import event_store_service_pb2 as pb
from treering.v1 import failure_pb2
from waiting_async import eventually

Code = grpc.StatusCode


async def take(subscription, count):
    """The next items: of events their positions, of signs their types."""
    items = []
    async for item in subscription:
        items.append(item.position if isinstance(item, RecordedEvent) else type(item))
        if len(items) == count:
            return items
    return items


async def test_history_then_live(address, name):
    async with AsyncClient(address) as client:
        await client.append(name, [Event("A"), Event("B")])
        async with client.subscribe(name) as subscription:
            first = await anext(subscription)
            assert isinstance(first, Started)
            assert first.after_position == 0
            assert (await anext(subscription)).version == 1
            assert not subscription.caught_up
            assert (await anext(subscription)).version == 2
            assert isinstance(await anext(subscription), CaughtUp)
            assert subscription.caught_up
            appended = await client.append(name, Event("C"))
            live = await anext(subscription)
            assert (live.type, live.position) == ("C", appended.last_position)
            assert subscription.checkpoint == Checkpoint(
                appended.log_id, live.position, str(live.id)
            )


async def test_a_checkpoint_is_where_it_goes_on(address, name):
    query = Query(tags=name)
    async with AsyncClient(address) as client:
        await client.append(None, [Event("A", n, tags=name) for n in range(5)])
        async with client.subscribe(query=query) as subscription:
            async for event in subscription.events():
                if event.json() == 2:
                    break
            text = subscription.checkpoint.to_str()
        async with client.subscribe(query=query, after=Checkpoint.from_str(text)) as again:
            assert again.checkpoint.to_str() == text
            async for event in again.events():
                assert event.json() == 3
                break


async def test_from_the_head_only_what_comes(address, name):
    async with AsyncClient(address) as client:
        await client.append(name, Event("Before"))
        async with client.subscribe(name, from_head=True) as subscription:
            assert await take(subscription, 2) == [Started, CaughtUp]
            await client.append(name, Event("After"))
            assert (await anext(subscription)).type == "After"


async def test_other_starts(address, name):
    async with AsyncClient(address) as client:
        first = await client.append(name, Event("A"))
        await client.append(name, Event("B"))
        for start in (
            {"after_version": 1},
            {"after_position": first.last_position},
            {"after_time": first.recorded_at},
        ):
            async with client.subscribe(name, **start) as subscription:
                async for event in subscription.events():
                    assert event.type == "B"
                    break


async def test_heartbeats_move_the_checkpoint(address, name):
    async with (
        AsyncClient(address) as client,
        client.subscribe(name, heartbeat=0.1) as subscription,
    ):
        await take(subscription, 2)
        appended = await client.append(f"{name}-other", Event("A"))
        async for item in subscription:
            assert isinstance(item, Heartbeat)
            assert item.checkpoint == subscription.checkpoint
            if item.checkpoint.position >= appended.last_position:
                break


async def test_refusals_are_raised(address, name):
    async with AsyncClient(address) as client:
        subscription = client.subscribe("")
        for _ in range(2):
            with pytest.raises(InvalidRequest):
                await anext(subscription)
        head = await client.head()
        restored = Checkpoint(head.log_id, head.position, event_id(1))
        if head.position:
            with pytest.raises(LogDiverged) as diverged:
                await anext(client.subscribe(after=restored))
            assert diverged.value.log_id == head.log_id


async def test_it_goes_on_after_the_last_event_handed_out(scripted):
    scripted.script(
        "Subscribe",
        [started(), events(1, 2), events(4), Fail(Code.UNAVAILABLE)],
        [fail("OVERLOADED", Code.RESOURCE_EXHAUSTED)],
        [
            started(4),
            caught_up(9),
            events(10),
            heartbeat(12),
            fail("SHUTTING_DOWN", Code.UNAVAILABLE),
        ],
        [started(12), events(13)],
    )
    async with AsyncClient(scripted.address) as client:
        subscription = client.subscribe(query=Query(types="Happened"))
        assert await take(subscription, 4) == [Started, 1, 2, 4]
        assert await take(subscription, 4) == [Started, CaughtUp, 10, Heartbeat]
        assert subscription.caught_up
        assert await take(subscription, 1) == [Started]
        assert not subscription.caught_up
        assert await take(subscription, 1) == [13]
        assert subscription.checkpoint == Checkpoint(LOG_ID, 13, event_id(13))
        await subscription.close()
    first, *again = scripted.requests["Subscribe"]
    assert first.WhichOneof("start") is None
    assert not first.expected_log_id
    assert [request.after_position for request in again] == [4, 4, 12]
    assert [request.after_event_id for request in again] == [event_id(n) for n in (4, 4, 12)]
    for request in again:
        assert request.expected_log_id == LOG_ID
        assert request.query == first.query


async def test_the_checkpoint_is_that_of_the_last_item_handed_out(scripted):
    scripted.script("Subscribe", [started(), events(1, 2, 3), events(4)])
    async with AsyncClient(scripted.address) as client, client.subscribe() as subscription:
        assert subscription.checkpoint == Checkpoint("", 0)
        seen = []
        async for _ in subscription:
            seen.append(subscription.checkpoint.position)
            if len(seen) == 5:
                break
    assert seen == [0, 1, 2, 3, 4]


async def test_from_the_head_it_goes_on_where_it_had_started(scripted):
    scripted.script("Subscribe", [started(9), Fail(Code.UNAVAILABLE)], [started(9)])
    async with (
        AsyncClient(scripted.address) as client,
        client.subscribe(from_head=True) as subscription,
    ):
        assert await take(subscription, 2) == [Started, Started]
    first, second = scripted.requests["Subscribe"]
    assert first.from_head
    assert second.after_position == 9
    assert (second.after_event_id, second.expected_log_id) == ("", LOG_ID)


async def test_before_it_has_started_it_begins_anew(scripted):
    scripted.script("Subscribe", [Fail(Code.UNAVAILABLE)], [started(9)])
    async with (
        AsyncClient(scripted.address) as client,
        client.subscribe(from_head=True) as subscription,
    ):
        assert await take(subscription, 1) == [Started]
    assert [request.from_head for request in scripted.requests["Subscribe"]] == [True, True]


async def test_a_dead_connection_is_left(scripted):
    scripted.script("Subscribe", [started(), events(1), Hang()], [started(1), events(2)])
    async with AsyncClient(scripted.address) as client:
        async with client.subscribe(max_silence=0.3) as subscription:
            begun = time.monotonic()
            assert await take(subscription, 4) == [Started, 1, Started, 2]
            assert 0.2 < time.monotonic() - begun < 3
        await eventually(lambda: "Subscribe" in scripted.cancelled)


async def test_silence_is_three_heartbeats(scripted):
    scripted.script("Subscribe", [started(), Hang()], [started()])
    async with (
        AsyncClient(scripted.address) as client,
        client.subscribe(heartbeat=0.1) as subscription,
    ):
        begun = time.monotonic()
        assert await take(subscription, 2) == [Started, Started]
        assert 0.2 < time.monotonic() - begun < 3


async def test_a_slow_consumer_is_not_silence(scripted):
    scripted.script("Subscribe", [started(), events(1), events(2), events(3)])
    async with (
        AsyncClient(scripted.address) as client,
        client.subscribe(max_silence=0.2) as subscription,
    ):
        seen = []
        async for event in subscription.events():
            seen.append(event.position)
            if event.position == 3:
                break
            time.sleep(0.3)  # noqa: ASYNC251 - the consumer is busy
    assert seen == [1, 2, 3]
    assert len(scripted.requests["Subscribe"]) == 1


async def test_a_frozen_connection_is_left(address, proxy, name):
    async with (
        AsyncClient(address) as direct,
        AsyncClient(proxy.address) as client,
        client.subscribe(name, heartbeat=0.1, max_silence=0.5) as subscription,
    ):
        await take(subscription, 2)
        proxy.freeze()
        await direct.append(name, Event("Meanwhile"))
        begun = time.monotonic()
        async for event in subscription.events():
            assert event.type == "Meanwhile"
            break
        # Long before gRPC's own pings would find out.
        assert time.monotonic() - begun < 5
    assert proxy.connections == 2


async def test_it_may_not_end_well(scripted):
    # A script without Hang at its end ends with OK, as a careless proxy might.
    scripted.script("Subscribe", [started(), events(1)], [started(1), events(2)])
    async with AsyncClient(scripted.address) as client, client.subscribe() as subscription:
        assert await take(subscription, 4) == [Started, 1, Started, 2]


async def test_what_a_later_version_says_is_passed_over(scripted):
    later = pb.SubscribeResponse.FromString(b"\xfa\x01\x02hi")
    scripted.script("Subscribe", [started(), later, events(1), caught_up(1), fell_behind(1)])
    async with AsyncClient(scripted.address) as client, client.subscribe() as subscription:
        assert await take(subscription, 4) == [Started, 1, CaughtUp, FellBehind]
        assert not subscription.caught_up
        assert subscription.checkpoint.position == 1


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (fail("LOG_DIVERGED", Code.FAILED_PRECONDITION), LogDiverged),
        (fail("STREAM_DELETED", Code.FAILED_PRECONDITION), StreamDeleted),
    ],
)
async def test_when_going_on_makes_no_sense_it_ends(scripted, step, expected):
    scripted.script("Subscribe", [started(), events(1), step])
    async with AsyncClient(scripted.address) as client:
        subscription = client.subscribe()
        assert await take(subscription, 2) == [Started, 1]
        for _ in range(2):
            with pytest.raises(expected):
                await anext(subscription)
        assert subscription.checkpoint.position == 1
    assert len(scripted.requests["Subscribe"]) == 1


async def test_a_defect_at_the_same_point_ends_it(scripted):
    defect = [started(), Fail(Code.INTERNAL)]
    scripted.script("Subscribe", defect, [started(), events(1), Fail(Code.INTERNAL)], *[defect] * 9)
    async with AsyncClient(scripted.address) as client:
        subscription = client.subscribe()
        with pytest.raises(ServerDefect):
            await take(subscription, 99)
    assert len(scripted.requests["Subscribe"]) == 4


async def test_unavailability_does_not_end_it(scripted):
    scripted.script(
        "Subscribe", [started()], *[[Fail(Code.UNAVAILABLE)]] * 4, [started(), events(1)]
    )
    async with (
        AsyncClient(scripted.address, timeout=0.1, max_attempts=2) as client,
        client.subscribe() as subscription,
    ):
        assert await take(subscription, 3) == [Started, Started, 1]


async def test_without_a_server_it_does_not_start():
    async with AsyncClient("127.0.0.1:1") as client:
        begun = time.monotonic()
        with pytest.raises(Unavailable):
            await anext(client.subscribe(timeout=0.5))
        assert time.monotonic() - begun < 3


async def test_a_log_under_a_new_id_is_followed(scripted):
    scripted.script(
        "Subscribe",
        [started(), events(1), Fail(Code.UNAVAILABLE)],
        [started(1, log_id=OTHER_LOG_ID), events(2)],
    )
    async with AsyncClient(scripted.address) as client, client.subscribe() as subscription:
        assert await take(subscription, 4) == [Started, 1, Started, 2]
        assert subscription.checkpoint.log_id == OTHER_LOG_ID


async def test_a_log_that_forks_while_it_is_followed_goes_on_under_its_new_id(scripted):
    scripted.script(
        "Subscribe",
        [
            *(started(), events(1, 2), caught_up(2), fell_behind(2, OTHER_LOG_ID)),
            *(caught_up(2), Fail(Code.UNAVAILABLE)),
        ],
        [started(2, log_id=OTHER_LOG_ID), events(3)],
    )
    async with AsyncClient(scripted.address) as client, client.subscribe() as subscription:
        assert await take(subscription, 4) == [Started, 1, 2, CaughtUp]
        assert subscription.checkpoint == Checkpoint(LOG_ID, 2, event_id(2))
        assert await anext(subscription) == FellBehind(2, OTHER_LOG_ID)
        assert subscription.checkpoint == Checkpoint(OTHER_LOG_ID, 2, event_id(2))
        assert not subscription.caught_up
        assert await anext(subscription) == CaughtUp(subscription.checkpoint)
        assert await take(subscription, 2) == [Started, 3]
    again = scripted.requests["Subscribe"][1]
    assert again.after_position == 2
    assert again.after_event_id == event_id(2)
    assert again.expected_log_id == OTHER_LOG_ID


async def test_falling_behind_leaves_the_log_id(scripted):
    scripted.script("Subscribe", [started(), events(1), fell_behind(1)])
    async with AsyncClient(scripted.address) as client, client.subscribe() as subscription:
        assert await take(subscription, 2) == [Started, 1]
        assert await anext(subscription) == FellBehind(1, "")
        assert subscription.checkpoint == Checkpoint(LOG_ID, 1, event_id(1))


async def test_a_whole_checkpoint_is_passed_and_what_was_lost_is_told(scripted):
    state = failure_pb2.LogState(log_id=OTHER_LOG_ID, head_position=6, last_common_position=5)
    diverged = fail("LOG_DIVERGED", Code.FAILED_PRECONDITION, log_state=state)
    scripted.script("Subscribe", [diverged], [started(5, log_id=OTHER_LOG_ID), events(6)])
    checkpoint = Checkpoint(LOG_ID, 7, event_id(7))
    async with AsyncClient(scripted.address) as client:
        with pytest.raises(LogDiverged) as lost:
            await anext(client.subscribe(after=checkpoint))
        assert (lost.value.log_id, lost.value.last_common_position) == (OTHER_LOG_ID, 5)
        checkpoint = Checkpoint(lost.value.log_id, lost.value.last_common_position)
        async with client.subscribe(after=checkpoint) as subscription:
            assert await take(subscription, 2) == [Started, 6]
    first, second = scripted.requests["Subscribe"]
    assert (first.expected_log_id, first.after_position) == (LOG_ID, 7)
    assert first.after_event_id == event_id(7)
    assert (second.expected_log_id, second.after_position) == (OTHER_LOG_ID, 5)
    assert second.after_event_id == ""


async def test_an_append_is_a_checkpoint_to_go_on_from(address, name):
    async with AsyncClient(address) as client:
        parts = [
            StreamAppend(name, [Event("A"), Event("B")]),
            StreamAppend(f"{name}-2", Event("C")),
        ]
        appended = await client.append(parts)
        assert appended.checkpoint.event_id == str(parts[1].events[0].id)
        await client.append(name, Event("D"))
        query = Query(stream_prefixes=name)
        async with client.subscribe(query=query, after=appended.checkpoint) as subscription:
            async for event in subscription.events():
                assert event.type == "D"
                break


async def fail_at_the_second(subscription):
    async for event in subscription.events():
        _ = 1 / (event.position - 2)


async def test_an_exception_in_the_loop_loses_nothing(scripted):
    scripted.script("Subscribe", [started(), events(1, 2, 3)])
    async with AsyncClient(scripted.address) as client:
        subscription = client.subscribe()
        with pytest.raises(ZeroDivisionError):
            await fail_at_the_second(subscription)
        # The event in hand when it happened is the last handed out; the next one follows.
        assert subscription.checkpoint.position == 2
        assert (await anext(subscription)).position == 3


async def test_leaving_the_loop_ends_the_call(scripted):
    scripted.script("Subscribe", [started(), events(1), Hang()])
    async with AsyncClient(scripted.address) as client:
        async for _ in client.subscribe():
            break
        await eventually(lambda: scripted.cancelled == ["Subscribe"])


async def test_closing_ends_the_iteration(scripted):
    scripted.script("Subscribe", [started(), events(1, 2), Hang()])
    async with AsyncClient(scripted.address) as client:
        subscription = client.subscribe()
        assert await take(subscription, 2) == [Started, 1]
        await subscription.close()
        await subscription.close()
        assert await take(subscription, 1) == []
        # What was not handed out is before us still.
        assert subscription.checkpoint.position == 1
        await eventually(lambda: scripted.cancelled == ["Subscribe"])


async def test_closing_the_client_ends_the_iteration(scripted):
    scripted.script("Subscribe", [started(), Hang()])
    client = AsyncClient(scripted.address)
    subscription = client.subscribe()
    assert await take(subscription, 1) == [Started]
    await client.close()
    assert await take(subscription, 1) == []


async def test_a_restart_and_a_kill_lose_and_repeat_nothing(server_process, tmp_path, free_port):
    url, listen = sqlite_url(tmp_path), f"127.0.0.1:{free_port}"
    server = server_process(url, listen=listen)
    async with (
        AsyncClient(listen) as client,
        client.subscribe("s", heartbeat=0.5) as subscription,
    ):
        seen = []
        numbers = itertools.count(1)
        for end in (server.terminate, server.kill, lambda: None):
            for _ in range(5):
                await client.append("s", Event("A", next(numbers)))
            async for event in subscription.events():
                seen.append(event.json())
                if len(seen) % 5 == 3:  # Two are on their way, or in the client.
                    break
            end()
            if not server.is_running:
                server = server_process(url, listen=listen)
            async for event in subscription.events():
                seen.append(event.json())
                if len(seen) % 5 == 0:
                    break
    assert seen == list(range(1, 16))


async def test_a_bad_connection_loses_and_repeats_nothing(address, proxy, name):
    async with (
        AsyncClient(address) as direct,
        AsyncClient(proxy.address) as client,
        client.subscribe(name) as subscription,
    ):
        seen = []
        for number in range(200):
            await direct.append(name, Event("A", number))
            if number % 20 == 10:
                proxy.cut()
            if number % 7 == 0:
                # In the middle of what comes, and of what has come.
                event = await anext(subscription.events())
                seen.append(event.json())
        async for event in subscription.events():
            seen.append(event.json())
            if len(seen) == 200:
                break
    assert seen == list(range(200))
    assert proxy.connections > 2


async def test_ids_of_logs_are_uuids(address):
    async with AsyncClient(address) as client, client.subscribe(from_head=True) as subscription:
        assert uuid.UUID((await anext(subscription)).log_id)
