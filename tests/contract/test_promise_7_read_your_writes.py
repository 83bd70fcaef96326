"""Promise 7: a read given `min_position` does not answer from a state older than that; it
waits for nine tenths of the call's deadline, at most 5 s."""

import asyncio
import time

import pytest

from calls import ALL, append, append_to, head_of, make_event, read, refused
from treering.v1.event_store_service_pb2 import ReadRequest


async def test_a_position_that_is_reached(event_store):
    response = await append(event_store, append_to("a", make_event(), make_event()))

    for min_position in (0, 1, response.last_position):
        answer = await read(event_store, min_position=min_position)
        assert (answer.head_position, len(answer.events)) == (2, 2)


async def test_a_read_waits_for_the_position(event_store):
    await append(event_store, append_to("a"))
    reading = asyncio.create_task(read(event_store, stream="a", min_position=3))
    await append(event_store, append_to("b"))
    assert not reading.done()

    await append(event_store, append_to("a"))

    answer = await reading
    assert answer.head_position >= 3
    assert (answer.positions, answer.stream_version) == ([1, 3], 2)


@pytest.mark.parametrize(
    ("timeout", "least", "most"), [(1, 0.8, 1.0), (None, 4.5, 6), (60, 4.5, 6)]
)
async def test_a_position_that_is_not_reached_in_time(event_store, timeout, least, most):
    await append(event_store, append_to("a"))
    began = time.monotonic()

    refusal = await refused(
        event_store.Read(ReadRequest(query=ALL, min_position=2), timeout=timeout),
        "MIN_POSITION_NOT_REACHED",
    )

    assert least <= time.monotonic() - began <= most
    state = refusal.failure.log_state
    assert (state.head_position, state.log_id) == (1, (await head_of(event_store)).log_id)
    assert refusal.failure.HasField("retry_after"), "repeating can help"


async def test_each_writer_reads_its_writes(event_store):
    async def write_and_read(stream: str) -> None:
        for version in range(1, 16):
            response = await append(event_store, append_to(stream))
            answer = await read(event_store, stream=stream, min_position=response.last_position)
            assert answer.stream_version == version
            assert answer.head_position >= response.last_position

    await asyncio.gather(*(write_and_read(f"s-{n}") for n in range(5)))
