# Made by tools/sync_client.py from tests/client/test_async_streams.py.
# Change that one, and run `python tools/sync_client.py`.

import dataclasses
import time
from datetime import timedelta

import grpc
import pytest

from scripted import LOG_ID, Fail, Hang, fail
from treering import (
    Client,
    ClientClosed,
    DeadlineExceeded,
    Deletion,
    Event,
    InvalidRequest,
    NotFound,
    Query,
    Retention,
    StreamDeleted,
    VersionConflict,
)
from treering.v1 import event_store_service_pb2 as pb
from treering.v1 import failure_pb2
from treering.v1 import stream_service_pb2 as stream_pb

Code = grpc.StatusCode


def test_the_head_is_that_of_the_last_append(address, name):
    with Client(address) as client:
        appended = client.append(name, Event("A"))
        head = client.head()
    assert head.position >= appended.last_position
    assert head.log_id == appended.log_id
    assert head.recorded_at is not None


def test_the_head_of_an_empty_log(scripted):
    scripted.script("GetHead", [pb.GetHeadResponse(log_id=LOG_ID)])
    with Client(scripted.address) as client:
        head = client.head()
    assert (head.position, head.log_id, head.recorded_at) == (0, LOG_ID, None)


def test_a_stream_is_described(address, name):
    with Client(address) as client:
        appended = client.append(name, [Event("A"), Event("B")])
        stream = client.stream(name)
    assert stream.name == name
    assert (stream.version, stream.first_version, stream.next_version) == (2, 1, 3)
    assert stream.deletion is Deletion.NONE
    assert stream.retention is None
    assert stream.recorded_at == appended.recorded_at


def test_a_stream_never_written_to_is_not_found(address, name):
    with Client(address) as client:
        with pytest.raises(NotFound):
            client.stream(name)
        with pytest.raises(InvalidRequest):
            client.stream("")


def test_streams_are_listed_page_by_page(address, name):
    names = [f"{name}-{number}" for number in range(5)]
    with Client(address) as client:
        for each in reversed(names):
            client.append(each, Event("A"))
        listed = [stream.name for stream in client.streams(name, page_size=2)]
    assert listed == names


def test_a_stream_with_retention_or_deleted(scripted):
    retention = stream_pb.Retention(max_age={"seconds": 90}, max_count=5, truncate_before=3)
    infos = [
        stream_pb.StreamInfo(stream="a", version=7, retention=retention),
        stream_pb.StreamInfo(stream="b", deletion=stream_pb.DELETION_STATE_PERMANENT),
    ]
    scripted.script("ListStreams", [stream_pb.ListStreamsResponse(streams=infos)])
    with Client(scripted.address) as client:
        first, second = list(client.streams(show_deleted=True))
    assert first.retention.max_age.total_seconds() == 90
    assert (first.retention.max_count, first.retention.truncate_before) == (5, 3)
    assert second.deletion is Deletion.PERMANENT
    assert scripted.requests["ListStreams"][0].show_deleted


def test_asking_is_tried_again(scripted):
    scripted.script(
        "GetHead",
        [Fail(Code.UNAVAILABLE)],
        [fail("STORAGE_UNAVAILABLE", Code.UNAVAILABLE)],
        [pb.GetHeadResponse(log_id=LOG_ID, head_position=7)],
    )
    with Client(scripted.address) as client:
        assert (client.head()).position == 7


def test_asking_has_its_time(scripted):
    scripted.script("GetHead", [Hang()])
    with Client(scripted.address) as client:
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            client.head(timeout=0.3)
        assert time.monotonic() - begun < 3


def info(**fields):
    return stream_pb.StreamInfo(stream="s", **fields)


def test_a_new_retention_is_answered_with_the_stream(scripted):
    kept = stream_pb.Retention(max_age={"seconds": 90}, max_count=5, truncate_before=3)
    answer = info(version=7, first_version=5, next_version=8, retention=kept)
    scripted.script("UpdateStream", [stream_pb.UpdateStreamResponse(stream=answer)])
    retention = Retention(max_age=timedelta(seconds=90), max_count=5)
    with Client(scripted.address) as client:
        stream = client.update_stream("s", retention)
    assert (stream.version, stream.first_version) == (7, 5)
    assert stream.retention == Retention(timedelta(seconds=90), 5, 3)
    (request,) = scripted.requests["UpdateStream"]
    assert request.stream == "s"
    assert request.retention == retention.to_proto()


