"""SIGTERM and SIGINT: what is under way is finished, who follows is told, and the server
ends with 0 within seconds."""

import asyncio
import os
import signal
import time
from contextlib import suppress
from typing import Any

import grpc
import pytest

from calls import (
    ALL,
    MEGABYTE,
    append,
    append_to,
    make_event,
    next_response,
    read,
    subscribed,
    unpack,
)
from checks import check_durable, check_log
from treering.v1.event_store_service_pb2 import (
    AppendItem,
    AppendManyRequest,
    AppendRequest,
    ReadRequest,
)
from treering.v1.event_store_service_pb2_grpc import EventStoreServiceStub

SIGNALS = [signal.SIGTERM, signal.SIGINT]
STOP_SECONDS = 10.0


async def stop(process: Any, signal_: signal.Signals) -> int:
    """Sends the signal and waits for the end: the exit code."""
    os.kill(process.pid, signal_)
    return await asyncio.to_thread(process.wait, STOP_SECONDS)


@pytest.mark.parametrize("signal_", SIGNALS, ids=lambda s: s.name)
async def test_a_server_with_nothing_to_do_ends_with_0(database_url, server_process, signal_):
    process = server_process(database_url)
    began = time.monotonic()

    assert await stop(process, signal_) == 0
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("signal_", SIGNALS, ids=lambda s: s.name)
async def test_subscriptions_end_with_shutting_down(database_url, server_process, signal_):
    process = server_process(database_url)
    async with grpc.aio.insecure_channel(process.address) as channel:
        event_store = EventStoreServiceStub(channel)
        await append(event_store, append_to("a"))
        async with subscribed(event_store) as one, subscribed(event_store, stream="b") as other:
            for subscription in (one, other):
                await subscription.until("caught_up")
            code, *refusals = await asyncio.gather(stop(process, signal_), one.end(), other.end())

    assert code == 0
    assert [refusal.reason for refusal in refusals] == ["SHUTTING_DOWN"] * 2


@pytest.mark.parametrize("signal_", SIGNALS, ids=lambda s: s.name)
async def test_appends_under_way_are_finished(database_url, server_process, signal_):
    """Every append is acknowledged and there, or refused with SHUTTING_DOWN and not there,
    or met nobody any more."""
    process = server_process(database_url)
    acknowledged: dict[str, int] = {}
    refused_ids: set[str] = set()
    enough = asyncio.Event()

    async def write(event_store: Any) -> None:
        while True:
            event = make_event()
            try:
                response = await event_store.Append(AppendRequest(events=[event]))
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE
                if "grpc-status-details-bin" in dict(error.trailing_metadata() or ()):
                    assert unpack(error).reason == "SHUTTING_DOWN"
                    refused_ids.add(event.id)
                return
            acknowledged[event.id] = response.first_position
            if len(acknowledged) >= 100:
                enough.set()

    async with grpc.aio.insecure_channel(process.address) as channel:
        event_store = EventStoreServiceStub(channel)
        writers = [asyncio.create_task(write(event_store)) for _ in range(10)]
        await enough.wait()
        code, *_ = await asyncio.gather(stop(process, signal_), *writers)
    assert code == 0

    process = server_process(database_url)
    async with grpc.aio.insecure_channel(process.address) as channel:
        log = (await read(EventStoreServiceStub(channel))).events
    check_log(log)
    check_durable(log, acknowledged)
    assert refused_ids.isdisjoint(event.id for event in log)


async def test_a_subscription_can_be_resumed_at_the_next_server(database_url, server_process):
    process = server_process(database_url)
    async with grpc.aio.insecure_channel(process.address) as channel:
        event_store = EventStoreServiceStub(channel)
        await append(event_store, append_to("a", make_event(), make_event()))
        async with subscribed(event_store) as subscription:
            await subscription.until_received(2)
            await asyncio.gather(stop(process, signal.SIGTERM), subscription.end())
    last = subscription.received[-1]

    process = server_process(database_url)
    async with grpc.aio.insecure_channel(process.address) as channel:
        event_store = EventStoreServiceStub(channel)
        await append(event_store, append_to("a"))
        async with subscribed(
            event_store, after_position=last.position, after_event_id=last.id
        ) as resumed:
            [event] = await resumed.until_received(1)
    assert event.position == 3


async def test_an_idle_pipeline_ends_with_shutting_down(database_url, server_process):
    process = server_process(database_url)
    async with grpc.aio.insecure_channel(process.address) as channel:
        call = EventStoreServiceStub(channel).AppendMany()
        await call.write(AppendManyRequest(items=[AppendItem(append=append_to("a"))]))
        await next_response(call)
        code, response = await asyncio.gather(
            stop(process, signal.SIGTERM), next_response(call), return_exceptions=True
        )

    assert code == 0
    assert unpack(response).reason == "SHUTTING_DOWN"


async def test_a_reader_that_does_not_read_does_not_hold_the_server(database_url, server_process):
    process = server_process(database_url)
    async with grpc.aio.insecure_channel(process.address) as channel:
        event_store = EventStoreServiceStub(channel)
        for _ in range(15):
            await append(event_store, append_to("a", make_event(data=MEGABYTE)))
        call = event_store.Read(ReadRequest(query=ALL))
        await next_response(call)

        os.kill(process.pid, signal.SIGTERM)
        await asyncio.to_thread(process.wait, 20)
        call.cancel()


@pytest.mark.parametrize("signal_", SIGNALS, ids=lambda s: s.name)
async def test_a_second_signal_ends_at_once(database_url, server_process, signal_):
    """Also while a reader that does not read keeps the first one waiting."""
    process = server_process(database_url)
    async with grpc.aio.insecure_channel(process.address) as channel:
        event_store = EventStoreServiceStub(channel)
        for _ in range(15):
            await append(event_store, append_to("a", make_event(data=MEGABYTE)))
        call = event_store.Read(ReadRequest(query=ALL))
        await next_response(call)

        os.kill(process.pid, signal_)
        with suppress(AssertionError):
            await asyncio.to_thread(process.wait, 0.3)
        if process.is_running:
            os.kill(process.pid, signal_)
        await asyncio.to_thread(process.wait, 2)
        call.cancel()
