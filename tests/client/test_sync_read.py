# Made by tools/sync_client.py from tests/client/test_async_read.py.
# Change that one, and run `python tools/sync_client.py`.

import time

import grpc
import pytest

from scripted import LOG_ID, Fail, Hang, event_id, fail, page
from treering import (
    Client,
    ClientClosed,
    DeadlineExceeded,
    Event,
    LogDiverged,
    MinPositionNotReached,
    PositionAheadOfLog,
    Query,
    Unavailable,
)
from waiting_sync import eventually

Code = grpc.StatusCode


def positions(reading):
    return [event.position for event in reading]


def append_some(client, name, count):
    appended = client.append(name, [Event("A", n, tags=name) for n in range(1, count + 1)])
    return appended.first_position


def test_a_stream_is_read_both_ways(address, name):
    with Client(address) as client:
        first = append_some(client, name, 5)
        forwards = client.read(name)
        assert [event.version for event in forwards] == [1, 2, 3, 4, 5]
        backwards = client.read(name, backwards=True, limit=2)
        assert [event.version for event in backwards] == [5, 4]
        after = client.read(name, after_version=2, until_position=first + 3)
        assert [event.version for event in after] == [3, 4]
        below = client.read(name, after_position=first + 2, backwards=True)
        assert [event.version for event in below] == [2, 1]


def test_a_query_is_read(address, name):
    with Client(address) as client:
        first = append_some(client, name, 3)
        query = Query(tags=name) | Query(types="None")
        assert positions(client.read(query=query)) == [first, first + 1, first + 2]


def test_times_bound_a_read(address, name):
    with Client(address) as client:
        append_some(client, name, 1)
        appended = client.append(name, Event("B"))
        at = appended.recorded_at
        early = client.read(name, until_time=at).to_list()
        late = client.read(name, after_time=at).to_list()
    assert [event.version for event in early] == [1, 2]
    assert late == []


def test_a_reading_knows_the_state_it_shows(address, name):
    with Client(address) as client:
        append_some(client, name, 3)
        head = client.head()
        reading = client.read(name)
        with pytest.raises(RuntimeError, match="state"):
            _ = reading.head_position
        state = reading.state()
        assert state.stream_version == reading.stream_version == 3
        assert state.head_position == reading.head_position >= head.position
        assert state.log_id == reading.log_id == head.log_id
        assert [event.version for event in reading] == [1, 2, 3]


def test_what_is_not_there_has_no_events(address, name):
    with Client(address) as client:
        reading = client.read(name)
        assert reading.to_list() == []
        assert reading.stream_version == 0
        append_some(client, name, 3)
        only_state = client.read(name, limit=0)
        assert only_state.to_list() == []
        assert only_state.stream_version == 3


def test_a_reading_is_used_once(address, name):
    with Client(address) as client:
        append_some(client, name, 3)
        reading = client.read(name)
        assert (next(reading)).version == 1
        assert [event.version for event in reading.to_list()] == [2, 3]
        assert reading.to_list() == []
        with pytest.raises(StopIteration):
            next(reading)


def test_batches_are_responses(scripted):
    scripted.script("Read", [page(1, 2), page(3, 4), page(9)])
    with Client(scripted.address) as client:
        reading = client.read()
        assert (next(reading)).position == 1
        batches = [[event.position for event in batch] for batch in reading.batches()]
    assert batches == [[2], [3, 4], [9]]


def test_a_broken_read_goes_on_in_the_same_state(scripted):
    scripted.script(
        "Read",
        [page(1, 2), page(4), Fail(Code.UNAVAILABLE)],
        [fail("OVERLOADED", Code.RESOURCE_EXHAUSTED)],
        [page(6), Fail(Code.INTERNAL)],
        [page(8)],
    )
    with Client(scripted.address) as client:
        reading = client.read(limit=7, min_position=2)
        assert positions(reading) == [1, 2, 4, 6, 8]
    first, *again = scripted.requests["Read"]
    assert (first.limit, first.min_position) == (7, 2)
    assert [request.after_position for request in again] == [4, 4, 6]
    assert [request.limit for request in again] == [4, 4, 3]
    for request in again:
        assert request.until_position == 9
        assert request.expected_log_id == LOG_ID
        assert request.min_position == 0


