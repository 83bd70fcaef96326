"""What appends come to when the database fails at one moment or another."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from calls import (
    append,
    append_many,
    append_to,
    head_of,
    make_event,
    next_response,
    read,
    refused,
    subscribed,
)
from calls import reason_of as failure_reason
from checks import check_log
from faulty import POISON, lose_the_answer, lose_the_commit, make_faulty
from servers import InProcessServer
from traffic import SECONDS, connect, stub
from treering.v1.event_store_service_pb2 import AppendItem, AppendManyRequest
from treering_server.core import writer

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def faulty(monkeypatch, database_url):
    """A server's storage, which fails on demand, and a stub of the server."""
    storages = make_faulty(monkeypatch)
    async with InProcessServer(database_url) as server, connect(server.address) as channel:
        try:
            yield storages[0], stub(channel), server, HealthStub(channel)
        finally:
            storages[0].gate.set()


@asynccontextmanager
async def in_one_batch(faulty, count):
    """Holds the writer until so many appends wait, so that it takes them together."""
    storage, event_store, server, _ = faulty
    storage.gate.clear()
    first = asyncio.ensure_future(event_store.Append(append_to("first")))
    await until(lambda: storage.is_held)
    queue = server.server._writer._queue
    yield
    await until(lambda: len(queue) == count)
    storage.gate.set()
    await first


async def until(reached):
    async with asyncio.timeout(SECONDS):
        while not reached():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def health_is(health, status):
    call = health.Watch(HealthCheckRequest(service=""))
    async with asyncio.timeout(SECONDS):
        while (await call.read()).status != status:
            pass
    call.cancel()


# --- commits without a known end


@pytest.mark.parametrize("fault", [lose_the_answer, lose_the_commit])
async def test_an_unknown_commit_is_settled_before_the_answer(faulty, fault):
    """Whether it went through or not: it is recorded once, and no repeat to the caller."""
    storage, event_store, *_ = faulty
    await append(event_store, append_to("a"))
    async with subscribed(event_store, after_position=1) as subscription:
        await subscription.until("caught_up")
        storage.commits = [fault]
        request = append_to("a", make_event(), make_event(), expected_version=1)
        answer = await append(event_store, request)
        assert (answer.first_position, answer.last_position) == (2, 3)
        assert not answer.duplicate
        assert not storage.commits
        received = await subscription.until_received(2)
    log = (await read(event_store)).events
    check_log(log)
    assert received == log[1:]
    assert (await append(event_store, request)).duplicate


async def test_an_unknown_commit_that_is_unknown_again_and_again(faulty):
    storage, event_store, *_ = faulty
    storage.commits = [lose_the_commit, lose_the_answer, lose_the_answer, lose_the_commit]
    answer = await append(event_store, append_to("a", expected_version=0))
    assert (answer.first_position, answer.duplicate) == (1, False)
    assert not storage.commits
    assert len((await read(event_store)).events) == 1


@pytest.mark.parametrize("fault", [lose_the_answer, lose_the_commit])
async def test_a_batch_without_a_known_end(faulty, fault):
    """Each append of it is settled: those accepted, refused, and repeated within the batch."""
    storage, event_store, *_ = faulty
    request = append_to("a", expected_version=0)
    another = append_to("a", expected_version=0)
    async with in_one_batch(faulty, 4):
        storage.commits = [lambda commit: commit(), fault, fault]
        call = asyncio.ensure_future(
            append_many(event_store, request, another, request, append_to("b"))
        )
    first, refusal, repeat, last = await call
    assert not storage.commits
    assert failure_reason(refusal.failure) == "VERSION_CONFLICT"
    assert first.appended.first_position == repeat.appended.first_position == 2
    assert last.appended.first_position == 3
    log = (await read(event_store)).events
    check_log(log)
    assert [event.stream for event in log] == ["first", "a", "b"]


