"""Servers that stop dead, or are killed, while others go on over the same PostgreSQL."""

import asyncio
import random
from contextlib import AsyncExitStack

import psycopg
import pytest

from calls import append, append_to, make_event
from databases import free_port
from traffic import SECONDS, Traffic, connect, stub

HELD_IDLE = """
SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND state = 'idle in transaction'
  AND datname = current_database() AND application_name = 'treering'
"""


async def test_a_server_that_stops_dead_while_it_holds_the_append_lock(
    own_postgres, server_process
):
    """The database takes the lock from it: others go on. What it did is not half done, and once
    it goes on it finds out itself."""
    url = own_postgres.create_database()
    frozen, other = server_process(url), server_process(url)
    watcher = await psycopg.AsyncConnection.connect(url, autocommit=True)
    async with connect(frozen.address) as one, connect(other.address) as two, watcher:
        async with Traffic([stub(one)]) as traffic:
            await traffic.more(10)
            rng = random.Random(1)
            async with asyncio.timeout(SECONDS):
                while True:
                    await asyncio.sleep(rng.random() / 20)
                    frozen.pause()
                    # What it had sent is done by the database in no time; it then waits.
                    await asyncio.sleep(0.05)
                    if await (await watcher.execute(HELD_IDLE)).fetchone() == (1,):
                        break
                    frozen.resume()
            event = make_event()
            async with asyncio.timeout(SECONDS), Traffic([stub(two)], seed=2) as others:
                await append(stub(two), append_to("other", event))
                await others.more(10)
            frozen.resume()
            await traffic.more(10)
        traffic.sent += [*others.sent, append_to("other", event)]
        traffic.acknowledged |= others.acknowledged
        answer = await append(stub(two), append_to("other", event))
        traffic.acknowledged[event.id] = answer.first_position
        assert answer.duplicate
        await traffic.check(stub(two))
    assert "terminating connection due to idle-in-transaction timeout" in own_postgres.log


@pytest.mark.timeout(180)
async def test_servers_killed_by_turns(postgres_url, server_process):
    ports = [free_port(), free_port()]

    def start(n):
        return server_process(postgres_url, listen=f"127.0.0.1:{ports[n]}")

    processes = [start(0), start(1)]
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(connect(f"127.0.0.1:{p}")) for p in ports]
        stores = [stub(channel) for channel in channels]
        async with Traffic(stores) as traffic:
            for n in (0, 1, 0, 1):
                await traffic.more(40)
                await asyncio.to_thread(processes[n].kill)
                await traffic.more(20)
                processes[n] = await asyncio.to_thread(start, n)
            await traffic.more(20)
        for channel, store in zip(channels, stores, strict=True):
            await channel.channel_ready()
            await traffic.check(store)
    assert traffic.repeated.keys() <= {"UNAVAILABLE", "CANCELLED"}
