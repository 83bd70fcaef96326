import time

import grpc
import pytest

from scripted import LOG_ID, Fail, Hang, event_id, fail, page
from treering import (
    AsyncClient,
    ClientClosed,
    DeadlineExceeded,
    Event,
    LogDiverged,
    MinPositionNotReached,
    PositionAheadOfLog,
    Query,
    Unavailable,
)
from waiting_async import eventually

Code = grpc.StatusCode


async def positions(reading):
    return [event.position async for event in reading]


async def append_some(client, name, count):
    appended = await client.append(name, [Event("A", n, tags=name) for n in range(1, count + 1)])
    return appended.first_position


async def test_a_stream_is_read_both_ways(address, name):
    async with AsyncClient(address) as client:
        first = await append_some(client, name, 5)
        forwards = client.read(name)
        assert [event.version async for event in forwards] == [1, 2, 3, 4, 5]
        backwards = client.read(name, backwards=True, limit=2)
        assert [event.version async for event in backwards] == [5, 4]
        after = client.read(name, after_version=2, until_position=first + 3)
        assert [event.version async for event in after] == [3, 4]
        below = client.read(name, after_position=first + 2, backwards=True)
        assert [event.version async for event in below] == [2, 1]


async def test_a_query_is_read(address, name):
    async with AsyncClient(address) as client:
        first = await append_some(client, name, 3)
        query = Query(tags=name) | Query(types="None")
        assert await positions(client.read(query=query)) == [first, first + 1, first + 2]


async def test_times_bound_a_read(address, name):
    async with AsyncClient(address) as client:
        await append_some(client, name, 1)
        appended = await client.append(name, Event("B"))
        at = appended.recorded_at
        early = await client.read(name, until_time=at).to_list()
        late = await client.read(name, after_time=at).to_list()
    assert [event.version for event in early] == [1, 2]
    assert late == []


async def test_a_reading_knows_the_state_it_shows(address, name):
    async with AsyncClient(address) as client:
        await append_some(client, name, 3)
        head = await client.head()
        reading = client.read(name)
        with pytest.raises(RuntimeError, match="state"):
            _ = reading.head_position
        state = await reading.state()
        assert state.stream_version == reading.stream_version == 3
        assert state.head_position == reading.head_position >= head.position
        assert state.log_id == reading.log_id == head.log_id
        assert [event.version async for event in reading] == [1, 2, 3]


async def test_what_is_not_there_has_no_events(address, name):
    async with AsyncClient(address) as client:
        reading = client.read(name)
        assert await reading.to_list() == []
        assert reading.stream_version == 0
        await append_some(client, name, 3)
        only_state = client.read(name, limit=0)
        assert await only_state.to_list() == []
        assert only_state.stream_version == 3


async def test_a_reading_is_used_once(address, name):
    async with AsyncClient(address) as client:
        await append_some(client, name, 3)
        reading = client.read(name)
        assert (await anext(reading)).version == 1
        assert [event.version for event in await reading.to_list()] == [2, 3]
        assert await reading.to_list() == []
        with pytest.raises(StopAsyncIteration):
            await anext(reading)


async def test_batches_are_responses(scripted):
    scripted.script("Read", [page(1, 2), page(3, 4), page(9)])
    async with AsyncClient(scripted.address) as client:
        reading = client.read()
        assert (await anext(reading)).position == 1
        batches = [[event.position for event in batch] async for batch in reading.batches()]
    assert batches == [[2], [3, 4], [9]]


async def test_a_broken_read_goes_on_in_the_same_state(scripted):
    scripted.script(
        "Read",
        [page(1, 2), page(4), Fail(Code.UNAVAILABLE)],
        [fail("OVERLOADED", Code.RESOURCE_EXHAUSTED)],
        [page(6), Fail(Code.INTERNAL)],
        [page(8)],
    )
    async with AsyncClient(scripted.address) as client:
        reading = client.read(limit=7, min_position=2)
        assert await positions(reading) == [1, 2, 4, 6, 8]
    first, *again = scripted.requests["Read"]
    assert (first.limit, first.min_position) == (7, 2)
    assert [request.after_position for request in again] == [4, 4, 6]
    assert [request.limit for request in again] == [4, 4, 3]
    for request in again:
        assert request.until_position == 9
        assert request.expected_log_id == LOG_ID
        assert request.min_position == 0


