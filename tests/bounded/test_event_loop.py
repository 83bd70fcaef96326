"""The event loop serves everybody, so nothing on it may take long, and nothing wait there.

What a step of the loop takes is measured as processor time of its thread: other threads, other
processes and a busy machine don't count.
"""

import asyncio
import functools
import gc
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest

from calls import ALL, append_to, make_event
from servers import InProcessServer
from treering.v1.event_store_service_pb2 import (
    AppendItem,
    AppendManyRequest,
    AppendRequest,
    GetHeadRequest,
    ReadRequest,
    StreamAppend,
    SubscribeRequest,
)
from treering.v1.event_store_service_pb2_grpc import EventStoreServiceStub
from treering.v1.stream_service_pb2 import (
    DeleteStreamRequest,
    GetStreamRequest,
    ListStreamsRequest,
)
from treering.v1.stream_service_pb2_grpc import StreamServiceStub
from treering_server import server as server_module

LONGEST_STEP = 0.02
"""Seconds. An order of magnitude above what most of these take on a slow machine, and below what
a single large request takes as a whole."""


class LongestStep:
    """The longest step of the loop so far."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.what = ""

    def note(self, seconds: float, handle: asyncio.Handle) -> None:
        if seconds > self.seconds:
            callback = handle._callback  # type: ignore[attr-defined]
            self.seconds, self.what = seconds, repr(getattr(callback, "__self__", callback))


@contextmanager
def measured_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[LongestStep]:
    """Measures each step of this thread's loop."""
    longest, ours, run = LongestStep(), threading.get_ident(), asyncio.Handle._run

    def measured(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        run(handle)
        if threading.get_ident() == ours:
            longest.note(time.thread_time() - began, handle)

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.Handle, "_run", measured)
        thresholds = gc.get_threshold()
        server_module.look_for_garbage_rarely()
        try:
            yield longest
        finally:
            gc.unfreeze()
            gc.set_threshold(*thresholds)


@pytest.fixture
def client_threads() -> Iterator[ThreadPoolExecutor]:
    """Callers must not run on the server's loop, nor in its threads."""
    with ThreadPoolExecutor(4) as threads:
        yield threads


async def test_a_blocked_loop_would_be_noticed(monkeypatch):
    async def compute():
        ends = time.thread_time() + 2 * LONGEST_STEP
        while time.thread_time() < ends:
            pass

    with measured_steps(monkeypatch) as longest:
        await asyncio.create_task(compute())
    assert longest.seconds > LONGEST_STEP
    assert "compute" in longest.what


def tiny_events(size: int) -> AppendRequest:
    """As many events as go into a request of that size."""
    event = make_event("A", id="")
    count = size // (event.ByteSize() + 2) - 3
    return AppendRequest(appends=[StreamAppend(stream="tiny", events=[event] * count)])


def large(stub: EventStoreServiceStub) -> None:
    """One of the largest requests, and all of the log."""
    events = [make_event("A", "a:1", id="", data=b"x" * 300) for _ in range(10_000)]
    stub.Append(AppendRequest(appends=[StreamAppend(stream="large", events=events)]))
    assert sum(len(part.events) for part in stub.Read(ReadRequest(query=ALL))) >= 10_000


def tiny(stub: EventStoreServiceStub) -> None:
    """Requests just below the size from which on they are large."""
    for _ in range(20):
        stub.Append(tiny_events(4_000))


def pipelined(stub: EventStoreServiceStub) -> None:
    """Ten thousand appends, a thousand in a message."""
    ids = iter(range(10_000))
    messages = [
        AppendManyRequest(
            items=[
                AppendItem(request_id=next(ids), append=append_to("many", make_event("A")))
                for _ in range(1_000)
            ]
        )
        for _ in range(10)
    ]
    assert sum(len(part.results) for part in stub.AppendMany(iter(messages))) == 10_000


@pytest.mark.parametrize("load", [large, tiny, pipelined])
async def test_no_step_of_the_loop_takes_long(monkeypatch, sqlite_file_url, client_threads, load):
    loop = asyncio.get_running_loop()

    def call(address: str) -> None:
        with grpc.insecure_channel(address) as channel:
            load(EventStoreServiceStub(channel))

    async with InProcessServer(sqlite_file_url) as server:
        with measured_steps(monkeypatch) as longest:
            await loop.run_in_executor(client_threads, call, server.address)
    assert longest.seconds < LONGEST_STEP, longest.what


async def test_no_step_takes_long_when_a_thousand_wait_for_one_event(
    monkeypatch, sqlite_file_url, client_threads
):
    loop, subscribers, caught_up = asyncio.get_running_loop(), 1_000, threading.Semaphore(0)

    def subscribe(address: str) -> int:
        """All of one thread's subscribers; how many events they got."""

        async def one(event_store: Any) -> int:
            async for response in event_store.Subscribe(SubscribeRequest(query=ALL)):
                if response.HasField("caught_up"):
                    caught_up.release()
                elif response.HasField("events"):
                    return len(response.events.events)
            return 0

        async def all_of_them() -> int:
            async with grpc.aio.insecure_channel(address) as channel:
                stub = EventStoreServiceStub(channel)
                return sum(await asyncio.gather(*(one(stub) for _ in range(subscribers))))

        return asyncio.run(all_of_them())

    def append(address: str) -> None:
        for _ in range(subscribers):
            assert caught_up.acquire(timeout=60)
        with grpc.insecure_channel(address) as channel:
            EventStoreServiceStub(channel).Append(append_to("a"))

    async with InProcessServer(sqlite_file_url) as server:
        with measured_steps(monkeypatch) as longest:
            subscribed = loop.run_in_executor(client_threads, subscribe, server.address)
            await loop.run_in_executor(client_threads, append, server.address)
            assert await subscribed == subscribers
    assert longest.seconds < LONGEST_STEP, longest.what


async def test_the_loop_never_waits_for_the_database(monkeypatch, database_url, client_threads):
    """Whatever is called: no method of the storage runs in the loop's thread once it serves."""
    ours, broken = threading.get_ident(), []
    serving = False

    class Watched:
        """A storage that tells of calls from the loop."""

        def __init__(self, storage: Any) -> None:
            self._storage = storage

        def __getattr__(self, name: str) -> Any:
            value = getattr(self._storage, name)
            if not callable(value):
                return value

            @functools.wraps(value)
            def watched(*arguments: Any, **named: Any) -> Any:
                if serving and threading.get_ident() == ours:
                    broken.append(name)
                return value(*arguments, **named)

            return watched

    open_database = server_module.open_database

    def open_watched(*arguments: Any, **named: Any) -> Any:
        database = open_database(*arguments, **named)
        return replace(database, storage=Watched(database.storage))

    def call_everything(address: str) -> None:
        with grpc.insecure_channel(address) as channel:
            stub = EventStoreServiceStub(channel)
            large(stub)
            pipelined(stub)
            stub.GetHead(GetHeadRequest())
            subscription = stub.Subscribe(SubscribeRequest(query=ALL))
            for response in subscription:
                if response.HasField("caught_up"):
                    break
            subscription.cancel()
            streams = StreamServiceStub(channel)
            streams.GetStream(GetStreamRequest(stream="large"))
            streams.ListStreams(ListStreamsRequest())
            streams.DeleteStream(DeleteStreamRequest(stream="many"))

    monkeypatch.setattr(server_module, "open_database", open_watched)
    loop = asyncio.get_running_loop()
    async with InProcessServer(database_url) as server:
        serving = True
        await loop.run_in_executor(client_threads, call_everything, server.address)
        serving = False
    assert not broken
