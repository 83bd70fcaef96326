"""Servers behind a pooler in transaction mode: nothing of a session outlives a transaction."""

import asyncio
from contextlib import AsyncExitStack

import pytest
import sqlalchemy as sa

import poolers
from calls import append, append_to, head_of, make_event, read, refused
from changes import delete, keep
from databases import PostgresServer, url_at
from poolers import Pooler
from servers import InProcessServer
from traffic import Follower, Traffic, connect, stub
from treering.v1.stream_service_pb2_grpc import StreamServiceStub
from treering_server.storage.migrations import migrate
from treering_server.storage.postgresql import PostgresqlStorage, make_engine

pytestmark = pytest.mark.skipif(bool(poolers.MISSING), reason=poolers.MISSING)


@pytest.fixture
def pooled(own_postgres: PostgresServer):
    """A database, and the pooler on the way to it."""
    url = own_postgres.create_database()
    with Pooler(own_postgres) as pooler:
        yield url_at(url, pooler.port), pooler


async def test_two_servers_behind_a_pooler(pooled):
    """Appends, removal, live events of the other server; and the pooler is restarted."""
    url, pooler = pooled
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(InProcessServer(url)) for _ in "ab"]
        channels = [await stack.enter_async_context(connect(server.address)) for server in servers]
        stores = [stub(channel) for channel in channels]
        follower = Follower(stores[0])
        following = asyncio.create_task(follower.follow(2**62))
        async with Traffic(stores, writers=8) as traffic:
            await traffic.more(100)
            await asyncio.to_thread(pooler.kill)
            await asyncio.to_thread(pooler.start)
            await traffic.more(100)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await follower.follow((await head_of(stores[0])).head_position)
        follower.check(await traffic.check(stores[1]))

        for n in range(10):
            await append(stores[n % 2], append_to(f"c-{n}", make_event(), make_event()))
            again = stores[(n + 1) % 2].Append(append_to(f"c-{n}", expected_version=0))
            await refused(again, "VERSION_CONFLICT")
        streams = [StreamServiceStub(channel) for channel in channels]
        await keep(streams[0], "c-1", max_count=1)
        await delete(streams[1], "c-2")
        for store in stores:
            assert [each.version for each in (await read(store, stream="c-1")).events] == [2]
            assert (await read(store, stream="c-2")).events == []


def prepared_by_reads(url: str) -> set[str]:
    """What a connection has prepared after a few reads."""
    engine = make_engine(sa.make_url(url), connections=1)
    migrate(engine)
    storage = PostgresqlStorage(engine)
    try:
        for _ in range(10):
            storage.head()
            storage.span("a", 0)
            storage.position_at_time(0)
        with engine.connect() as connection:
            listed = connection.exec_driver_sql("SELECT statement FROM pg_prepared_statements")
            return set(listed.scalars())
    finally:
        storage.close()


def test_statements_are_prepared_only_in_a_session_of_ones_own(own_postgres, pooled):
    """A pooler may hand the next statement to another session, or the session to another."""
    url, _ = pooled
    direct = prepared_by_reads(own_postgres.create_database())
    assert any("log_id" in statement for statement in direct)
    # Of those that go by a key, and no others.
    assert len(direct) == 2
    assert prepared_by_reads(url) == set()
