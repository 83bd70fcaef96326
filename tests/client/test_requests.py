from datetime import UTC, datetime, timedelta

import pytest

from treering import Checkpoint, Condition, Event, Query, Retention, StreamAppend
from treering.appends import write_append
from treering.requests import (
    delete_stream_request,
    read_request,
    subscribe_request,
    update_stream_request,
)
from treering.v1 import event_store_service_pb2 as pb
from treering.v1 import stream_service_pb2 as stream_pb

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


DELETE = {"expected_version": None, "expected_exists": False, "permanent": False}


def test_a_retention_is_sent_whole():
    age = timedelta(days=2, seconds=3, microseconds=4)
    request = update_stream_request("s", Retention(max_age=age, max_count=5, truncate_before=6))
    assert request == stream_pb.UpdateStreamRequest(
        stream="s",
        retention={
            "max_age": {"seconds": 2 * 86_400 + 3, "nanos": 4000},
            "max_count": 5,
            "truncate_before": 6,
        },
    )
    assert Retention.from_proto(request.retention) == Retention(age, 5, 6)


@pytest.mark.parametrize("retention", [None, Retention()])
def test_for_ever_is_a_retention_with_no_part(retention):
    request = update_stream_request("s", retention)
    assert request == stream_pb.UpdateStreamRequest(stream="s", retention={})
    assert not request.retention.HasField("max_age")
    assert not request.retention.HasField("max_count")


@pytest.mark.parametrize(
    "retention",
    [
        Retention(max_age=timedelta(0)),
        Retention(max_age=timedelta(microseconds=-1)),
        Retention(max_count=0),
        Retention(max_count=-1),
        Retention(max_count=2**64),
        Retention(truncate_before=-1),
    ],
    ids=repr,
)
def test_a_retention_that_can_not_be_is_refused_here(retention):
    with pytest.raises(ValueError):
        update_stream_request("s", retention)


@pytest.mark.parametrize("retention", [Retention(max_age=90), timedelta(days=1), {"max_count": 1}])
def test_a_retention_of_the_wrong_type_is_refused_here(retention):
    with pytest.raises(TypeError):
        update_stream_request("s", retention)


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ({}, {}),
        ({"expected_version": 0}, {"expected_version": 0}),
        ({"expected_version": 7, "permanent": True}, {"expected_version": 7, "permanent": True}),
        ({"expected_exists": True}, {"expected_exists": True}),
    ],
)
def test_of_a_deletion_only_what_was_given_is_sent(given, fields):
    request = delete_stream_request("s", **(DELETE | given))
    assert request == stream_pb.DeleteStreamRequest(stream="s", **fields)
    expectation = next((each for each in given if each.startswith("expected")), None)
    assert request.WhichOneof("expectation") == expectation


@pytest.mark.parametrize(
    "given",
    [
        {"expected_version": 0, "expected_exists": True},
        {"expected_version": -1},
        {"expected_version": 2**64},
    ],
)
def test_a_deletion_that_can_not_be_is_refused_here(given):
    with pytest.raises(ValueError):
        delete_stream_request("s", **(DELETE | given))
