"""A disk without room, as the system itself tells of it, under load: callers are told, and all goes
on by itself once there is room."""

import asyncio
from contextlib import asynccontextmanager

import pytest

import disks
from calls import read
from databases import sqlite_url
from disks import SmallDisk
from grounds import PostgresGround
from servers import InProcessServer
from traffic import Traffic, connect, stub

pytestmark = pytest.mark.skipif(bool(disks.missing()), reason=disks.missing())

TOLD = {"STORAGE_FULL", "STORAGE_UNAVAILABLE", "OUTCOME_UNKNOWN", "DEADLINE_EXCEEDED"}


@asynccontextmanager
async def served(url):
    async with InProcessServer(url) as server, connect(server.address) as channel:
        yield stub(channel)


async def test_sqlite_on_a_disk_without_room():
    with SmallDisk(32) as disk:
        async with served(sqlite_url(disk.directory)) as event_store:
            async with Traffic([event_store]) as traffic:
                for _ in range(3):
                    await traffic.more(20)
                    await asyncio.to_thread(disk.fill)
                    await traffic.until_repeated(3)
                    assert (await read(event_store)).events, "reads go on"
                    disk.clear()
                await traffic.more(20)
            await traffic.check(event_store)
    assert traffic.repeated.keys() <= TOLD


@pytest.mark.timeout(300)
async def test_postgresql_on_a_disk_without_room():
    """It may stop altogether, and is started again by whoever made room."""
    with PostgresGround("full-disk") as ground:
        async with served(ground.url) as event_store:
            async with Traffic([event_store]) as traffic:
                for _ in range(2):
                    await traffic.more(20)
                    await asyncio.to_thread(ground.disk.fill)
                    await traffic.until_repeated(3)
                    await asyncio.to_thread(ground.mend)
                await traffic.more(20)
            await traffic.check(event_store)
    assert traffic.repeated.keys() <= TOLD
