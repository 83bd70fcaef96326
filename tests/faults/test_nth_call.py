"""The n-th call of the database's driver fails, for every n that there is: what was begun is done
as a whole or not at all, the caller is told the truth, and the next one finds nothing wrong."""

import sqlite3
import threading
from contextlib import closing
from itertools import count as numbers

import grpc
import psycopg
import pytest

import runs
from calls import append, append_all, append_to, fail_if, make_event, matching, read, to_stream
from changes import delete, info_of, keep
from checks import check_log
from failing import Failure, failing
from plans.logs import make_event as make_new_event
from plans.logs import opened, write
from servers import InProcessServer
from traffic import connect, reason_of, stub
from treering.v1.stream_service_pb2_grpc import StreamServiceStub
from treering_server.config import Settings
from treering_server.core import streams, writer
from treering_server.server import Server, StartError
from treering_server.storage.database import migrate_database
from treering_server.storage.migrations import DatabaseUnusable

TOLD = {"STORAGE_UNAVAILABLE", "OUTCOME_UNKNOWN"}
"""What a caller may be told who is not told that it is done."""

RARER = [("before", False), ("after", True)]
WAYS = [("after", False), ("before", True)] + RARER * runs.LONG
in_every_way = pytest.mark.parametrize(("when", "lasts"), WAYS)


class Nth:
    """A server whose driver's calls fail, and what became of each try."""

    def __init__(self, failure, channel):
        self.failure = failure
        self.store, self.streams = stub(channel), StreamServiceStub(channel)

    async def fails(self, n, call):
        """Makes a call whose n-th statement fails: its answer, or the reason why it has none; and
        whether there was an n-th."""
        self.failure.come_at(n)
        try:
            answer = await call
        except grpc.RpcError as error:
            assert reason_of(error) in TOLD, error
            assert self.failure.came
            answer = reason_of(error)
        came = self.failure.came
        self.failure.be_over()
        return answer, came


def counted(database_url, number):
    """Notes how many calls were there to fail."""
    assert number > 3, "an operation takes some statements"
    kind = database_url.partition(":")[0]
    runs.count({f"{kind}: failed the n-th": number})


@in_every_way
async def test_the_nth_call_of_an_append(database_url, monkeypatch, when, lasts):
    if lasts:
        monkeypatch.setattr(writer, "PATIENCE_SECONDS", 0.1)
        monkeypatch.setattr(writer, "UNKNOWN_PATIENCE_SECONDS", 0.2)
    with failing(Failure(when, lasts=lasts)) as failure:
        async with InProcessServer(database_url) as server, connect(server.address) as channel:
            nth = Nth(failure, channel)
            recorded = []
            for n in numbers(1):
                # With new names, so that it writes all that an append may write.
                tag = f"tag:{n}"
                request = append_all(
                    to_stream(
                        f"a{n}-1", make_event(f"T{n}", tag), make_event(), expected_version=0
                    ),
                    events=[make_event()],
                    conditions=[fail_if(matching(tags=[tag]))],
                )
                answer, came = await nth.fails(n, nth.store.Append(request))
                log = (await read(nth.store)).events
                check_log(log)
                is_there = len(log) == len(recorded) + 3
                assert is_there or len(log) == len(recorded)
                if not lasts:
                    assert not isinstance(answer, str), "a single failure is settled by the server"
                if isinstance(answer, str):
                    assert not (is_there and answer == "STORAGE_UNAVAILABLE")
                else:
                    assert is_there
                    assert not answer.duplicate
                    assert answer.first_position == len(recorded) + 1
                again = await append(nth.store, request)
                assert (again.first_position, again.duplicate) == (len(recorded) + 1, is_there)
                recorded += [*(e.id for e in request.appends[0].events), request.events[0].id]
                if not came:
                    break
            log = (await read(nth.store)).events
            check_log(log)
            assert [event.id for event in log] == recorded
    counted(database_url, n - 1)


