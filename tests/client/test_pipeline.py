"""Appends of one AsyncClient travel together over AppendMany."""

import asyncio
import subprocess
import sys
import time

import grpc
import pytest

from databases import sqlite_url
from scripted import Answer, Fail, Hang, Refuse, fail, failure
from treering import (
    AsyncClient,
    ClientClosed,
    DeadlineExceeded,
    Event,
    InvalidRequest,
    LimitExceeded,
    ReadOnly,
    ShuttingDown,
    StreamAppend,
    TreeringError,
    Unavailable,
    VersionConflict,
)
from treering._async import appender
from waiting_async import eventually

Code = grpc.StatusCode


def ids(events):
    return [str(event.id) for event in events]


async def test_appends_at_the_same_time_travel_together(scripted):
    events = [Event("A", n) for n in range(300)]
    async with AsyncClient(scripted.address) as client:
        answers = await asyncio.gather(*(client.append("s", event) for event in events))
    assert scripted.appended_ids() == ids(events)
    assert [answer.first_position for answer in answers] == list(range(1, 301))
    assert len(scripted.requests["AppendMany"]) < 20
    assert not scripted.requests["Append"]


async def test_a_message_is_bounded(scripted):
    data = b"x" * 100_000
    async with AsyncClient(scripted.address) as client:
        await asyncio.gather(*(client.append("s", Event("A", data)) for _ in range(30)))
    sizes = [message.ByteSize() for message in scripted.requests["AppendMany"]]
    assert max(sizes) <= appender.MESSAGE_BYTES
    assert len(scripted.items()) == 30


async def test_an_append_larger_than_a_message_travels_alone(scripted):
    large = Event("A", b"x" * (appender.MESSAGE_BYTES + 1))
    events = [Event("A"), large, Event("A")]
    async with AsyncClient(scripted.address) as client:
        await asyncio.gather(*(client.append("s", event) for event in events))
    assert scripted.appended_ids() == ids(events)
    assert len(scripted.requests["AppendMany"]) >= 2


async def test_what_is_unanswered_is_bounded(scripted, monkeypatch):
    monkeypatch.setattr(appender, "UNANSWERED_APPENDS", 10)
    scripted.appends.append(Hang())
    async with AsyncClient(scripted.address) as client:
        tasks = [asyncio.create_task(client.append("s", Event("A"))) for _ in range(100)]
        await eventually(lambda: len(scripted.items()) == 10)
        await asyncio.sleep(0.1)
        assert len(scripted.items()) == 10
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_what_is_unanswered_is_bounded_in_bytes(scripted, monkeypatch):
    monkeypatch.setattr(appender, "UNANSWERED_BYTES", 10_000)
    scripted.appends.append(Hang())
    client = AsyncClient(scripted.address)
    data = b"x" * 1000
    tasks = [asyncio.create_task(client.append("s", Event("A", data))) for _ in range(100)]
    await eventually(lambda: len(scripted.items()) > 5)
    await asyncio.sleep(0.1)
    assert len(scripted.items()) < 10
    await client.close(grace=0)
    await asyncio.wait(tasks)


async def test_what_a_broken_call_left_unanswered_may_be_recorded(scripted):
    # The refusal is of one append; the answers to others may have been lost with the call.
    scripted.appends.append(fail("SHUTTING_DOWN", Code.UNAVAILABLE))
    async with AsyncClient(scripted.address, max_attempts=1) as client:
        with pytest.raises(ShuttingDown) as raised:
            await client.append("s", Event("A"))
    assert raised.value.outcome_unknown


async def test_results_find_their_appends(address, name):
    async with AsyncClient(address) as client:

        async def append(number):
            expected = 0 if number % 3 else 7
            return await client.append(f"{name}-{number}", Event("A"), expected_version=expected)

        results = await asyncio.gather(*map(append, range(200)), return_exceptions=True)
    for number, result in enumerate(results):
        if number % 3:
            assert result.versions == {f"{name}-{number}": 1}
        else:
            assert isinstance(result, VersionConflict)
            assert result.stream == f"{name}-{number}"


