from datetime import UTC, datetime

import pytest

from treering import Checkpoint, Condition, Event, Query, StreamAppend
from treering.appends import write_append
from treering.requests import read_request, subscribe_request
from treering.v1 import event_store_service_pb2 as pb

READ = {
    "stream": None,
    "query": None,
    "backwards": False,
    "after_position": None,
    "after_version": None,
    "after_time": None,
    "until_position": None,
    "until_time": None,
    "limit": None,
    "min_position": 0,
    "expected_log_id": None,
}
SUBSCRIBE = {
    "stream": None,
    "query": None,
    "after": None,
    "after_position": None,
    "after_version": None,
    "after_time": None,
    "from_head": False,
    "heartbeat": None,
    "expected_log_id": None,
}
APPEND = {
    "expected_version": None,
    "expected_exists": None,
    "conditions": (),
    "expected_log_id": None,
}
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def append_request(target, events=(), **arguments):
    request = pb.AppendRequest()
    write_append(request, target, events, **(APPEND | arguments))
    return request


def test_neither_stream_nor_query_is_the_whole_log():
    assert read_request(**READ).query.all
    assert subscribe_request(**SUBSCRIBE).query.all


def test_nothing_is_sent_that_was_not_given():
    request = read_request(**(READ | {"stream": "s"}))
    assert request == pb.ReadRequest(stream="s", direction=pb.DIRECTION_FORWARDS)
    assert not request.HasField("limit")
    assert subscribe_request(**(SUBSCRIBE | {"stream": "s"})) == pb.SubscribeRequest(stream="s")


@pytest.mark.parametrize(
    "more",
    [
        {"after_position": 0},
        {"after_version": 0},
        {"after_time": NOW},
        {"until_position": 0},
        {"until_time": NOW},
        {"limit": 0},
    ],
)
def test_zero_is_something_given(more):
    (field,) = more
    request = read_request(**(READ | {"stream": "s"} | more))
    assert request.HasField(field)


@pytest.mark.parametrize(
    "two",
    [
        {"stream": "s", "query": Query.all()},
        {"after_position": 0, "after_version": 0},
        {"after_version": 0, "after_time": NOW},
        {"until_position": 0, "until_time": NOW},
    ],
)
def test_a_read_does_not_choose_between_two(two):
    with pytest.raises(ValueError, match="only one of"):
        read_request(**(READ | two))


@pytest.mark.parametrize(
    "two",
    [
        {"stream": "s", "query": Query.all()},
        {"after": Checkpoint("", 0), "after_position": 0},
        {"after_position": 0, "from_head": True},
        {"after_version": 0, "after_time": NOW},
    ],
)
def test_a_subscription_does_not_choose_between_two(two):
    with pytest.raises(ValueError, match="only one of"):
        subscribe_request(**(SUBSCRIBE | two))


def test_a_checkpoint_is_sent_whole():
    after = Checkpoint("log", 7, "id")
    request = subscribe_request(**(SUBSCRIBE | {"stream": "s", "after": after, "heartbeat": 0.25}))
    expected = pb.SubscribeRequest(
        stream="s", after_position=7, after_event_id="id", expected_log_id="log"
    )
    expected.heartbeat_interval.nanos = 250_000_000
    assert request == expected
    with pytest.raises(ValueError, match="log id"):
        subscribe_request(**(SUBSCRIBE | {"after": after, "expected_log_id": "other"}))


def test_an_append_to_one_stream():
    first, second = Event("A"), Event("B")
    request = append_request("s", [first, second], expected_version=0, expected_log_id="log")
    assert request.expected_log_id == "log"
    assert len(request.appends) == 1
    assert request.appends[0].HasField("expected_version")
    assert [event.id for event in request.appends[0].events] == [str(first.id), str(second.id)]
    assert not request.events


def test_an_append_to_no_stream():
    event = Event("A")
    condition = Condition(Query(tags="t"), 7)
    request = append_request(None, event, conditions=[condition])
    assert [each.id for each in request.events] == [str(event.id)]
    assert request.conditions[0].after_position == 7
    assert request.conditions[0].fail_if_match == Query(tags="t").to_proto()


def test_an_append_to_several_streams_and_none():
    parts = [StreamAppend("a", Event("A"), expected_exists=False), StreamAppend("b")]
    request = append_request(parts, (Event("C") for _ in range(2)))
    assert [each.stream for each in request.appends] == ["a", "b"]
    assert request.appends[0].HasField("expected_exists")
    assert len(request.events) == 2


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("s", {"expected_version": 0, "expected_exists": False}),
        (None, {"expected_version": 0}),
        ([], {"expected_exists": True}),
        ("s", {"expected_version": -1}),
    ],
)
def test_a_contradictory_append_is_refused_here(target, arguments):
    with pytest.raises(ValueError):
        append_request(target, Event("A"), **arguments)


def test_only_events_are_appended():
    with pytest.raises(TypeError, match="of type Event, not dict"):
        append_request("s", [{"type": "A"}])
    with pytest.raises(TypeError, match="of type Event, not str"):
        append_request("s", "A")
    with pytest.raises(TypeError, match="StreamAppend, not Event"):
        append_request([Event("A")])
