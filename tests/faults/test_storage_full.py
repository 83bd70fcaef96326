"""A SQLite whose file may not grow any more, in the middle of an append."""

import asyncio
import uuid
from contextlib import closing

import grpc
import pytest
import sqlalchemy as sa

from calls import (
    append,
    append_to,
    head_of,
    make_event,
    matching,
    next_response,
    read,
    refused,
    subscribed,
)
from checks import check_log
from plans.logs import opened
from servers import InProcessServer
from traffic import connect, reason_of, stub
from treering.v1.event_store_service_pb2 import AppendItem, AppendManyRequest
from treering_server.core.query import Terms
from treering_server.core.storage import NewRecord, StorageDefect

NO_LIMIT = 2**32 - 2
PAGE = 4_096


class Disk:
    """How large the file may become. Holds for each new connection that writes."""

    def __init__(self, storage):
        self._engine = storage._writing
        self._pages = NO_LIMIT
        sa.event.listen(self._engine, "connect", self._set)

    def leave(self, pages):
        """Leaves room for so many more pages."""
        with closing(self._engine.raw_connection()) as connection:
            (used,) = connection.cursor().execute("PRAGMA page_count").fetchone()
        self._pages = used + pages
        self._engine.dispose()

    def grow(self):
        """Leaves room for all that may come."""
        self._pages = NO_LIMIT
        self._engine.dispose()

    def _set(self, connection, _record):
        connection.execute(f"PRAGMA max_page_count = {self._pages}").fetchall()


@pytest.fixture
async def server(sqlite_file_url):
    async with InProcessServer(sqlite_file_url) as server:
        yield server


@pytest.fixture
async def event_store(server):
    async with connect(server.address) as channel:
        yield stub(channel)


@pytest.fixture
def disk(server):
    return Disk(server.server._database.storage)


def large_append(count=100, stream="large-1"):
    """An append of a page for each event, to a stream, a category, a type and a tag that are
    new."""
    events = [make_event("Large", "size:large", data=b"x" * PAGE) for _ in range(count)]
    return append_to(stream, *events)


async def test_nothing_of_a_batch_is_there_and_all_goes_on_when_there_is_room(event_store, disk):
    await append(event_store, append_to("a", make_event(), make_event()))
    before = (await read(event_store)).events
    async with subscribed(event_store) as subscription:
        await subscription.until("caught_up")
        disk.leave(20)
        request = large_append()
        refusal = await refused(event_store.Append(request), "STORAGE_FULL")
        assert refusal.failure.HasField("retry_after")

        assert (await head_of(event_store)).head_position == 2
        assert (await read(event_store)).events == before
        for query in (matching(types=["Large"]), matching(tags=["size:large"])):
            assert (await read(event_store, query=query)).events == []
        assert (await read(event_store, stream="large-1")).stream_version == 0
        # What fits is recorded, right behind.
        assert (await append(event_store, append_to("a"))).first_position == 3
        await refused(event_store.Append(request), "STORAGE_FULL")

        disk.grow()
        answer = await append(event_store, request)
        assert (answer.first_position, answer.last_position) == (4, 103)
        assert not answer.duplicate
        received = await subscription.until_received(103)
    log = (await read(event_store)).events
    check_log(log)
    assert received == log


async def test_many_writers_meet_the_end_of_the_room(event_store, disk):
    """Each append is there as a whole or refused, whichever shared a batch."""
    disk.leave(60)
    requests = [
        append_to(f"s-{n}", *(make_event(data=b"x" * PAGE) for _ in "abc")) for n in range(40)
    ]
    calls = [event_store.Append(request) for request in requests]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    refusals = [each for each in answers if isinstance(each, grpc.RpcError)]
    assert 0 < len(refusals) <= len(requests)
    assert {reason_of(each) for each in refusals} == {"STORAGE_FULL"}
    log = (await read(event_store)).events
    check_log(log)
    assert len(log) == 3 * (len(requests) - len(refusals))

    disk.grow()
    again = [await append(event_store, request) for request in requests]
    assert sum(answer.duplicate for answer in again) == len(requests) - len(refusals)
    check_log((await read(event_store)).events)


async def test_it_ends_a_call_of_many_and_none_overtakes_the_one_that_found_no_room(
    event_store, disk
):
    disk.leave(40)
    small = [append_to("s", expected_version=n) for n in range(4)]
    call = event_store.AppendMany()
    results = []
    for number, request in enumerate([*small, large_append(), append_to("s"), append_to("t")]):
        item = AppendItem(request_id=number, append=request)
        await call.write(AppendManyRequest(items=[item]))

    async def read_on():
        while True:
            results.extend((await next_response(call)).results)

    with pytest.raises(grpc.RpcError) as error:
        await read_on()
    assert reason_of(error.value) == "STORAGE_FULL"
    log = (await read(event_store)).events
    assert [event.id for event in log] == [
        request.appends[0].events[0].id for request in small[: len(log)]
    ]
    assert len(results) <= len(log)


def test_a_transaction_that_sqlite_ended_by_itself_takes_nothing_more(sqlite_file_url):
    """It would be committed at once, and alone."""
    with opened(sqlite_file_url) as storage:
        disk = Disk(storage)
        with storage.write(1) as transaction:
            transaction.state([], [])
            transaction.insert(records(1, 1, b""))
            transaction.commit()
        disk.leave(2)

        def go_on_after_an_error():
            with storage.write(1) as transaction:
                transaction.state([], [])
                # So few that each is a statement, with nothing that SQLite could go back to.
                with pytest.raises(Exception, match="full"):
                    transaction.insert(records(2, 20, b"x" * PAGE))
                transaction.insert(records(2, 1, b""))

        with pytest.raises(StorageDefect):
            go_on_after_an_error()
        assert storage.head().position == 1


def records(first, count, record):
    """Events of no stream, ready to be stored."""
    return [
        NewRecord(position, 1, 0, uuid.uuid4().bytes, Terms("", "T", frozenset()), record)
        for position in range(first, first + count)
    ]
