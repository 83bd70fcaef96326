# Made by tools/sync_client.py from tests/client/test_async_streams.py.
# Change that one, and run `python tools/sync_client.py`.

import time

import grpc
import pytest

from scripted import LOG_ID, Fail, Hang, fail
from treering import Client, DeadlineExceeded, Deletion, Event, InvalidRequest, NotFound
from treering.v1 import event_store_service_pb2 as pb
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
