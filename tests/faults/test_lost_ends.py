"""A primary is lost with the end of its log, again and again, while servers are killed and frozen
and the ways between everybody are cut: nobody is told anything that holds in neither log."""

import asyncio
import random
import time
from collections import Counter
from contextlib import AsyncExitStack

import grpc
import pytest

import treering
from calls import append_to
from failover import PASSING, DecidingTraffic, Pair, StubFollower, incarnations_in, log_in
from faults import AtServers, AtWays, tended
from grounds import PostgresGround
from runs import LONG, SEED, count
from sites import Site
from traffic import PAUSE_SECONDS, SECONDS, connect, reason_of, stub

SOME_SECONDS = 4.0
"""How long things break before the primary is lost, and after."""


class Breaking:
    """Servers and ways break, for as long as the block lasts."""

    def __init__(self, seed, sites, url):
        ground = PostgresGround("plain")
        ground.url = url
        self.faults = Counter()
        rng = random.Random(seed)
        self._hands = [AtServers(rng, self.note, sites, ground), AtWays(rng, self.note, sites)]
        self._sites = sites

    def note(self, fault):
        self.faults[fault] += 1

    async def go_on(self, seconds):
        until = time.monotonic() + seconds
        await asyncio.gather(*(hand.run(until) for hand in self._hands))

    async def mend(self):
        for site in self._sites:
            await site.tend()


async def settled(event_store, request):
    """The answer to an append that is repeated until it has one."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                return await event_store.Append(request)
            except grpc.RpcError as error:
                assert reason_of(error) in PASSING, error
                await asyncio.sleep(PAUSE_SECONDS)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("number", range(4 if LONG else 1))
async def test_a_lost_end_while_other_things_break(own_postgres, record_property, number):
    seed = 100 * SEED + number
    url = own_postgres.create_database()
    with await asyncio.to_thread(own_postgres.standby) as standby:
        lost, faults = await check_a_lost_end(Pair(own_postgres, standby, url), seed)
    record_property("events lost", f"{lost}; {faults}")
    count({"postgresql: failovers that lose an end": 1})
    count({f"postgresql: {fault}": number for fault, number in faults.items()})


async def check_a_lost_end(pair, seed):
    async with AsyncExitStack() as stack:
        sites = [Site(pair.url, None, stack) for _ in range(2)]
        for site in sites:
            await asyncio.to_thread(site.start)
        addresses = [site.to_clients.address for site in sites]
        stores = [stub(await stack.enter_async_context(connect(each))) for each in addresses]
        clients = [
            await stack.enter_async_context(treering.AsyncClient(each, timeout=SECONDS))
            for each in addresses
        ]
        followers = [StubFollower(store) for store in stores for _ in range(2)]
        following = [asyncio.create_task(follower.follow()) for follower in followers]
        breaking = Breaking(seed, sites, pair.url)
        async with tended(random.Random(seed), breaking.note, sites):
            async with DecidingTraffic(stores, clients, seed=seed) as traffic:
                await traffic.more(20)
                await breaking.go_on(SOME_SECONDS)
                await pair.cut_off()
                await breaking.go_on(SOME_SECONDS)
                await breaking.mend()
                await traffic.more(20)
                await pair.fail_over()
                for site in sites:
                    site.to_database.turn_to(pair.standby)
                await breaking.go_on(SOME_SECONDS)
                await breaking.mend()
                await traffic.more(60)
            last = await settled(stores[0], append_to("end"))
            for follower in followers:
                follower.goal = last.first_position
            async with asyncio.timeout(SECONDS):
                await asyncio.gather(*following)

    [(_, old_id, _), (_, new_id, first_position)] = incarnations_in(pair.standby_url)
    fork = first_position - 1
    logs = {old_id: await pair.lost_log(), new_id: log_in(pair.standby_url)}
    assert logs[old_id][:fork] == logs[new_id][:fork]
    assert len(logs[old_id]) > fork, "nothing was lost"
    traffic.check_logs(logs)
    for follower in followers:
        follower.check(logs, {old_id: fork})
    return len(logs[old_id]) - fork, breaking.faults