@pytest.mark.parametrize(
    ("permanent", "deletion"), [(False, Deletion.DELETED), (True, Deletion.PERMANENT)]
)
def test_a_deletion_is_answered_with_the_stream(scripted, permanent, deletion):
    state = f"DELETION_STATE_{deletion.name}"
    answer = info(next_version=8, deletion=state, recorded_at={"seconds": 1})
    scripted.script("DeleteStream", [stream_pb.DeleteStreamResponse(stream=answer)])
    with Client(scripted.address) as client:
        stream = client.delete_stream("s", expected_version=7, permanent=permanent)
    assert (stream.version, stream.first_version, stream.next_version) == (0, 0, 8)
    assert stream.deletion is deletion
    assert stream.retention is None
    (request,) = scripted.requests["DeleteStream"]
    assert (request.stream, request.expected_version) == ("s", 7)
    assert request.permanent is permanent


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("UpdateStream", stream_pb.UpdateStreamResponse(stream=info(version=7))),
        ("DeleteStream", stream_pb.DeleteStreamResponse(stream=info(next_version=8))),
    ],
)
def test_a_change_of_unknown_outcome_is_repeated_as_it_was(scripted, method, answer):
    scripted.script(
        method,
        [Fail(Code.UNAVAILABLE)],
        [fail("OUTCOME_UNKNOWN", Code.UNAVAILABLE)],
        [fail("OVERLOADED", Code.RESOURCE_EXHAUSTED)],
        [answer],
    )
    with Client(scripted.address) as client:
        if method == "UpdateStream":
            client.update_stream("s", Retention(max_count=5))
        else:
            client.delete_stream("s", expected_exists=True)
    first, *again = scripted.requests[method]
    assert again == [first] * 3


def test_a_change_that_was_not_answered_may_have_been_made(scripted):
    scripted.script("DeleteStream", [Hang()])
    scripted.script("UpdateStream", [Hang()])
    with Client(scripted.address) as client:
        for change in (
            lambda: client.delete_stream("s", timeout=0.3),
            lambda: client.update_stream("s", None, timeout=0.3),
        ):
            with pytest.raises(DeadlineExceeded) as late:
                change()
            assert late.value.outcome_unknown


def test_a_refused_deletion_says_what_the_stream_is(scripted):
    conflict = failure_pb2.VersionConflict(stream="s", expected_version=7, actual_version=8)
    scripted.script(
        "DeleteStream", [fail("VERSION_CONFLICT", Code.ABORTED, version_conflict=conflict)]
    )
    with Client(scripted.address) as client, pytest.raises(VersionConflict) as refused:
        client.delete_stream("s", expected_version=7)
    error = refused.value
    assert (error.stream, error.expected_version, error.actual_version) == ("s", 7, 8)
    assert not error.outcome_unknown
    assert len(scripted.requests["DeleteStream"]) == 1


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (fail("NOT_FOUND", Code.NOT_FOUND), NotFound),
        (fail("STREAM_DELETED", Code.FAILED_PRECONDITION), StreamDeleted),
    ],
)
def test_a_stream_that_is_not_there_has_no_retention_to_set(scripted, step, expected):
    scripted.script("UpdateStream", [step])
    with Client(scripted.address) as client, pytest.raises(expected):
        client.update_stream("s", Retention(max_count=5))
    assert len(scripted.requests["UpdateStream"]) == 1


def test_what_makes_no_sense_is_refused_before_the_server_is_asked(scripted):
    with Client(scripted.address) as client:
        with pytest.raises(ValueError, match="max_count is 0"):
            client.update_stream("s", Retention(max_count=0))
        with pytest.raises(TypeError, match="must be a Retention"):
            client.update_stream("s", timedelta(days=1))
        with pytest.raises(ValueError, match="only one of"):
            client.delete_stream("s", expected_version=1, expected_exists=True)
    assert not scripted.requests
    with pytest.raises(ClientClosed):
        client.delete_stream("s")


def read_versions(client, name):
    return [event.version for event in client.read(name)]


