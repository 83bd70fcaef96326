import time
from datetime import UTC, datetime

import grpc
import pytest

from scripted import LOG_ID, Fail, Hang, Refuse, fail, failure
from treering import (
    AsyncClient,
    Condition,
    ConditionFailed,
    Conflict,
    DeadlineExceeded,
    Event,
    EventIdConflict,
    InvalidRequest,
    LimitExceeded,
    LogMismatch,
    Overloaded,
    Query,
    ReadOnly,
    ServerDefect,
    StreamAppend,
    TreeringError,
    Unavailable,
    VersionConflict,
)
from treering.channels import DEAD_AFTER_SECONDS

Code = grpc.StatusCode


async def test_what_was_appended_is_read(address, name):
    time = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    first = Event("Placed", {"total": 42}, tags=["b", "a"], metadata={"k": "v"}, time=time)
    second = Event("Noted", b"\x00\xff")
    async with AsyncClient(address) as client:
        appended = await client.append(name, [first, second], expected_version=0)
        events = await client.read(name).to_list()
    assert appended.last_position == appended.first_position + 1
    assert appended.versions == {name: 2}
    assert not appended.duplicate
    assert [event.id for event in events] == [first.id, second.id]
    one, two = events
    assert (one.type, one.json(), one.content_type) == ("Placed", {"total": 42}, first.content_type)
    assert (set(one.tags), one.metadata, one.time) == ({"a", "b"}, {"k": "v"}, time)
    assert (one.position, one.stream, one.version) == (appended.first_position, name, 1)
    assert (two.data, two.content_type, two.time) == (second.data, second.content_type, None)
    assert two.recorded_at == appended.recorded_at


async def test_a_repeat_answers_as_the_first_time(address, name):
    event = Event("Placed", {"total": 42})
    async with AsyncClient(address) as client:
        first = await client.append(name, event, expected_version=0)
        again = await client.append(name, event, expected_version=0)
    assert again.duplicate
    assert again.first_position == first.first_position
    assert again.checkpoint == first.checkpoint


async def test_a_version_conflict_tells_what_is(address, name):
    async with AsyncClient(address) as client:
        await client.append(name, [Event("A"), Event("B")])
        with pytest.raises(VersionConflict) as expected:
            await client.append(name, Event("C"), expected_version=1)
        with pytest.raises(Conflict) as existence:
            await client.append(name, Event("C"), expected_exists=False)
        await client.append(name, Event("C"), expected_exists=True)
    error = expected.value
    assert (error.stream, error.expected_version, error.actual_version) == (name, 1, 2)
    assert (error.code, error.reason) == (Code.ABORTED, "VERSION_CONFLICT")
    assert existence.value.expected_exists is False
    assert not error.outcome_unknown


async def test_a_condition_guards_a_decision(address, name):
    query = Query(types="Taken", tags=name)
    async with AsyncClient(address) as client:
        reading = client.read(query=query)
        assert await reading.to_list() == []
        condition = Condition(query, reading.head_position)
        first = await client.append(None, Event("Taken", tags=name), conditions=[condition])
        with pytest.raises(ConditionFailed) as failed:
            await client.append(None, Event("Taken", tags=name), conditions=[condition])
    assert failed.value.position == first.first_position
    assert failed.value.condition_index == 0


async def test_several_streams_are_written_together(address, name):
    one, two, three = f"{name}-1", f"{name}-2", Event("C", tags=name)
    parts = [
        StreamAppend(one, [Event("A"), Event("B")], expected_version=0),
        StreamAppend(two, Event("A"), expected_exists=False),
        StreamAppend(f"{name}-3", expected_version=0),
    ]
    async with AsyncClient(address) as client:
        appended = await client.append(parts, three)
        (recorded,) = await client.read(query=Query(tags=name)).to_list()
    assert appended.versions == {one: 2, two: 1}
    assert recorded.position == appended.last_position == appended.first_position + 3
    assert (recorded.stream, recorded.version) == ("", 0)


async def test_a_taken_id_is_a_conflict(address, name):
    event = Event("A")
    async with AsyncClient(address) as client:
        first = await client.append(name, event)
        with pytest.raises(EventIdConflict) as taken:
            await client.append(name, Event("B", id=event.id))
    assert taken.value.event_id == str(event.id)
    assert taken.value.position == first.first_position


async def test_what_is_wrong_is_named_field_by_field(address, name):
    async with AsyncClient(address) as client:
        with pytest.raises(LimitExceeded) as over:
            await client.append(name, Event("A", b"x" * (1024 * 1024 + 1)))
        with pytest.raises(InvalidRequest) as empty:
            await client.append(name, Event(""))
        with pytest.raises(InvalidRequest):
            await client.append(name)
    (violation,) = over.value.violations
    assert violation.field == "appends[0].events[0].data"
    assert (violation.limit, violation.actual) == (1024 * 1024, 1024 * 1024 + 1)
    assert empty.value.violations[0].field == "appends[0].events[0].type"


async def test_a_decision_about_another_log_is_refused(address, name):
    async with AsyncClient(address) as client:
        with pytest.raises(LogMismatch) as other:
            await client.append(name, Event("A"), expected_log_id=LOG_ID)
        head = await client.head()
        assert other.value.log_id == head.log_id
        appended = await client.append(name, Event("A"), expected_log_id=head.log_id)
    assert appended.log_id == head.log_id


