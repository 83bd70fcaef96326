import time

import grpc
import pytest

from scripted import LOG_ID, Fail, Hang, fail
from treering import AsyncClient, DeadlineExceeded, Deletion, Event, InvalidRequest, NotFound
from treering.v1 import event_store_service_pb2 as pb
from treering.v1 import stream_service_pb2 as stream_pb

Code = grpc.StatusCode


async def test_the_head_is_that_of_the_last_append(address, name):
    async with AsyncClient(address) as client:
        appended = await client.append(name, Event("A"))
        head = await client.head()
    assert head.position >= appended.last_position
    assert head.log_id == appended.log_id
    assert head.recorded_at is not None


async def test_the_head_of_an_empty_log(scripted):
    scripted.script("GetHead", [pb.GetHeadResponse(log_id=LOG_ID)])
    async with AsyncClient(scripted.address) as client:
        head = await client.head()
    assert (head.position, head.log_id, head.recorded_at) == (0, LOG_ID, None)


async def test_a_stream_is_described(address, name):
    async with AsyncClient(address) as client:
        appended = await client.append(name, [Event("A"), Event("B")])
        stream = await client.stream(name)
    assert stream.name == name
    assert (stream.version, stream.first_version, stream.next_version) == (2, 1, 3)
    assert stream.deletion is Deletion.NONE
    assert stream.retention is None
    assert stream.recorded_at == appended.recorded_at


async def test_a_stream_never_written_to_is_not_found(address, name):
    async with AsyncClient(address) as client:
        with pytest.raises(NotFound):
            await client.stream(name)
        with pytest.raises(InvalidRequest):
            await client.stream("")


async def test_streams_are_listed_page_by_page(address, name):
    names = [f"{name}-{number}" for number in range(5)]
    async with AsyncClient(address) as client:
        for each in reversed(names):
            await client.append(each, Event("A"))
        listed = [stream.name async for stream in client.streams(name, page_size=2)]
    assert listed == names


async def test_a_stream_with_retention_or_deleted(scripted):
    retention = stream_pb.Retention(max_age={"seconds": 90}, max_count=5, truncate_before=3)
    infos = [
        stream_pb.StreamInfo(stream="a", version=7, retention=retention),
        stream_pb.StreamInfo(stream="b", deletion=stream_pb.DELETION_STATE_PERMANENT),
    ]
    scripted.script("ListStreams", [stream_pb.ListStreamsResponse(streams=infos)])
    async with AsyncClient(scripted.address) as client:
        first, second = [stream async for stream in client.streams(show_deleted=True)]
    assert first.retention.max_age.total_seconds() == 90
    assert (first.retention.max_count, first.retention.truncate_before) == (5, 3)
    assert second.deletion is Deletion.PERMANENT
    assert scripted.requests["ListStreams"][0].show_deleted


async def test_asking_is_tried_again(scripted):
    scripted.script(
        "GetHead",
        [Fail(Code.UNAVAILABLE)],
        [fail("STORAGE_UNAVAILABLE", Code.UNAVAILABLE)],
        [pb.GetHeadResponse(log_id=LOG_ID, head_position=7)],
    )
    async with AsyncClient(scripted.address) as client:
        assert (await client.head()).position == 7


async def test_asking_has_its_time(scripted):
    scripted.script("GetHead", [Hang()])
    async with AsyncClient(scripted.address) as client:
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await client.head(timeout=0.3)
        assert time.monotonic() - begun < 3
