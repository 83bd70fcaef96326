"""PostgreSQL goes away under load: everything comes back by itself, and nothing is lost."""

import asyncio
import random
from contextlib import AsyncExitStack

import psycopg
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from calls import ALL, head_of, refused
from servers import InProcessServer
from traffic import SECONDS, Follower, Traffic, connect, stub
from treering.v1.event_store_service_pb2 import GetHeadRequest, ReadRequest, SubscribeRequest

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


class Health:
    """What a server's health says, as it changes."""

    def __init__(self, channel):
        self._call = HealthStub(channel).Watch(HealthCheckRequest(service=""))

    async def until(self, status):
        async with asyncio.timeout(SECONDS):
            while (await self._call.read()).status != status:
                pass


@pytest.mark.parametrize("mode", ["fast", "immediate", "kill"])
async def test_a_restart_of_the_database(own_postgres, mode):
    url = own_postgres.create_database()
    async with InProcessServer(url) as server, connect(server.address) as channel:
        event_store, health = stub(channel), Health(channel)
        await health.until(SERVING)
        follower = Follower(event_store)
        following = asyncio.create_task(follower.follow(2**62))
        async with Traffic([event_store]) as traffic:
            for _ in range(2):
                await traffic.more(20)
                if mode == "kill":
                    await asyncio.to_thread(own_postgres.kill)
                else:
                    await asyncio.to_thread(own_postgres.stop, mode)
                await health.until(NOT_SERVING)
                await asyncio.to_thread(own_postgres.start)
                await health.until(SERVING)
            await traffic.more(20)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await follower.follow((await head_of(event_store)).head_position)
        follower.check(await traffic.check(event_store))


async def test_a_long_outage(own_postgres):
    """Longer than appends are held on to: they are refused, reads too, and then all is well."""
    url = own_postgres.create_database()
    async with InProcessServer(url) as server, connect(server.address) as channel:
        event_store = stub(channel)
        async with Traffic([event_store], writers=3) as traffic:
            await traffic.more(5)
            await asyncio.to_thread(own_postgres.stop)
            await traffic.until_repeated(3)
            await refused(event_store.GetHead(GetHeadRequest()), "STORAGE_UNAVAILABLE")
            await refused(event_store.Read(ReadRequest(query=ALL)), "STORAGE_UNAVAILABLE")
            await refused(event_store.Subscribe(SubscribeRequest(query=ALL)), "STORAGE_UNAVAILABLE")
            await asyncio.to_thread(own_postgres.start)
            await traffic.more(5)
        await traffic.check(event_store)
    # The last one: what waits behind an append whose commit is unknown waits for longer.
    assert traffic.repeated.keys() <= {
        "STORAGE_UNAVAILABLE",
        "OUTCOME_UNKNOWN",
        "DEADLINE_EXCEEDED",
    }


WRITER = """
SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND datname = current_database()
  AND application_name = 'treering'
"""
COMMITTING = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE query = 'COMMIT' AND state = 'active' AND datname = current_database()
"""
ANY = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'treering%'
ORDER BY random() LIMIT 2
"""


@pytest.mark.parametrize("victims", [WRITER, COMMITTING, ANY], ids=["writer", "committing", "any"])
async def test_connections_that_are_ended_at_random(postgres_url, victims):
    rng = random.Random(1)
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(InProcessServer(postgres_url)) for _ in "ab"]
        stores = [
            stub(await stack.enter_async_context(connect(server.address))) for server in servers
        ]
        follower = Follower(stores[0])
        following = asyncio.create_task(follower.follow(2**62))
        killer = await psycopg.AsyncConnection.connect(postgres_url, autocommit=True)
        await stack.enter_async_context(killer)
        async with Traffic(stores) as traffic:
            ended = 0
            while ended < 15:
                await asyncio.sleep(rng.random() / 50)
                ended += len(await (await killer.execute(victims.encode())).fetchall())
            await traffic.more(10)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await follower.follow((await head_of(stores[0])).head_position)
        follower.check(await traffic.check(stores[1]))
