"""Promise 8 under load: what a flood costs the server's memory, and everybody else.

The bounds here are on memory and on what gets through. How long others wait meanwhile is
printed, for the page on operating: `FAULT_LONG=1`, as in `make faults`, makes everything as large
as it says there.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from calls import ALL, append_to, make_event, read
from runs import LONG
from servers import ServerProcess
from traffic import stub
from treering.v1.event_store_service_pb2 import (
    AppendRequest,
    StreamAppend,
    SubscribeRequest,
)

SECONDS = 20 if LONG else 4
MIB = 2**20
RING = 64
"""MiB that the feed keeps, by default."""
LOADS = Path(__file__).with_name("loads.py")


@dataclass
class Meanwhile:
    """What the server took, and what another caller got, while it was under a load."""

    resting_mib: float
    peak_mib: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)
    """Of the load's calls: how many ended how."""
    waits: dict[str, list[float]] = field(
        default_factory=lambda: {"append": [], "read": [], "health": []}
    )
    """Seconds that each of the other caller's calls took."""

    @property
    def growth_mib(self) -> float:
        """Memory that the load cost."""
        return self.peak_mib - self.resting_mib

    def __str__(self) -> str:
        waits = "; ".join(
            f"{name} p50 {1000 * percentile(seconds, 0.5):.0f} ms, "
            f"p99 {1000 * percentile(seconds, 0.99):.0f} ms"
            for name, seconds in self.waits.items()
        )
        return (
            f"{self.resting_mib:.0f} MiB, then up to {self.peak_mib:.0f} MiB; {self.outcomes}; "
            f"others: {waits}"
        )


def percentile(seconds: list[float], share: float) -> float:
    return sorted(seconds)[int(share * (len(seconds) - 1))]


@pytest.fixture
def served(server_process, sqlite_file_url):
    server = server_process(sqlite_file_url)
    server.wait_until_ready()
    return server


def memory_mib(server: ServerProcess) -> float:
    return float(psutil.Process(server.pid).memory_info().rss) / MIB


@asynccontextmanager
async def under(server: ServerProcess, load: str, number: int) -> AsyncIterator[Meanwhile]:
    """Bears down on a server, while another caller appends, reads and asks how it is."""
    meanwhile = Meanwhile(memory_mib(server))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(LOADS), load, server.address, str(SECONDS), str(number)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    tasks = []
    try:
        assert await process.stdout.readline() == b"ready\n"
        tasks = [asyncio.create_task(job(server, meanwhile)) for job in (call, watch)]
        yield meanwhile
        meanwhile.outcomes = json.loads(await process.stdout.read())
        assert await process.wait() == 0
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended
    sys.stdout.write(f"{load}, {number}: {meanwhile}\n")


async def watch(server: ServerProcess, meanwhile: Meanwhile) -> None:
    while True:
        meanwhile.peak_mib = max(meanwhile.peak_mib, memory_mib(server))
        await asyncio.sleep(0.05)


async def call(server: ServerProcess, meanwhile: Meanwhile) -> None:
    """A caller who asks for little, and is never refused."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(server.address, options=options) as channel:
        event_store: Any = stub(channel)
        health: Any = HealthStub(channel)
        version = 0
        while True:
            async with timed(meanwhile, "append"):
                await event_store.Append(append_to("modest", expected_version=version))
            version += 1
            async with timed(meanwhile, "read"):
                answer = await read(event_store, stream="modest", after_version=version - 1)
            assert answer.stream_version == version
            async with timed(meanwhile, "health"):
                await health.Check(HealthCheckRequest())
            await asyncio.sleep(0.02)


@asynccontextmanager
async def timed(meanwhile: Meanwhile, what: str) -> AsyncIterator[None]:
    began = time.monotonic()
    yield
    meanwhile.waits[what].append(time.monotonic() - began)


async def fill(server: ServerProcess, events: int) -> None:
    """A log to read; every second event has the one tag, the others the other."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        event_store = stub(channel)
        for start in range(0, events, 5_000):
            some = [
                make_event("A", f"half:{number % 2}", id="", data=b"x" * 250)
                for number in range(5_000)
            ]
            part = StreamAppend(stream=f"a-{start}", events=some)
            await event_store.Append(AppendRequest(appends=[part]))


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("load", "number", "most_mib"),
    [
        ("small_appends", 64 if LONG else 16, 250),
        ("pipelines", 64 if LONG else 16, 500),
        ("largest_appends", 32 if LONG else 4, 700),
        ("one_large_event", 64 if LONG else 8, 1_000),
    ],
)
async def test_a_flood_of_appends_costs_bounded_memory_and_shuts_out_nobody(
    served, load, number, most_mib
):
    async with under(served, load, number) as meanwhile:
        pass
    assert meanwhile.growth_mib < RING + most_mib, meanwhile
    assert meanwhile.outcomes.keys() <= {"done", "OVERLOADED"}, meanwhile
    assert meanwhile.outcomes["done"] > 0
    assert meanwhile.waits["append"], "somebody who asks for little gets it"
    async with grpc.aio.insecure_channel(served.address) as channel:
        modest = await read(stub(channel), stream="modest")
    acknowledged = len(meanwhile.waits["append"])
    assert modest.versions[:acknowledged] == list(range(1, acknowledged + 1))


@pytest.mark.timeout(240)
async def test_conditions_that_take_long_are_refused_and_hold_up_nobody_else(served):
    await fill(served, 200_000 if LONG else 50_000)
    async with under(served, "costly_conditions", 32 if LONG else 8) as meanwhile:
        pass
    assert meanwhile.growth_mib < RING + 100, meanwhile
    allowed = {"done", "OVERLOADED", "CONDITION_TOO_COSTLY"}
    assert meanwhile.outcomes.keys() <= allowed, meanwhile
    assert meanwhile.waits["append"]


@pytest.mark.timeout(240)
async def test_a_thousand_reads_cost_bounded_memory(served):
    """Half of them take a message and then no more."""
    await fill(served, 200_000 if LONG else 50_000)
    async with under(served, "reads", 1_000 if LONG else 200) as meanwhile:
        pass
    assert meanwhile.growth_mib < RING + 250, meanwhile
    assert meanwhile.outcomes["events"] > 0
    assert meanwhile.outcomes.keys() <= {"events", "done", "broken off", "OVERLOADED"}


@pytest.mark.timeout(240)
async def test_idle_subscribers_cost_little_and_all_get_the_next_event(served):
    number = 5_000 if LONG else 500
    async with under(served, "subscribers", number) as meanwhile:
        pass
    # The other caller appends all the time, and each of them gets all of it.
    assert meanwhile.outcomes["caught up"] == number
    assert meanwhile.outcomes["events"] >= number
    assert meanwhile.growth_mib * 1024 / number < 64, f"KiB for each: {meanwhile}"


@pytest.mark.timeout(240)
async def test_subscribers_that_stop_reading_cost_bounded_memory(served):
    """And one that reads gets everything meanwhile."""
    number, events = (200, 200_000) if LONG else (50, 50_000)
    async with (
        grpc.aio.insecure_channel(served.address) as channel,
        under(served, "stuck_subscribers", number) as meanwhile,
    ):
        live = stub(channel).Subscribe(SubscribeRequest(query=ALL))
        filling = asyncio.create_task(fill(served, events))
        received = 0
        async for response in live:
            received += sum(event.type == "A" for event in response.events.events)
            if received == events:
                break
        await filling
    # Pages on their way, and gRPC's copies; what is appended at the time takes some as well.
    assert meanwhile.growth_mib < RING + 64 + number, meanwhile