def test_what_is_not_kept_can_not_be_read_and_does_not_come_back(address, name):
    with Client(address) as client:
        client.append(name, [Event("A", tags=name) for _ in range(5)])
        stream = client.update_stream(name, Retention(max_count=2))
        assert (stream.version, stream.first_version, stream.next_version) == (5, 4, 6)
        assert stream.retention == Retention(max_count=2)
        assert client.stream(name) == stream
        assert read_versions(client, name) == [4, 5]
        assert len(client.read(query=Query(tags=name)).to_list()) == 2
        stream = client.update_stream(name, None)
        assert (stream.first_version, stream.retention) == (4, None)
        assert read_versions(client, name) == [4, 5]


def test_a_retention_can_be_changed_in_part(address, name):
    with Client(address) as client:
        client.append(name, [Event("A"), Event("B")])
        first = client.update_stream(name, Retention(max_age=timedelta(days=1.5)))
        more = dataclasses.replace(first.retention, max_count=7, truncate_before=2)
        second = client.update_stream(name, more)
        assert second.retention == Retention(timedelta(days=1.5), 7, 2)
        (listed,) = list(client.streams(name))
        assert listed == second
        # The whole is replaced; what was cut off stays so.
        third = client.update_stream(name, Retention())
        assert third.retention == Retention(truncate_before=2)
        with pytest.raises(InvalidRequest) as refused:
            client.update_stream(name, Retention(truncate_before=4))
        assert refused.value.violations[0].field == "retention.truncate_before"


def test_an_old_event_is_kept_no_longer_than_was_said(address, name):
    with Client(address) as client:
        client.append(name, Event("A"))
        client.update_stream(name, Retention(max_age=timedelta(milliseconds=200)))
        time.sleep(0.3)
        assert read_versions(client, name) == []
        assert (client.stream(name)).version == 1


def test_a_deleted_stream_has_no_events_and_its_versions_go_on(address, name):
    with Client(address) as client:
        appended = client.append(name, [Event("A"), Event("B")])
        client.update_stream(name, Retention(max_count=9))
        stream = client.delete_stream(name, expected_version=2)
        assert (stream.version, stream.first_version, stream.next_version) == (0, 0, 3)
        assert (stream.deletion, stream.retention) == (Deletion.DELETED, None)
        assert stream.recorded_at == appended.recorded_at
        assert read_versions(client, name) == []
        assert list(client.streams(name)) == []
        assert list(client.streams(name, show_deleted=True)) == [stream]
        with pytest.raises(NotFound):
            client.update_stream(name, Retention(max_count=9))
        # A repeat, as after an unknown outcome, with any expectation that was met.
        assert client.delete_stream(name, expected_version=2) == stream
        assert client.delete_stream(name, expected_exists=True) == stream
        again = client.append(name, Event("C"), expected_version=0)
        assert again.versions[name] == 3
        assert (client.stream(name)).deletion is Deletion.NONE
        with pytest.raises(VersionConflict) as refused:
            client.delete_stream(name, expected_version=2)
        assert (refused.value.stream, refused.value.actual_version) == (name, 3)


def test_a_name_that_is_deleted_for_good_is_never_used_again(address, name):
    with Client(address) as client:
        client.append(name, Event("A"))
        with client.subscribe(name) as subscription:
            for _ in subscription.events():
                break
            stream = client.delete_stream(name, permanent=True)
            assert (stream.deletion, stream.next_version) == (Deletion.PERMANENT, 2)
            with pytest.raises(StreamDeleted):
                for _ in subscription.events():
                    pass
        for refused in (
            lambda: client.append(name, Event("B")),
            lambda: client.update_stream(name, Retention(max_count=9)),
            lambda: next(client.subscribe(name)),
        ):
            with pytest.raises(StreamDeleted, match=name):
                refused()
        assert client.delete_stream(name) == stream


def test_what_never_was_can_be_deleted(address, name):
    with Client(address) as client:
        stream = client.delete_stream(name)
        assert (stream.version, stream.next_version) == (0, 1)
        assert (stream.deletion, stream.recorded_at) == (Deletion.NONE, None)
        with pytest.raises(NotFound):
            client.stream(name)
        with pytest.raises(VersionConflict):
            client.delete_stream(name, expected_exists=True)
        stream = client.delete_stream(name, permanent=True)
        assert (stream.deletion, stream.next_version) == (Deletion.PERMANENT, 1)
        assert client.stream(name) == stream