async def test_wrong_arguments_do_not_reach_the_server(scripted):
    async with AsyncClient(scripted.address) as client:
        with pytest.raises(ValueError):
            await client.append(None, Event("A"), expected_version=0)
        with pytest.raises(TypeError):
            await client.append("s", [Event("A"), "B"])
    assert not scripted.requests


async def test_what_may_pass_is_tried_again_with_the_same_ids(scripted):
    scripted.appends.extend(
        [
            Fail(Code.UNAVAILABLE),
            fail("STORAGE_UNAVAILABLE", Code.UNAVAILABLE),
            fail("OVERLOADED", Code.RESOURCE_EXHAUSTED),
            Fail(Code.INTERNAL),
        ]
    )
    event = Event("A")
    async with AsyncClient(scripted.address) as client:
        await client.append("s", event)
    assert scripted.appended_ids() == [str(event.id)] * 5


async def test_the_pause_that_the_server_asks_for_is_made(scripted):
    pause = {"nanos": 300_000_000}
    scripted.appends.append(fail("OVERLOADED", Code.RESOURCE_EXHAUSTED, retry_after=pause))
    async with AsyncClient(scripted.address) as client:
        begun = time.monotonic()
        await client.append("s", Event("A"))
    assert time.monotonic() - begun >= 0.3


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (fail("READ_ONLY", Code.FAILED_PRECONDITION), ReadOnly),
        (fail("CONDITION_FAILED", Code.ABORTED), ConditionFailed),
        (Fail(Code.ABORTED), Conflict),
        (Fail(Code.RESOURCE_EXHAUSTED), TreeringError),
        (Fail(Code.UNIMPLEMENTED), TreeringError),
    ],
)
async def test_what_is_final_is_tried_once(scripted, step, expected):
    scripted.appends.append(step)
    async with AsyncClient(scripted.address) as client:
        with pytest.raises(expected) as raised:
            await client.append("s", Event("A"))
    assert raised.value.code is step.code
    assert len(scripted.appended_ids()) == 1


async def test_a_refusal_is_tried_once(scripted):
    scripted.appends.append(Refuse(failure("VERSION_CONFLICT", Code.ABORTED)))
    async with AsyncClient(scripted.address) as client:
        with pytest.raises(VersionConflict):
            await client.append("s", Event("A"))
        await client.append("s", Event("B"))
    assert len(scripted.appended_ids()) == 2


async def test_a_defect_is_tried_a_few_times(scripted):
    scripted.appends.extend([Fail(Code.INTERNAL)] * 9)
    async with AsyncClient(scripted.address) as client:
        with pytest.raises(ServerDefect) as raised:
            await client.append("s", Event("A"))
    assert raised.value.outcome_unknown
    assert len(scripted.appended_ids()) == 3


async def test_attempts_can_be_bounded(scripted):
    scripted.appends.extend([Fail(Code.UNAVAILABLE)] * 9)
    async with AsyncClient(scripted.address, max_attempts=2) as client:
        with pytest.raises(Unavailable):
            await client.append("s", Event("A"))
    assert len(scripted.appended_ids()) == 2


async def test_an_append_without_an_answer_is_out_of_time(scripted):
    scripted.appends.append(Hang())
    async with AsyncClient(scripted.address) as client:
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded) as raised:
            await client.append("s", Event("A"), timeout=0.4)
        assert 0.3 < time.monotonic() - begun < 3
        assert raised.value.outcome_unknown
        await client.append("s", Event("B"))


async def test_the_last_failure_is_raised_when_the_time_is_up(scripted):
    scripted.appends.extend([fail("OVERLOADED", Code.RESOURCE_EXHAUSTED)] * 99)
    async with AsyncClient(scripted.address, timeout=0.5) as client:
        with pytest.raises(Overloaded):
            await client.append("s", Event("A"))
    assert len(scripted.appended_ids()) > 1


async def test_no_server_is_unavailable():
    async with AsyncClient("127.0.0.1:1", timeout=0.5) as client:
        begun = time.monotonic()
        with pytest.raises(Unavailable) as raised:
            await client.append("s", Event("A"))
        assert time.monotonic() - begun < 3
    assert raised.value.reason == ""


async def test_a_lost_answer_is_no_second_append(address, proxy, name):
    event = Event("A")
    async with AsyncClient(address) as direct, AsyncClient(proxy.address) as client:
        await client.append(name, Event("First"))
        cut = proxy.lose_answers_until(lambda: _is_recorded(address, name, 2))
        appended = await client.append(name, event, expected_version=1)
        cut.join()
        events = await direct.read(name).to_list()
    assert appended.duplicate
    assert [each.id for each in events[1:]] == [event.id]
    assert appended.last_position == events[-1].position


async def test_a_dead_connection_is_left(proxy, name):
    async with AsyncClient(proxy.address) as client:
        await client.append(name, Event("A"))
        proxy.freeze()
        with pytest.raises(DeadlineExceeded):
            await client.append(name, Event("B"), timeout=DEAD_AFTER_SECONDS + 0.2)
        await client.append(name, Event("C"), timeout=2.0)
    assert proxy.connections == 2


def _is_recorded(address, name, version):
    """Asks past the proxy, from its own thread."""
    with grpc.insecure_channel(address) as channel:
        from treering.v1 import stream_service_pb2 as pb
        from treering.v1.stream_service_pb2_grpc import StreamServiceStub

        response = StreamServiceStub(channel).GetStream(pb.GetStreamRequest(stream=name))
        return response.stream.version >= version
