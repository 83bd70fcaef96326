"""Servers that come to a log in an older schema, or in a newer one, while everybody calls.

There is one release's schema, and no older server that could be run: what stands in for the
release after this one is a schema that this server does not know.
"""

import asyncio
import sys
from contextlib import AsyncExitStack

import pytest

from calls import read
from checks import check_atomic, check_durable
from databases import free_port
from dumps import REVISIONS, load_postgresql, load_sqlite, released
from servers import InProcessServer
from traffic import Traffic, connect, ids_of, stub
from treering_server.server import StartError
from treering_server.storage.migrations import VERSION_TABLE


@pytest.mark.parametrize("revision", REVISIONS)
async def test_callers_live_through_an_upgrade(database_url, server_process, revision):
    """They call before any server is there; then two, or one to a file, migrate."""
    kind = database_url.partition(":")[0]
    dump, _ = released(kind, revision)
    (load_sqlite if kind == "sqlite" else load_postgresql)(database_url, dump)
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(1 if kind == "sqlite" else 2)]
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(connect(each)) for each in addresses]
        stores = [stub(channel) for channel in channels]
        async with Traffic(stores) as traffic:
            await traffic.until_repeated(3)
            starting = [
                asyncio.to_thread(server_process, database_url, listen=each) for each in addresses
            ]
            await asyncio.gather(*starting)
            await traffic.more(40)
        log = (await read(stores[0])).events
    before = [event for event in log if event.id not in traffic.acknowledged]
    assert [event.position for event in before] == list(range(1, len(before) + 1))
    check_durable(log, traffic.acknowledged)
    check_atomic(log, map(ids_of, traffic.sent))


async def test_a_schema_that_a_newer_server_made_meanwhile(database_url):
    """Who serves goes on: a newer schema takes nothing from an older server that runs. No older one
    begins on it."""
    async with InProcessServer(database_url) as server, connect(server.address) as channel:
        event_store = stub(channel)
        async with Traffic([event_store]) as traffic:
            await traffic.more(10)
            await overtake(database_url)
            await traffic.more(10)
        await traffic.check(event_store)
    with pytest.raises(StartError, match="newer than this server's"):
        async with InProcessServer(database_url):
            pass


# In a process of its own: two copies of SQLite in one would take each other's locks away.
OVERTAKE = f"""
import sys
import sqlalchemy
from treering_server.storage.database import parse_url
with sqlalchemy.create_engine(parse_url(sys.argv[1])).begin() as connection:
    connection.execute(sqlalchemy.text("UPDATE {VERSION_TABLE} SET version_num = '9999'"))
"""


async def overtake(database_url):
    """What a newer server's migration leaves in the table of versions."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", OVERTAKE, database_url)
    assert await process.wait() == 0
