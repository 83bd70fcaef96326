"""Promise 2: all events of one append, over any number of streams, are recorded next to one
another, or none is."""

import asyncio
import random
from contextlib import suppress

import grpc

from calls import (
    ALL,
    append,
    append_all,
    append_many,
    append_to,
    fail_if,
    head_of,
    make_event,
    read,
    refused,
    to_stream,
)
from checks import check_atomic, check_log
from treering.v1.event_store_service_pb2 import AppendRequest


def ids_of(request: AppendRequest) -> list[str]:
    """Ids of an append in the order of recording."""
    parts = [event.id for part in request.appends for event in part.events]
    return parts + [event.id for event in request.events]


def over_streams(rng: random.Random) -> AppendRequest:
    """An append over a few of ten streams, and of no stream, in any order."""
    parts = [
        to_stream(f"s-{rng.randrange(10)}", *(make_event() for _ in range(rng.randrange(1, 4))))
        for _ in range(rng.randrange(4))
    ]
    return append_all(*parts, events=[make_event() for _ in range(rng.randrange(1, 3))])


async def test_the_events_of_concurrent_appends_are_next_to_one_another(event_store):
    rng = random.Random(2)
    requests = [over_streams(rng) for _ in range(200)]

    async def write(own: list[AppendRequest]) -> None:
        for request in own:
            await append(event_store, request)

    await asyncio.gather(*(write(requests[n::10]) for n in range(10)))

    log = (await read(event_store)).events
    check_log(log)
    check_atomic(log, map(ids_of, requests))
    assert len(log) == sum(len(ids_of(request)) for request in requests)


async def test_of_a_refused_append_nothing_is_recorded(event_store):
    await append(event_store, append_to("a"))
    good = to_stream("b", make_event(), make_event())

    refusals = [
        (append_all(good, to_stream("a", make_event(), expected_version=0)), "VERSION_CONFLICT"),
        (append_all(good, conditions=[fail_if(ALL)]), "CONDITION_FAILED"),
        (append_all(good, events=[make_event("")]), "INVALID_REQUEST"),
        (append_all(good, events=[make_event("x" * 256)]), "LIMIT_EXCEEDED"),
    ]
    for request, reason in refusals:
        await refused(event_store.Append(request), reason)

    assert (await head_of(event_store)).head_position == 1
    assert (await read(event_store, stream="b")).stream_version == 0


async def test_one_appends_conflict_never_harms_its_neighbours(event_store):
    """Good and conflicting appends that travel in one batch."""
    await append(event_store, append_to("a"))
    requests = [
        append_all(to_stream(f"s-{n}", make_event()), to_stream("a", expected_version=n % 2))
        for n in range(200)
    ]

    results = await append_many(event_store, *requests)

    outcomes = [result.WhichOneof("outcome") for result in results]
    assert outcomes == ["failure", "appended"] * 100
    log = (await read(event_store)).events
    check_log(log)
    assert [event.stream for event in log[1:]] == [f"s-{n}" for n in range(1, 200, 2)]


async def test_appends_whose_deadline_passes_are_recorded_whole_or_not_at_all(event_store):
    rng = random.Random(3)
    requests = [over_streams(rng) for _ in range(200)]

    async def try_it(request: AppendRequest) -> None:
        with suppress(grpc.RpcError):
            await event_store.Append(request, timeout=rng.uniform(0, 0.1))

    await asyncio.gather(*(try_it(request) for request in requests))
    await append(event_store, append_to("after"))

    log = (await read(event_store)).events
    check_log(log)
    check_atomic(log, map(ids_of, requests))


async def test_a_read_never_sees_a_part_of_an_append(event_store):
    """Readers that look while appends of five events to three streams are made."""
    stopped = asyncio.Event()

    async def write() -> None:
        for _ in range(60):
            parts = [to_stream(name, make_event()) for name in ("a", "b", "c")]
            await append(event_store, append_all(*parts, events=[make_event(), make_event()]))
        stopped.set()

    async def look() -> None:
        while not stopped.is_set():
            answer = await read(event_store)
            assert answer.head_position % 5 == 0
            assert len(answer.events) == answer.head_position

    await asyncio.gather(write(), look(), look())
