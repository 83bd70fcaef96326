"""Promise 6: an append that repeats an earlier one writes nothing and answers with the
positions and versions of the first time."""

import asyncio
from contextlib import suppress

import grpc
import pytest

from calls import (
    ALL,
    append,
    append_all,
    append_many,
    append_to,
    fail_if,
    head_of,
    make_event,
    new_id,
    read,
    reason_of,
    refused,
    timestamp,
    to_stream,
)
from treering.v1.event_pb2 import Event
from treering.v1.event_store_service_pb2 import AppendRequest, AppendResponse


def changed(event: Event, **fields) -> Event:
    """The same event with some fields set to something else."""
    copy = Event()
    copy.CopyFrom(event)
    for name, value in fields.items():
        copy.ClearField(name)
        copy.MergeFrom(Event(**{name: value}))
    return copy


async def repeats(event_store, first: AppendResponse, repeat: AppendRequest) -> None:
    """Makes an append that must be found to repeat the one that was answered with `first`."""
    head = await head_of(event_store)
    expected = AppendResponse()
    expected.CopyFrom(first)
    expected.duplicate = True

    assert await append(event_store, repeat) == expected
    assert await head_of(event_store) == head


async def conflicts(event_store, request: AppendRequest, event_id: str, position: int) -> None:
    """Makes an append that must be refused for this id, and that must change nothing."""
    head = await head_of(event_store)

    refusal = await refused(event_store.Append(request), "EVENT_ID_CONFLICT")

    conflict = refusal.failure.event_id_conflict
    assert (conflict.id, conflict.position) == (event_id, position)
    assert await head_of(event_store) == head


async def test_a_repeat_writes_nothing_and_answers_with_the_first_time(event_store):
    request = append_all(
        to_stream("a", make_event(), make_event()),
        to_stream("b", make_event()),
        to_stream("a", make_event()),
        events=[make_event()],
    )
    await append(event_store, append_to("a"), append_to("b"))
    first = await append(event_store, request)
    await append(event_store, append_to("a"), append_to("b"), append_to("c"))

    await repeats(event_store, first, request)
    await repeats(event_store, first, request)


@pytest.mark.parametrize(
    "checks",
    [
        {"appends": [to_stream("a", expected_version=99)]},
        {"appends": [to_stream("c", expected_exists=True)]},
        {"conditions": [fail_if(ALL)]},
        {"conditions": [fail_if(ALL, 99)]},
        {"expected_log_id": new_id()},
    ],
    ids=["version", "existence", "condition", "condition ahead", "log id"],
)
async def test_a_repeat_is_looked_for_before_anything_is_checked(event_store, checks):
    event = make_event()
    first = await append(event_store, append_to("b", event))
    request = append_to("b", event)
    request.MergeFrom(AppendRequest(**checks))

    await repeats(event_store, first, request)


async def test_the_repeat_of_a_checked_append(event_store):
    """The caller's retry, as it is: the first answer was lost."""
    await append(event_store, append_to("a"))
    request = append_all(
        to_stream("a", make_event(), expected_version=1), conditions=[fail_if(ALL, 1)]
    )
    first = await append(event_store, request)

    await repeats(event_store, first, request)


EVENT = make_event(
    "T",
    "x",
    "y",
    data=b"data",
    content_type="application/json",
    metadata={"trace": "1"},
    time=timestamp(1),
)

SAME = {
    "metadata": changed(EVENT, metadata={"trace": "2"}),
    "no metadata": changed(EVENT, metadata={}),
    "time": changed(EVENT, time=timestamp(2)),
    "no time": Event(id=EVENT.id, type="T", tags=["x", "y"], data=b"data"),
    "content type left out": changed(EVENT, content_type=""),
    "tags in another order": changed(EVENT, tags=["y", "x"]),
    "a tag twice": changed(EVENT, tags=["x", "y", "x"]),
    "id in capitals": changed(EVENT, id=EVENT.id.upper()),
}


@pytest.mark.parametrize("name", SAME)
async def test_what_is_not_compared_or_counts_as_the_same(event_store, name):
    first = await append(event_store, append_to("a", EVENT))

    await repeats(event_store, first, append_to("a", SAME[name]))

    assert (await read(event_store)).events[0].metadata == {"trace": "1"}, "the first ones stay"


DIFFERENT = {
    "type": append_to("a", changed(EVENT, type="U")),
    "data": append_to("a", changed(EVENT, data=b"Data")),
    "no data": append_to("a", changed(EVENT, data=b"")),
    "content type": append_to("a", changed(EVENT, content_type="text/plain")),
    "a tag more": append_to("a", changed(EVENT, tags=["x", "y", "z"])),
    "a tag less": append_to("a", changed(EVENT, tags=["x"])),
    "stream": append_to("b", EVENT),
    "no stream": AppendRequest(events=[EVENT]),
    "a new event after it": append_to("a", EVENT, make_event()),
    "a new event before it": append_to("a", make_event(), EVENT),
    "a new event elsewhere": append_all(to_stream("a", EVENT), events=[make_event()]),
    "a server-made id beside it": append_to("a", EVENT, make_event(id="")),
}