async def test_a_chain_of_expectations_needs_no_waiting(address, name):
    async with AsyncClient(address) as client:
        appends = [client.append(name, Event("A"), expected_version=n) for n in range(100)]
        results = await asyncio.gather(*appends)
        assert [result.versions[name] for result in results] == list(range(1, 101))


async def test_a_broken_call_repeats_what_is_unanswered_in_order(scripted):
    events = [Event("A", n) for n in range(9)]
    scripted.appends.extend([Answer()] * 4 + [Fail(Code.UNAVAILABLE)])
    async with AsyncClient(scripted.address) as client:
        await asyncio.gather(*(client.append("s", event) for event in events))
    came = scripted.appended_ids()
    # The first call took all of them; which of the four answers got through is open.
    assert came[:9] == ids(events)
    again = came[9:]
    assert again == ids(events)[-len(again) :]
    assert 5 <= len(again) <= 9


async def test_what_comes_later_does_not_overtake_what_is_repeated(scripted):
    first, second = Event("A"), Event("B")
    pause = {"nanos": 200_000_000}
    scripted.appends.append(fail("OVERLOADED", Code.RESOURCE_EXHAUSTED, retry_after=pause))
    async with AsyncClient(scripted.address) as client:
        earlier = asyncio.create_task(client.append("s", first))
        await eventually(lambda: len(scripted.items()) == 1)
        await client.append("s", second)
        await earlier
    assert scripted.appended_ids() == ids([first, first, second])


@pytest.mark.parametrize("count", [1, 500])
async def test_answers_lost_after_recording_are_no_second_appends(address, proxy, name, count):
    events = [Event("A", n) for n in range(count)]
    async with AsyncClient(address) as direct, AsyncClient(proxy.address) as client:
        await client.append(f"{name}-0", Event("First"))
        proxy.hold_answers()
        tasks = [asyncio.create_task(client.append(name, event)) for event in events]

        async def all_are_recorded():
            while (await direct.read(name, limit=0).state()).stream_version < count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

        await asyncio.wait_for(all_are_recorded(), 20)
        proxy.cut()
        proxy.flow()
        answers = await asyncio.gather(*tasks)
        recorded = await direct.read(name).to_list()
    assert [event.id for event in recorded] == [event.id for event in events]
    assert all(answer.duplicate for answer in answers)
    assert [a.first_position for a in answers] == [event.position for event in recorded]


async def test_appends_through_a_bad_connection_are_recorded_once_and_in_order(
    address, proxy, name
):
    count = 2000
    async with AsyncClient(address) as direct, AsyncClient(proxy.address, timeout=60) as client:
        tasks = []
        for number in range(count):
            tasks.append(asyncio.create_task(client.append(name, Event("A", number))))
            if number % 20 == 0:
                await asyncio.sleep(0)
            if number % 400 == 200:
                await asyncio.sleep(0.05)
                proxy.cut()
        await asyncio.gather(*tasks)
        recorded = [event.json() for event in await direct.read(name).to_list()]
    assert recorded == list(range(count))
    assert proxy.connections > 2


