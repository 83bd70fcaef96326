"""Promise 4: positions and versions are dense and follow commit order; whoever has seen
position p never later sees a new event at or below it; `recorded_at` never falls."""

import asyncio

from calls import append, append_all, append_to, head_of, make_event, read, subscribed, to_stream
from checks import check_log, check_subscription
from treering.v1.event_store_service_pb2 import AppendRequest


async def write_some(event_store, writer: int, count: int = 30) -> None:
    """Appends of one writer: single events, several streams, no stream."""
    for n in range(count):
        match n % 3:
            case 0:
                request = append_to(f"s-{writer % 3}", make_event(), make_event())
            case 1:
                request = append_all(
                    to_stream("shared", make_event()), to_stream(f"s-{writer}", make_event())
                )
            case _:
                request = AppendRequest(events=[make_event()])
        await append(event_store, request)


async def test_positions_and_versions_are_dense_under_concurrent_writers(event_store):
    await asyncio.gather(*(write_some(event_store, n) for n in range(8)))

    log = (await read(event_store)).events
    check_log(log)
    assert len(log) == 8 * 50


async def test_positions_follow_the_order_of_acknowledgement(event_store):
    """An append that begins after another was acknowledged is above it."""
    highest = 0

    async def write(stream: str) -> None:
        nonlocal highest
        for _ in range(30):
            acknowledged = highest
            response = await append(event_store, append_to(stream))
            assert response.first_position > acknowledged
            highest = max(highest, response.last_position)

    await asyncio.gather(*(write(f"s-{n}") for n in range(6)))


async def test_nothing_new_ever_appears_at_or_below_a_position_seen(event_store):
    """A reader that always goes on after the last head it saw misses nothing."""
    writers = asyncio.gather(*(write_some(event_store, n) for n in range(6)))
    seen, head = [], 0
    while not writers.done():
        answer = await read(event_store, after_position=head)
        seen += answer.events
        assert [e.position for e in answer.events] == list(
            range(head + 1, answer.head_position + 1)
        )
        head = answer.head_position
    await writers
    seen += (await read(event_store, after_position=head)).events

    check_subscription(seen, (await read(event_store)).events)


async def test_what_get_head_told_is_readable_and_complete(event_store):
    writers = asyncio.gather(*(write_some(event_store, n) for n in range(4)))
    while not writers.done():
        head = (await head_of(event_store)).head_position
        answer = await read(event_store, until_position=head)
        assert answer.positions == list(range(1, head + 1))
    await writers


async def test_recorded_at_never_falls_and_is_that_of_the_answer(event_store):
    responses = [await append(event_store, append_to("a")) for _ in range(50)]

    log = (await read(event_store)).events
    check_log(log)
    assert [e.recorded_at for e in log] == [r.recorded_at for r in responses]


async def test_subscribers_see_one_order(event_store):
    async with subscribed(event_store) as one, subscribed(event_store) as other:
        await asyncio.gather(*(write_some(event_store, n) for n in range(4)))
        received = await asyncio.gather(one.until_received(200), other.until_received(200))

    log = (await read(event_store)).events
    for events in received:
        check_subscription(events, log)