@in_every_way
@pytest.mark.parametrize("change", ["retention", "deletion"])
async def test_the_nth_call_of_a_removal(database_url, monkeypatch, change, when, lasts):
    if lasts:
        monkeypatch.setattr(streams, "PATIENCE_SECONDS", 0.1)
    with failing(Failure(when, lasts=lasts)) as failure:
        async with InProcessServer(database_url) as server, connect(server.address) as channel:
            nth = Nth(failure, channel)

            async def remove(stream):
                if change == "retention":
                    return await keep(nth.streams, stream, truncate_before=3)
                return await delete(nth.streams, stream)

            for n in numbers(1):
                stream = f"a-{n}"
                await append(
                    nth.store,
                    append_all(to_stream(stream, make_event(), make_event(), make_event())),
                )
                answer, came = await nth.fails(n, remove(stream))
                left = [event.version for event in (await read(nth.store, stream=stream)).events]
                kept = [3] if change == "retention" else []
                assert left in ([1, 2, 3], kept)
                if not lasts:
                    assert not isinstance(answer, str), "a single failure is settled by the server"
                if not isinstance(answer, str):
                    assert left == kept
                elif answer == "STORAGE_UNAVAILABLE":
                    assert left == [1, 2, 3]
                await remove(stream)
                info = await info_of(nth.streams, stream)
                assert info.next_version == 4
                left = [event.version for event in (await read(nth.store, stream=stream)).events]
                assert left == kept
                await append(nth.store, append_to(stream))
                if not came:
                    break
    counted(database_url, n - 1)


# --- migrations


SQLITE_SCHEMA = "SELECT type, name, sql FROM sqlite_master"
POSTGRESQL_SCHEMA = b"""
SELECT table_name, column_name, data_type FROM information_schema.columns
WHERE table_schema = 'public'
UNION ALL SELECT indexname, indexdef, '' FROM pg_indexes WHERE schemaname = 'public'
"""


def schema_of(url):
    """All that a schema is, as its database tells it."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            return sorted(connection.execute(SQLITE_SCHEMA).fetchall())
    with psycopg.connect(url) as connection:
        return sorted(connection.execute(POSTGRESQL_SCHEMA).fetchall())


def emptied(url, tmp_path, n):
    """A database with nothing in it."""
    if url.startswith("sqlite"):
        return f"sqlite:///{tmp_path}/{n}.db"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return url


@in_every_way
def test_the_nth_call_of_a_migration(database_url, tmp_path, when, lasts):
    due = None
    with failing(Failure(when, lasts=lasts, everywhere=True)) as failure:
        for n in numbers(1):
            url = emptied(database_url, tmp_path, n)
            failure.come_at(n)
            try:
                migrate_database(url)
            except DatabaseUnusable:
                assert failure.came
            came = failure.came
            failure.be_over()
            migrate_database(url)
            due = due or schema_of(url)
            assert schema_of(url) == due
            with opened(url) as storage:
                assert len(storage.incarnations()) == 1
                [written] = write(storage, [("a-1", make_new_event())]).records
                assert written.position == 1
            if not came:
                break
    counted(database_url, n - 1)


async def test_the_nth_call_of_a_start(database_url):
    """A server that can't start says so in a sentence and leaves no thread behind, so that its
    process ends."""
    migrate_database(database_url)
    with failing(Failure("before", lasts=True, everywhere=True)) as failure:
        for n in numbers(1):
            failure.come_at(n)
            before = set(threading.enumerate())
            server = Server(Settings(database_url=database_url, listen="127.0.0.1:0"))
            try:
                await server.start()
            except StartError:
                failure.be_over()
                left = [each for each in threading.enumerate() if not each.daemon]
                left = [each for each in left if not each.name.startswith(("other", "asyncio"))]
                assert set(left) <= before
                continue
            failure.be_over()
            await server.stop()
            break
    counted(database_url, n - 1)
