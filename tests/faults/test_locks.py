"""Somebody else holds what the server needs, for longer than it waits: callers are told, nothing is
written, and all goes on by itself once it is free."""

import asyncio
import subprocess
import sys
from contextlib import contextmanager

import psycopg
import pytest

from calls import append, append_to, fail_if, head_of, make_event, matching, read, refused
from checks import check_log
from faults import LOCK_TABLES, TAKE_APPEND_LOCK
from servers import InProcessServer
from traffic import Traffic, connect, stub
from treering_server.core import conditions, writer
from treering_server.storage import sqlite

SHORT_SECONDS = 0.3

# In a process of its own, as another program would have it: locks of a file belong to processes.
HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA wal_autocheckpoint = 0")
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
"""


@contextmanager
def held(url, statement=TAKE_APPEND_LOCK):
    """Holds the append lock, or what a statement locks in PostgreSQL."""
    if url.startswith("sqlite"):
        command = [sys.executable, "-c", HOLDER, url.removeprefix("sqlite:///")]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"held\n"
        yield
        process.communicate()
        return
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())
        yield


@pytest.fixture
async def event_store(monkeypatch, database_url):
    """Of a server that does not wait for long."""
    monkeypatch.setattr(writer, "LOCK_SECONDS", SHORT_SECONDS)
    monkeypatch.setattr(writer, "PATIENCE_SECONDS", SHORT_SECONDS)
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", SHORT_SECONDS)
    async with InProcessServer(database_url) as server, connect(server.address) as channel:
        yield stub(channel)


async def test_the_append_lock_is_held_by_another(database_url, event_store):
    await append(event_store, append_to("a"))
    request = append_to("a", expected_version=1)
    with held(database_url):
        refusal = await refused(event_store.Append(request), "STORAGE_UNAVAILABLE")
        assert refusal.failure.HasField("retry_after")
        assert len((await read(event_store)).events) == 1, "reads go on"
        async with asyncio.timeout(10):
            assert (await head_of(event_store)).head_position == 1
    async with Traffic([event_store]) as traffic:
        await traffic.more(5)
    answer = await append(event_store, request)
    assert not answer.duplicate
    check_log((await read(event_store)).events)


async def test_the_tables_are_locked(postgres_url, monkeypatch):
    """Whoever reads waits as well; nobody is answered with less than there is."""
    monkeypatch.setattr(writer, "LOCK_SECONDS", SHORT_SECONDS)
    monkeypatch.setattr(writer, "PATIENCE_SECONDS", SHORT_SECONDS)
    async with InProcessServer(postgres_url) as server, connect(server.address) as channel:
        event_store = stub(channel)
        await append(event_store, append_to("a"))
        with held(postgres_url, LOCK_TABLES):
            reading = asyncio.ensure_future(read(event_store))
            await refused(event_store.Append(append_to("a")), "STORAGE_UNAVAILABLE")
            assert not reading.done()
        assert len((await reading).events) == 1
        assert (await append(event_store, append_to("a"))).first_position == 2


async def test_a_condition_that_waits_for_locked_tables_is_not_called_costly(
    postgres_url, monkeypatch
):
    """CONDITION_TOO_COSTLY says that repeating never helps; here it does."""
    request = append_to("a")
    request.conditions.append(fail_if(matching(tags=["x", "y"])))
    async with InProcessServer(postgres_url) as server, connect(server.address) as channel:
        for tag in "xxxyyy":
            await append(stub(channel), append_to("b", make_event("B", tag)))
    monkeypatch.setattr(conditions, "BUDGET_SECONDS", SHORT_SECONDS)
    monkeypatch.setattr(conditions, "WALKED_EVENTS", 1)
    async with InProcessServer(postgres_url) as server, connect(server.address) as channel:
        event_store = stub(channel)
        with held(postgres_url, LOCK_TABLES):
            appending = event_store.Append(request)
            # Time has to pass: that is what is tested.
            await asyncio.sleep(3 * SHORT_SECONDS)
        await refused(appending, "STORAGE_UNAVAILABLE")
        assert (await append(event_store, request)).first_position == 7
