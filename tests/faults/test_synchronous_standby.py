"""A primary that waits for a synchronous standby that is not there."""

import asyncio

import psycopg
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from calls import append, append_to, head_of, make_event, read
from checks import check_log
from servers import InProcessServer
from traffic import SECONDS, connect, stub

WAITING = """
SELECT pid FROM pg_stat_activity
WHERE wait_event = 'SyncRep' AND datname = current_database() AND application_name = 'treering'
"""


@pytest.fixture
async def primary(own_postgres):
    """A connection to a database of a primary that names a standby that is not running."""
    url = own_postgres.create_database()
    standby = await asyncio.to_thread(own_postgres.standby)
    with standby:
        await asyncio.to_thread(standby.stop)
        own_postgres.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        own_postgres.execute("SELECT pg_reload_conf()")
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as watcher:
            await answer(watcher, "SHOW synchronous_standby_names", "*")
            yield url, standby, watcher


async def answer(watcher, statement, wanted=None):
    """Waits until a statement gives a value, this one if any is given."""
    async with asyncio.timeout(SECONDS):
        while True:
            row = await (await watcher.execute(statement.encode())).fetchone()
            if row is not None and (wanted is None or row[0] == wanted):
                return row[0]
            await asyncio.sleep(0.02)


async def test_nothing_is_acknowledged_before_the_standby_has_it(primary):
    url, standby, watcher = primary
    async with InProcessServer(url) as server, connect(server.address) as channel:
        event_store = stub(channel)
        request = append_to("a", make_event(), expected_version=0)
        call = asyncio.ensure_future(event_store.Append(request))
        pid = await answer(watcher, WAITING)
        assert (await head_of(event_store)).head_position == 0, "nobody sees it either"

        # Somebody ends the wait by force: it is committed here, but there? So it is not
        # acknowledged, but looked up and waited for again.
        await watcher.execute("SELECT pg_cancel_backend(%s)", (pid,))
        await answer(watcher, f"{WAITING} AND pid <> {pid}")
        assert not call.done()

        await asyncio.to_thread(standby.start)
        answered = await call
        assert (answered.first_position, answered.duplicate) == (1, False)
        assert (await append(event_store, request)).duplicate
        await append(event_store, append_to("a", expected_version=1))
        check_log((await read(event_store)).events)


async def test_health_tells_that_nothing_can_be_recorded(primary):
    url, standby, watcher = primary
    async with InProcessServer(url) as server, connect(server.address) as channel:
        health = HealthStub(channel).Watch(HealthCheckRequest(service=""))
        call = asyncio.ensure_future(stub(channel).Append(append_to("a")))
        try:
            await answer(watcher, WAITING)
            async with asyncio.timeout(8):
                while (await health.read()).status != HealthCheckResponse.NOT_SERVING:
                    pass
        finally:
            await asyncio.to_thread(standby.start)
            await call
        async with asyncio.timeout(SECONDS):
            while (await health.read()).status != HealthCheckResponse.SERVING:
                pass


async def test_a_server_stops_also_while_a_commit_does_not_end(primary, server_process):
    url, _, watcher = primary
    process = server_process(url, stop_seconds=1)
    async with connect(process.address) as channel:
        call = asyncio.ensure_future(stub(channel).Append(append_to("a")))
        await answer(watcher, WAITING)
        try:
            assert await asyncio.to_thread(process.terminate, 15) == 0
        finally:
            call.cancel()