async def test_appends_survive_kills_of_the_server(server_process, tmp_path, free_port):
    url, listen = sqlite_url(tmp_path), f"127.0.0.1:{free_port}"
    server = server_process(url, listen=listen)
    count, under_way = 3000, asyncio.Semaphore(200)

    async with AsyncClient(listen, timeout=60) as client:

        async def append(number):
            async with under_way:
                return await client.append("s", Event("A", number))

        tasks = [asyncio.create_task(append(number)) for number in range(count)]
        for goal in (count // 3, 2 * count // 3):
            await eventually(lambda goal=goal: sum(task.done() for task in tasks) > goal)
            server.kill()
            server = await asyncio.to_thread(server_process, url, listen=listen)
        answers = await asyncio.gather(*tasks)
        recorded = await client.read("s").to_list()
    assert [event.json() for event in recorded] == list(range(count))
    assert [answer.last_position for answer in answers] == [event.position for event in recorded]


async def test_one_cancelled_append_harms_no_other(scripted):
    pause = {"nanos": 200_000_000}
    scripted.appends.append(fail("OVERLOADED", Code.RESOURCE_EXHAUSTED, retry_after=pause))
    events = [Event("A", n) for n in range(5)]
    async with AsyncClient(scripted.address) as client:
        tasks = [asyncio.create_task(client.append("s", event)) for event in events]
        await eventually(lambda: len(scripted.items()) == 5)
        tasks[2].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[2], asyncio.CancelledError)
    kept = [event for event in events if event is not events[2]]
    assert scripted.appended_ids()[5:] == ids(kept)


async def test_an_append_cancelled_before_it_is_sent_is_not_sent(scripted):
    async with AsyncClient(scripted.address) as client:
        task = asyncio.create_task(client.append("s", Event("A")))
        await asyncio.sleep(0)
        task.cancel()
        other = Event("B")
        await client.append("s", other)
    assert scripted.appended_ids() == ids([other])


async def test_a_cancelled_append_whose_answer_comes_is_passed_over(scripted):
    async with AsyncClient(scripted.address) as client:
        for _ in range(20):
            task = asyncio.create_task(client.append("s", Event("A")))
            await eventually(lambda: bool(scripted.items()))
            task.cancel()
            await client.append("s", Event("B"))


async def test_each_append_has_its_own_time(scripted):
    scripted.appends.append(Hang())
    async with AsyncClient(scripted.address) as client:
        begun = time.monotonic()
        long = asyncio.create_task(client.append("s", Event("A"), timeout=1.0))
        short = asyncio.create_task(client.append("s", Event("B"), timeout=0.2))
        with pytest.raises(DeadlineExceeded):
            await short
        assert time.monotonic() - begun < 0.8
        assert not long.done()
        with pytest.raises(DeadlineExceeded):
            await long
        # The call that answered nothing was given up: the next one is not stuck behind it.
        await client.append("s", Event("C"), timeout=2.0)


async def test_an_append_that_was_never_sent_is_known_not_to_be_recorded(scripted, monkeypatch):
    monkeypatch.setattr(appender, "UNANSWERED_APPENDS", 1)
    scripted.appends.append(Hang())
    async with AsyncClient(scripted.address) as client:
        sent = asyncio.create_task(client.append("s", Event("A"), timeout=0.5))
        unsent = asyncio.create_task(client.append("s", Event("B"), timeout=0.3))
        with pytest.raises(DeadlineExceeded) as raised:
            await unsent
        assert not raised.value.outcome_unknown
        with pytest.raises(DeadlineExceeded) as raised:
            await sent
        assert raised.value.outcome_unknown


@pytest.mark.parametrize("step", [Fail(Code.INVALID_ARGUMENT), Fail(Code.RESOURCE_EXHAUSTED)])
async def test_a_poisoned_append_fails_alone(address, scripted, step):
    # The third is refused whenever it comes: first in a crowd, then alone.
    scripted.appends.extend([Answer(), Answer(), step, Answer(), Answer(), step])
    events = [Event("A", n) for n in range(6)]
    async with AsyncClient(scripted.address) as client:
        results = await asyncio.gather(
            *(client.append("s", event) for event in events), return_exceptions=True
        )
    failed = [number for number, result in enumerate(results) if isinstance(result, Exception)]
    assert len(failed) == 1
    assert isinstance(results[failed[0]], TreeringError)


