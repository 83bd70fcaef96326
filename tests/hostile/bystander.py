"""Somebody with nothing to do with an attack, and what the server must still be for them."""

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import psutil

from calls import WAIT_SECONDS, append, append_to, head_of, new_id, read
from servers import ServerProcess, parse_log
from treering.v1.event_store_service_pb2_grpc import EventStoreServiceStub

OWN_CHANNEL = [("grpc.use_local_subchannel_pool", 1)]
DEADLINE_SECONDS = 20.0
PAUSE_SECONDS = 0.005
MEGABYTE = 1024 * 1024
TRANSPORT_LINE = re.compile(r"[EW]\d{4} [\d:.]+ +\d+ [a-z_]+\.cc:\d+\] ")
"""How lines of the log begin that gRPC's core writes."""
DATABASE_FILES = 32
"""What the server's connections to the database may need more: they are made when they are
needed, and kept."""


@dataclass
class Bystander:
    """Appends to a stream of its own and asks for the head, all the while."""

    store: Any
    stream: str = field(default_factory=lambda: f"bystander-{new_id()}")
    seconds: list[float] = field(default_factory=list)
    """What each append and its look at the head took."""
    version: int = 0
    _turned: asyncio.Event = field(default_factory=asyncio.Event)

    async def go_on(self) -> None:
        """Ends only by being cancelled, or with the first call that fails."""
        while True:
            began = time.monotonic()
            request = append_to(self.stream, expected_version=self.version)
            await self.store.Append(request, timeout=DEADLINE_SECONDS)
            self.version += 1
            await head_of(self.store)
            self.seconds.append(time.monotonic() - began)
            self._turned.set()
            await asyncio.sleep(PAUSE_SECONDS)

    async def turns(self, count: int) -> list[float]:
        """What the next so many took, in order of time taken."""
        after = len(self.seconds)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(self.seconds) < after + count:
                self._turned.clear()
                await self._turned.wait()
        return sorted(self.seconds[after:])


@asynccontextmanager
async def bystander(server: ServerProcess) -> AsyncIterator[Bystander]:
    """Somebody who is served all the while; a call of theirs that fails is raised at the end."""
    async with grpc.aio.insecure_channel(server.address, OWN_CHANNEL) as channel:
        somebody = Bystander(EventStoreServiceStub(channel))
        going_on = asyncio.create_task(somebody.go_on())
        try:
            await somebody.turns(1)
            yield somebody
            await somebody.turns(1)
        finally:
            going_on.cancel()
            await asyncio.wait({going_on})
            if not going_on.cancelled():
                going_on.result()


@asynccontextmanager
async def attacked(
    server: ServerProcess, *, megabytes: float, seconds: float
) -> AsyncIterator[Bystander]:
    """Around an attack: afterwards the server has grown by no more than so much, has its files
    back and said nothing of defects; a bystander never waited longer than so long; and nothing
    was written but what the bystander wrote."""
    process = psutil.Process(server.pid)
    async with grpc.aio.insecure_channel(server.address, OWN_CHANNEL) as channel:
        before = await head_of(EventStoreServiceStub(channel))
    async with bystander(server) as somebody:
        idle = await somebody.turns(50)
        bytes_before, files_before = process.memory_info().rss, process.num_fds()
        attack_began = len(somebody.seconds)
        yield somebody
        busy = sorted(somebody.seconds[attack_began:]) or [0.0]
        await somebody.turns(10)
        slowest = max(somebody.seconds[attack_began:])
        grown = (process.memory_info().rss - bytes_before) / MEGABYTE
        sys.stdout.write(
            f"bystander p99 {idle[-1] * 1000:.0f} ms idle, {busy[-1 - len(busy) // 100] * 1000:.0f}"
            f" attacked, at most {slowest * 1000:.0f}; server grew {grown:.0f} MiB\n"
        )
        await asyncio.to_thread(wait_for_files, process, files_before + DATABASE_FILES)
    async with grpc.aio.insecure_channel(server.address, OWN_CHANNEL) as channel:
        log = await read(EventStoreServiceStub(channel), after_position=before.head_position)
    assert {event.stream for event in log.events} == {somebody.stream}
    assert len(log.events) == somebody.version
    await check_served(server)
    assert slowest <= seconds
    assert grown <= megabytes


def wait_for_files(process: psutil.Process, count: int) -> None:
    """Waits until a process has no more files open than that."""
    deadline = time.monotonic() + WAIT_SECONDS
    while process.num_fds() > count:
        assert time.monotonic() < deadline, f"{process.num_fds()} files are open, not {count}"
        time.sleep(0.01)


async def check_served(server: ServerProcess) -> None:
    """Somebody new is served, and the log tells of no defect."""
    async with grpc.aio.insecure_channel(server.address, OWN_CHANNEL) as channel:
        store = EventStoreServiceStub(channel)
        await append(store, append_to("served"))
        assert (await read(store, stream="served")).events
    check_log_of(server)


def check_log_of(server: ServerProcess) -> None:
    """It runs, and its log has nothing but calls, no defect, and lines of the transport's."""
    assert server.is_running, server.text[-5000:]
    odd = [
        line
        for line in server.output
        if not TRANSPORT_LINE.match(line) and (parse_log(line) or {}).get("level") != "info"
    ]
    assert not odd, "\n".join(odd)[:5000]