@pytest.mark.parametrize(
    ("fault", "duplicate"), [(lose_the_answer, True), (lose_the_commit, False)]
)
async def test_a_commit_that_stays_unknown_is_said_to_be(faulty, monkeypatch, fault, duplicate):
    """The caller repeats it with the same ids, and learns what became of it."""
    storage, event_store, _, health = faulty
    monkeypatch.setattr(writer, "UNKNOWN_PATIENCE_SECONDS", 0.5)
    request = append_to("a")

    def lose_everything(commit):
        storage.is_away = True
        fault(commit)

    storage.commits = [lose_everything]
    await refused(event_store.Append(request), "OUTCOME_UNKNOWN")
    await health_is(health, NOT_SERVING)
    storage.is_away = False
    await health_is(health, SERVING)
    answer = await append(event_store, request)
    assert (answer.first_position, answer.duplicate) == (1, duplicate)
    assert len((await read(event_store)).events) == 1


# --- a database that is away


async def test_a_short_outage_is_waited_out(faulty):
    storage, event_store, _, health = faulty
    storage.is_away = True
    call = asyncio.ensure_future(event_store.Append(append_to("a")))
    await health_is(health, NOT_SERVING)
    storage.is_away = False
    assert (await call).first_position == 1
    await health_is(health, SERVING)


async def test_a_long_outage_refuses_appends_and_ends(faulty, monkeypatch):
    storage, event_store, _, health = faulty
    monkeypatch.setattr(writer, "PATIENCE_SECONDS", 0.5)
    request = append_to("a")
    storage.is_away = True
    await refused(event_store.Append(request), "STORAGE_UNAVAILABLE")
    await refused(event_store.Append(request), "STORAGE_UNAVAILABLE")
    storage.is_away = False
    await health_is(health, SERVING)
    answer = await append(event_store, request)
    assert (answer.first_position, answer.duplicate) == (1, False)


async def test_an_append_whose_deadline_passes_in_an_outage_is_dropped(faulty):
    storage, event_store, *_ = faulty
    storage.is_away = True
    with pytest.raises(grpc.RpcError) as error:
        await event_store.Append(append_to("a"), timeout=0.3)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    storage.is_away = False
    assert (await append(event_store, append_to("b"))).first_position == 1
    assert (await head_of(event_store)).head_position == 1


async def test_a_defect_of_the_writers_own_ends_an_append_and_not_the_writer(faulty, monkeypatch):
    storage, event_store, _, health = faulty
    with monkeypatch.context() as defect:
        defect.setattr(writer, "FIRST_PAUSE_SECONDS", "no number")
        storage.is_away = True
        with pytest.raises(grpc.RpcError) as error:
            await event_store.Append(append_to("a"), timeout=SECONDS)
        assert error.value.code() == grpc.StatusCode.INTERNAL
    storage.is_away = False
    await health_is(health, SERVING)
    assert (await append(event_store, append_to("b"))).first_position == 1


# --- an append that the database does not take


async def test_a_poisoned_append_fails_alone(faulty):
    storage, event_store, *_ = faulty
    async with in_one_batch(faulty, 8):
        calls = [
            asyncio.ensure_future(
                event_store.Append(append_to(f"s-{n}", make_event(POISON if n == 5 else "Good")))
            )
            for n in range(8)
        ]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(each, grpc.RpcError) for each in answers] == [n == 5 for n in range(8)]
    assert answers[5].code() == grpc.StatusCode.INTERNAL
    assert "poisoned" not in answers[5].details()
    assert any(len(batch) == 8 for batch in storage.batches), "they were in one batch"
    log = (await read(event_store)).events
    check_log(log)
    assert {event.stream for event in log} == {"first", *(f"s-{n}" for n in range(8) if n != 5)}


async def test_a_poisoned_append_among_many_ends_the_call_and_none_overtakes_it(faulty):
    _, event_store, *_ = faulty
    call = event_store.AppendMany()
    items = [
        AppendItem(request_id=n, append=append_to("s", make_event(POISON if n == 3 else "Good")))
        for n in range(1, 7)
    ]
    async with in_one_batch(faulty, 6):
        await call.write(AppendManyRequest(items=items))
    results = []

    async def read_on():
        while True:
            results.extend((await next_response(call)).results)

    with pytest.raises(grpc.RpcError) as error:
        await read_on()
    assert error.value.code() == grpc.StatusCode.INTERNAL
    assert [result.request_id for result in results] == [1, 2]
    assert [event.stream for event in (await read(event_store)).events] == ["first", "s", "s"]