def test_a_read_that_was_complete_is_not_asked_for_again(scripted):
    scripted.script("Read", [page(1, 9), Fail(Code.UNAVAILABLE)])
    with Client(scripted.address) as client:
        assert positions(client.read()) == [1, 9]
    assert len(scripted.requests["Read"]) == 1


def test_a_log_that_lost_its_end_meanwhile_is_noticed(scripted):
    scripted.script(
        "Read",
        [page(1, 2), Fail(Code.UNAVAILABLE)],
        [fail("LOG_DIVERGED", Code.FAILED_PRECONDITION)],
    )
    with Client(scripted.address) as client:
        reading = client.read()
        with pytest.raises(LogDiverged):
            reading.to_list()
        # A part is never passed off for the whole.
        with pytest.raises(LogDiverged):
            next(reading)


def test_a_long_read_survives_its_connection(address, proxy, name):
    count, size = 40, 200_000
    data = b"x" * size
    with Client(address) as direct, Client(proxy.address) as client:
        for _ in range(count // 20):
            direct.append(name, [Event("A", data) for _ in range(20)])
        reading = client.read(name)
        versions = []
        for event in reading:
            versions.append(event.version)
            assert len(event.data) == size
            if event.version in (3, 21):
                proxy.cut()
                direct.append(name, Event("Later"))
    assert versions == list(range(1, count + 1))
    assert reading.stream_version == count
    assert proxy.connections > 1


def test_refusals_are_raised(address, name):
    with Client(address) as client:
        with pytest.raises(PositionAheadOfLog) as ahead:
            client.read(after_position=10**9).to_list()
        head = client.head()
        assert ahead.value.log_id == head.log_id
        with pytest.raises(MinPositionNotReached):
            client.read(name, min_position=10**9).to_list()


def test_silence_is_out_of_time(scripted):
    scripted.script("Read", [page(1), Hang()])
    with Client(scripted.address) as client:
        reading = client.read(timeout=0.3)
        assert (next(reading)).position == 1
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            next(reading)
        assert 0.2 < time.monotonic() - begun < 3


def test_the_time_between_two_steps_does_not_count(scripted):
    scripted.script("Read", [page(1), page(2), page(9)])
    with Client(scripted.address) as client:
        reading = client.read(timeout=0.2)
        seen = []
        for event in reading:
            seen.append(event.position)
            time.sleep(0.3)
    assert seen == [1, 2, 9]


def test_no_server_is_unavailable():
    with Client("127.0.0.1:1", timeout=0.3) as client, pytest.raises(Unavailable):
        client.read().to_list()


def test_leaving_a_loop_ends_the_call(scripted):
    scripted.script("Read", [page(1, 2), Hang()])
    with Client(scripted.address) as client:
        for event in client.read():
            if event.position == 2:
                break
        eventually(lambda: scripted.cancelled == ["Read"])


def fail_at_the_second(reading):
    with reading:
        for event in reading:
            _ = 1 / (event.position - 2)


def test_an_exception_in_a_loop_ends_the_call(scripted):
    scripted.script("Read", [page(1, 2), Hang()])
    with Client(scripted.address) as client:
        with pytest.raises(ZeroDivisionError):
            fail_at_the_second(client.read())
        eventually(lambda: scripted.cancelled == ["Read"])


def test_a_closed_reading_is_at_its_end(scripted):
    scripted.script("Read", [page(1, 2), Hang()])
    with Client(scripted.address) as client:
        reading = client.read()
        assert str((next(reading)).id) == event_id(1)
        reading.close()
        reading.close()
        assert reading.to_list() == []
        eventually(lambda: scripted.cancelled == ["Read"])


def test_closing_the_client_does_not_pass_a_part_off_for_the_whole(scripted):
    scripted.script("Read", [page(1, 2), Hang()])
    client = Client(scripted.address)
    reading = client.read()
    next(reading)
    client.close()
    with pytest.raises(ClientClosed):
        reading.to_list()
    with pytest.raises(ClientClosed):
        client.read()