async def test_a_read_that_was_complete_is_not_asked_for_again(scripted):
    scripted.script("Read", [page(1, 9), Fail(Code.UNAVAILABLE)])
    async with AsyncClient(scripted.address) as client:
        assert await positions(client.read()) == [1, 9]
    assert len(scripted.requests["Read"]) == 1


async def test_a_log_that_lost_its_end_meanwhile_is_noticed(scripted):
    scripted.script(
        "Read",
        [page(1, 2), Fail(Code.UNAVAILABLE)],
        [fail("LOG_DIVERGED", Code.FAILED_PRECONDITION)],
    )
    async with AsyncClient(scripted.address) as client:
        reading = client.read()
        with pytest.raises(LogDiverged):
            await reading.to_list()
        # A part is never passed off for the whole.
        with pytest.raises(LogDiverged):
            await anext(reading)


async def test_a_long_read_survives_its_connection(address, proxy, name):
    count, size = 40, 200_000
    data = b"x" * size
    async with AsyncClient(address) as direct, AsyncClient(proxy.address) as client:
        for _ in range(count // 20):
            await direct.append(name, [Event("A", data) for _ in range(20)])
        reading = client.read(name)
        versions = []
        async for event in reading:
            versions.append(event.version)
            assert len(event.data) == size
            if event.version in (3, 21):
                proxy.cut()
                await direct.append(name, Event("Later"))
    assert versions == list(range(1, count + 1))
    assert reading.stream_version == count
    assert proxy.connections > 1


async def test_refusals_are_raised(address, name):
    async with AsyncClient(address) as client:
        with pytest.raises(PositionAheadOfLog) as ahead:
            await client.read(after_position=10**9).to_list()
        head = await client.head()
        assert ahead.value.log_id == head.log_id
        with pytest.raises(MinPositionNotReached):
            await client.read(name, min_position=10**9).to_list()


async def test_silence_is_out_of_time(scripted):
    scripted.script("Read", [page(1), Hang()])
    async with AsyncClient(scripted.address) as client:
        reading = client.read(timeout=0.3)
        assert (await anext(reading)).position == 1
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await anext(reading)
        assert 0.2 < time.monotonic() - begun < 3


async def test_the_time_between_two_steps_does_not_count(scripted):
    scripted.script("Read", [page(1), page(2), page(9)])
    async with AsyncClient(scripted.address) as client:
        reading = client.read(timeout=0.2)
        seen = []
        async for event in reading:
            seen.append(event.position)
            time.sleep(0.3)  # noqa: ASYNC251 - whoever reads is busy
    assert seen == [1, 2, 9]


async def test_no_server_is_unavailable():
    async with AsyncClient("127.0.0.1:1", timeout=0.3) as client:
        with pytest.raises(Unavailable):
            await client.read().to_list()


async def test_leaving_a_loop_ends_the_call(scripted):
    scripted.script("Read", [page(1, 2), Hang()])
    async with AsyncClient(scripted.address) as client:
        async for event in client.read():
            if event.position == 2:
                break
        await eventually(lambda: scripted.cancelled == ["Read"])


async def fail_at_the_second(reading):
    async with reading:
        async for event in reading:
            _ = 1 / (event.position - 2)


async def test_an_exception_in_a_loop_ends_the_call(scripted):
    scripted.script("Read", [page(1, 2), Hang()])
    async with AsyncClient(scripted.address) as client:
        with pytest.raises(ZeroDivisionError):
            await fail_at_the_second(client.read())
        await eventually(lambda: scripted.cancelled == ["Read"])


async def test_a_closed_reading_is_at_its_end(scripted):
    scripted.script("Read", [page(1, 2), Hang()])
    async with AsyncClient(scripted.address) as client:
        reading = client.read()
        assert str((await anext(reading)).id) == event_id(1)
        await reading.close()
        await reading.close()
        assert await reading.to_list() == []
        await eventually(lambda: scripted.cancelled == ["Read"])


async def test_closing_the_client_does_not_pass_a_part_off_for_the_whole(scripted):
    scripted.script("Read", [page(1, 2), Hang()])
    client = AsyncClient(scripted.address)
    reading = client.read()
    await anext(reading)
    await client.close()
    with pytest.raises(ClientClosed):
        await reading.to_list()
    with pytest.raises(ClientClosed):
        client.read()
