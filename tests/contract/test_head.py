"""GetHead: where the log is now."""

import asyncio
import uuid

from calls import append, append_to, head_of, make_event, refused
from treering.v1.event_store_service_pb2 import AppendRequest, GetHeadRequest


async def test_an_empty_log_is_at_0_with_no_time(event_store):
    head = await head_of(event_store)

    assert head.head_position == 0
    assert not head.HasField("recorded_at")
    assert str(uuid.UUID(head.log_id)) == head.log_id


async def test_the_head_is_the_position_of_the_last_event_and_when_it_was_recorded(event_store):
    for request in (
        append_to("a", make_event(), make_event()),
        AppendRequest(events=[make_event()]),
    ):
        response = await append(event_store, request)

        head = await head_of(event_store)
        assert head.head_position == response.last_position
        assert head.recorded_at == response.recorded_at
        assert head.log_id == response.log_id


async def test_the_head_is_not_moved_by_a_refusal_or_a_repeat(event_store):
    request = append_to("a", expected_version=0)
    await append(event_store, request)
    before = await head_of(event_store)

    await append(event_store, request)
    await refused(event_store.Append(append_to("a", expected_version=0)), "VERSION_CONFLICT")

    assert await head_of(event_store) == before


async def test_the_head_sees_what_was_acknowledged_before_the_call(event_store):
    async def append_and_look(stream: str) -> None:
        for _ in range(20):
            appended = await append(event_store, append_to(stream))
            assert (await head_of(event_store)).head_position >= appended.last_position

    await asyncio.gather(*(append_and_look(f"s-{n}") for n in range(4)))


async def test_any_other_log_is_not_found(event_store):
    await refused(event_store.GetHead(GetHeadRequest(log="other")), "NOT_FOUND")