@pytest.mark.parametrize("name", DIFFERENT)
async def test_any_other_append_with_a_known_id_is_a_conflict(event_store, name):
    await append(event_store, append_to("other"), append_to("a", EVENT))

    await conflicts(event_store, DIFFERENT[name], EVENT.id, position=2)


async def test_a_conflict_names_the_first_taken_id_in_the_order_of_the_request(event_store):
    events = [make_event() for _ in range(4)]
    await append(event_store, append_to("a", *events))

    request = append_all(
        to_stream("b", make_event(), events[2]), to_stream("c", events[0]), events=[events[1]]
    )

    await conflicts(event_store, request, events[2].id, position=3)


async def test_a_repeat_of_a_run_within_one_append(event_store):
    events = [make_event() for _ in range(5)]
    await append(event_store, append_to("z"))
    first = await append(event_store, append_to("a", *events))

    response = await append(event_store, append_to("a", *events[1:4]))

    assert response.duplicate
    assert (response.first_position, response.last_position) == (3, 5)
    assert [(v.stream, v.version) for v in response.versions] == [("a", 4)]
    assert response.recorded_at == first.recorded_at


async def test_a_repeat_across_appends_that_lie_next_to_one_another(event_store):
    a, b, c = make_event(), make_event(), make_event()
    await append(event_store, append_to("a", a))
    await append(event_store, append_to("b", b))
    last = await append(event_store, AppendRequest(events=[c]))

    response = await append(
        event_store, append_all(to_stream("a", a), to_stream("b", b), events=[c])
    )

    assert response.duplicate
    assert (response.first_position, response.last_position) == (1, 3)
    assert [(v.stream, v.version) for v in response.versions] == [("a", 1), ("b", 1)]
    assert response.recorded_at == last.recorded_at, "its last event's"


async def test_events_that_are_not_next_to_one_another_are_no_repeat(event_store):
    a, b = make_event(), make_event()
    await append(event_store, append_to("a", a), append_to("x"), append_to("a", b))

    await conflicts(event_store, append_to("a", a, b), a.id, position=1)


async def test_events_in_another_order_are_no_repeat(event_store):
    a, b = make_event(), make_event()
    await append(event_store, append_to("s", a, b))

    await conflicts(event_store, append_to("s", b, a), b.id, position=2)
    await conflicts(event_store, append_all(to_stream("s", a), events=[b]), a.id, position=1)


async def test_events_of_no_stream_are_repeated(event_store):
    request = AppendRequest(events=[make_event(), make_event()])
    first = await append(event_store, request)

    await repeats(event_store, first, request)


async def test_a_repeat_among_the_earlier_appends_of_the_same_batch(event_store):
    request = append_all(to_stream("a", make_event(), expected_version=0), events=[make_event()])
    other = append_to("b", make_event(id=request.events[0].id))

    first, repeat, conflict, again = await append_many(
        event_store, request, request, other, request
    )

    for result in (repeat, again):
        assert result.appended.duplicate
        assert result.appended.last_position == first.appended.last_position == 2
    assert reason_of(conflict.failure) == "EVENT_ID_CONFLICT"
    assert conflict.failure.event_id_conflict.position == 2


async def test_concurrent_repeats_record_once(event_store):
    request = append_to("a", make_event(), make_event())

    responses = await asyncio.gather(*(event_store.Append(request) for _ in range(30)))

    assert sum(not response.duplicate for response in responses) == 1
    assert {(r.first_position, r.last_position) for r in responses} == {(1, 2)}
    assert (await head_of(event_store)).head_position == 2


async def test_an_append_with_an_unknown_outcome_is_recorded_once_when_repeated(event_store):
    """Deadlines that pass at any moment of an append; then the same request again."""
    requests = [append_to("a") for _ in range(60)]
    for n, request in enumerate(requests):
        with suppress(grpc.RpcError):
            await event_store.Append(request, timeout=n * 0.0002)
        await append(event_store, request)

    ids = [request.appends[0].events[0].id for request in requests]
    assert (await read(event_store)).ids == ids


async def test_a_refused_append_takes_no_ids(event_store):
    event = make_event()
    await append(event_store, append_to("a"))
    await refused(event_store.Append(append_to("a", event, expected_version=0)), "VERSION_CONFLICT")

    response = await append(event_store, append_to("b", event))

    assert (response.first_position, response.duplicate) == (2, False)


async def test_a_repeat_in_capitals_on_one_batch(event_store):
    event = make_event()
    capitals = changed(event, id=event.id.upper())

    _, repeat = await append_many(event_store, append_to("a", event), append_to("a", capitals))

    assert repeat.appended.duplicate


async def test_a_large_append_is_repeated(event_store):
    request = append_to("a", *(make_event() for _ in range(5000)))
    first = await append(event_store, request)

    await repeats(event_store, first, request)