async def test_a_huge_append_fails_alone(address, name):
    # Beyond what the server's transport takes, so that the whole call breaks.
    huge = [StreamAppend(f"{name}-{n}", Event("A", b"x" * 1024 * 1024)) for n in range(20)]
    async with AsyncClient(address) as client:
        await client.append(name, Event("First"))
        before = [asyncio.create_task(client.append(name, Event("A", n))) for n in range(20)]
        failing = asyncio.create_task(client.append(huge))
        after = [asyncio.create_task(client.append(name, Event("A", n))) for n in range(20, 40)]
        await asyncio.gather(*before, *after)
        with pytest.raises(TreeringError):
            await failing
        recorded = [event.json() for event in await client.read(name).to_list()]
    assert recorded == [None, *range(40)]


async def test_what_is_over_a_limit_is_named(address, name):
    async with AsyncClient(address) as client:
        parts = [StreamAppend(f"{name}-{n}", Event("A", b"x" * 1024 * 1024)) for n in range(5)]
        over, fine = await asyncio.gather(
            client.append(parts), client.append(name, Event("A")), return_exceptions=True
        )
    assert isinstance(over, LimitExceeded)
    assert isinstance(over, InvalidRequest)
    assert fine.versions == {name: 1}


async def test_what_is_final_for_all_is_told_to_all(scripted):
    scripted.appends.append(fail("READ_ONLY", Code.FAILED_PRECONDITION))
    async with AsyncClient(scripted.address) as client:
        results = await asyncio.gather(
            *(client.append("s", Event("A")) for _ in range(5)), return_exceptions=True
        )
    assert [type(result) for result in results] == [ReadOnly] * 5
    assert len({id(result) for result in results}) == 5


async def test_a_refusal_in_a_crowd_concerns_one(scripted):
    scripted.appends.extend([Answer(), Refuse(failure("VERSION_CONFLICT", Code.ABORTED))])
    async with AsyncClient(scripted.address) as client:
        results = await asyncio.gather(
            *(client.append("s", Event("A")) for _ in range(5)), return_exceptions=True
        )
    assert [isinstance(result, VersionConflict) for result in results] == [
        False, True, False, False, False
    ]  # fmt: skip


async def test_a_server_that_goes_while_nothing_is_under_way_is_not_noticed(scripted):
    async with AsyncClient(scripted.address) as client:
        await client.append("s", Event("A"))
        scripted.appends.append(fail("SHUTTING_DOWN", Code.UNAVAILABLE))
        await client.append("s", Event("B"))


async def test_without_a_server_all_are_told(scripted):
    async with AsyncClient("127.0.0.1:1", timeout=0.4) as client:
        results = await asyncio.gather(
            *(client.append("s", Event("A")) for _ in range(50)), return_exceptions=True
        )
    assert {type(result) for result in results} <= {Unavailable, DeadlineExceeded}


async def test_closing_waits_for_what_is_under_way(address, name):
    client = AsyncClient(address)
    tasks = [asyncio.create_task(client.append(name, Event("A"))) for _ in range(100)]
    await asyncio.sleep(0)
    await client.close()
    assert all(task.done() for task in tasks)
    assert [(await task).versions[name] for task in tasks] == list(range(1, 101))


async def test_closing_waits_no_longer_than_its_grace(scripted):
    scripted.appends.append(Hang())
    client = AsyncClient(scripted.address)
    task = asyncio.create_task(client.append("s", Event("A")))
    await eventually(lambda: bool(scripted.items()))
    begun = time.monotonic()
    await client.close(grace=0.2)
    assert 0.1 < time.monotonic() - begun < 2
    with pytest.raises(ClientClosed) as raised:
        await task
    assert raised.value.outcome_unknown
    await eventually(lambda: "AppendMany" in scripted.cancelled)


async def test_an_append_after_close_has_begun_is_refused(scripted):
    scripted.appends.append(Hang())
    client = AsyncClient(scripted.address)
    task = asyncio.create_task(client.append("s", Event("A"), timeout=0.5))
    await asyncio.sleep(0.05)
    closing = asyncio.create_task(client.close())
    await asyncio.sleep(0.05)
    with pytest.raises(ClientClosed):
        await client.append("s", Event("B"))
    with pytest.raises(DeadlineExceeded):
        await task
    await closing


def test_a_client_belongs_to_one_event_loop(scripted):
    client = AsyncClient(scripted.address)

    async def append():
        await client.append("s", Event("A"))

    with asyncio.Runner() as runner:
        runner.run(append())
        with pytest.raises(RuntimeError, match="event loop"):
            asyncio.run(append())
        runner.run(client.close())


FORGETFUL = """
import asyncio, gc, sys
from treering import AsyncClient, Event

async def main():
    client = AsyncClient({address!r})
    await client.append({name!r}, Event("A"))
    step = asyncio.create_task(anext(client.subscribe({name!r})))
    live = asyncio.create_task(anext(client.subscribe(from_head=True).events()))
    lost = client.subscribe()
    await anext(lost)
    del lost
    append = asyncio.create_task(client.append({name!r}, Event("B")))
    await asyncio.sleep({seconds})
    return step, live, append

asyncio.run(main())
gc.collect()
"""


@pytest.mark.parametrize("seconds", [0, 0.1])
def test_a_loop_that_ends_without_closing_the_client_leaves_no_noise(address, name, seconds):
    program = FORGETFUL.format(address=address, name=name, seconds=seconds)
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program],
        capture_output=True,
        check=False,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")


async def test_closing_ends_a_call_under_way(scripted):
    scripted.script("GetHead", [Hang()])
    client = AsyncClient(scripted.address)
    asking = asyncio.create_task(client.head())
    await eventually(lambda: bool(scripted.requests))
    await client.close()
    with pytest.raises(ClientClosed):
        await asyncio.wait_for(asking, 2)


async def test_a_cancelled_call_is_cancelled(scripted):
    scripted.script("GetHead", [Hang()])
    async with AsyncClient(scripted.address) as client:
        asking = asyncio.create_task(client.head())
        await eventually(lambda: bool(scripted.requests))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_a_step_with_a_time_limit_loses_nothing(address, name):
    async with (
        AsyncClient(address) as client,
        client.subscribe(name, heartbeat=30) as subscription,
    ):
        seen = []

        async def take_what_comes():
            async for event in subscription.events():
                seen.append(event.json())  # noqa: PERF401 - those of a step that is cancelled too

        for number in range(20):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(take_what_comes(), 0.02)
            await client.append(name, Event("A", number))
        async for event in subscription.events():
            seen.append(event.json())
            if len(seen) == 20:
                break
    assert seen == list(range(20))


async def test_a_cancelled_step_of_a_read_loses_nothing(scripted):
    from scripted import page

    scripted.script("Read", [page(1, 2), Hang()])
    async with AsyncClient(scripted.address) as client:
        reading = client.read()
        seen = [(await anext(reading)).position, (await anext(reading)).position]
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await anext(reading)
    assert seen == [1, 2]
    assert len(scripted.requests["Read"]) == 1


async def test_a_waiting_consumer_is_told_of_the_end(scripted):
    from scripted import started

    scripted.script("Subscribe", [started(), Hang()])
    async with AsyncClient(scripted.address) as client:
        subscription = client.subscribe()

        async def consume():
            return [item async for item in subscription]

        consumer = asyncio.create_task(consume())
        await eventually(lambda: scripted.open_calls == 1)
        await asyncio.sleep(0.1)
        await subscription.close()
        assert len(await asyncio.wait_for(consumer, 2)) == 1


async def test_closing_ends_the_wait_for_another_attempt():
    client = AsyncClient("127.0.0.1:1", timeout=None)
    subscription = client.subscribe()
    waiting = asyncio.create_task(anext(subscription, None))
    asking = asyncio.create_task(client.head())
    await asyncio.sleep(1.0)
    begun = time.monotonic()
    await client.close()
    assert await asyncio.wait_for(waiting, 2) is None
    with pytest.raises(ClientClosed):
        await asyncio.wait_for(asking, 2)
    assert time.monotonic() - begun < 1
