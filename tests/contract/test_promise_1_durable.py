"""Promise 1: an acknowledged append survives `kill -9` of the server."""

import asyncio
import random
from typing import Any

import grpc
import pytest

from calls import append, append_all, append_to, head_of, make_event, read, subscribed, to_stream
from checks import check_atomic, check_durable, check_log, check_subscription
from treering.v1.event_store_service_pb2 import AppendItem, AppendManyRequest, AppendRequest
from treering.v1.event_store_service_pb2_grpc import EventStoreServiceStub

ROUNDS = 3


def ids_of(request: AppendRequest) -> list[str]:
    """Ids of an append in the order of recording."""
    parts = [event.id for part in request.appends for event in part.events]
    return parts + [event.id for event in request.events]


class Traffic:
    """Writers that append until their server is gone, and what they know afterwards."""

    def __init__(self, event_store: Any, seed: int) -> None:
        self._event_store = event_store
        self._rng = random.Random(seed)
        self.sent: list[AppendRequest] = []
        self.acknowledged: dict[str, int] = {}
        """Positions told, by event id."""
        self.enough = asyncio.Event()

    def next_request(self) -> AppendRequest:
        """An append of some events to a few streams and to none."""
        rng = self._rng
        parts = [
            to_stream(f"s-{rng.randrange(8)}", *(make_event() for _ in range(rng.randrange(1, 4))))
            for _ in range(rng.randrange(3))
        ]
        request = append_all(*parts, events=[make_event()])
        self.sent.append(request)
        return request

    def acknowledge(self, request: AppendRequest, first_position: int) -> None:
        """Notes where the events of an append are."""
        for position, event_id in enumerate(ids_of(request), start=first_position):
            self.acknowledged[event_id] = position
        if len(self.acknowledged) > 150:
            self.enough.set()

    async def write(self) -> None:
        """One append after the other."""
        while True:
            request = self.next_request()
            try:
                response = await self._event_store.Append(request)
            except grpc.RpcError:
                return
            self.acknowledge(request, response.first_position)

    async def pipeline(self) -> None:
        """Appends on one call, several under way."""
        open_requests: dict[int, AppendRequest] = {}
        call = self._event_store.AppendMany()
        try:
            for n in range(100_000):
                open_requests[n] = self.next_request()
                item = AppendItem(request_id=n, append=open_requests[n])
                await call.write(AppendManyRequest(items=[item]))
                if n % 5 == 4:
                    while open_requests:
                        response = await call.read()
                        if response is grpc.aio.EOF:
                            return
                        for result in response.results:
                            request = open_requests.pop(result.request_id)
                            self.acknowledge(request, result.appended.first_position)
        except (grpc.RpcError, asyncio.InvalidStateError):
            return


@pytest.mark.timeout(300)
async def test_an_acknowledged_append_survives_kill_9(database_url, server_process):
    """Rounds of traffic, each ended by kill -9 in the middle. After each restart: every
    acknowledged event is there once, where it was said to be, every append whole or absent,
    the log dense, and what was sent in vain can be sent again."""
    acknowledged: dict[str, int] = {}
    sent: list[AppendRequest] = []
    for round_ in range(ROUNDS):
        process = server_process(database_url)
        async with grpc.aio.insecure_channel(process.address) as channel:
            traffic = Traffic(EventStoreServiceStub(channel), seed=round_)
            writers = [asyncio.create_task(traffic.write()) for _ in range(6)]
            writers += [asyncio.create_task(traffic.pipeline()) for _ in range(2)]
            async with asyncio.timeout(60):
                await traffic.enough.wait()
            await asyncio.to_thread(process.kill)
            await asyncio.gather(*writers)
        acknowledged |= traffic.acknowledged
        sent += traffic.sent

        process = server_process(database_url)
        async with grpc.aio.insecure_channel(process.address) as channel:
            event_store = EventStoreServiceStub(channel)
            log = (await read(event_store)).events
            check_log(log)
            check_durable(log, acknowledged)
            check_atomic(log, map(ids_of, sent))

            recorded = {event.id for event in log}
            for request in traffic.sent:
                response = await append(event_store, request)
                assert response.duplicate == (ids_of(request)[0] in recorded)
                acknowledged |= dict(
                    zip(
                        ids_of(request),
                        range(response.first_position, response.last_position + 1),
                        strict=True,
                    )
                )
            log = (await read(event_store)).events
            check_log(log)
            check_durable(log, acknowledged)
        await asyncio.to_thread(process.kill)
    assert len(log) == sum(len(ids_of(request)) for request in sent)


@pytest.mark.timeout(300)
async def test_a_subscription_goes_on_after_kill_9(database_url, server_process):
    """What a subscriber was sent is never taken back: it resumes with the event it saw last."""
    received: list[Any] = []
    for round_ in range(ROUNDS):
        process = server_process(database_url)
        async with grpc.aio.insecure_channel(process.address) as channel:
            event_store = EventStoreServiceStub(channel)
            last = received[-1] if received else None
            async with subscribed(
                event_store,
                after_position=last.position if last else 0,
                after_event_id=last.id if last else "",
            ) as subscription:
                traffic = Traffic(event_store, seed=round_)
                writers = [asyncio.create_task(traffic.write()) for _ in range(4)]
                async with asyncio.timeout(60):
                    await subscription.until_received(100)
                await asyncio.to_thread(process.kill)
                await asyncio.gather(*writers)
                try:
                    while True:
                        await subscription.next()
                except grpc.RpcError:
                    received += subscription.received

    process = server_process(database_url)
    async with grpc.aio.insecure_channel(process.address) as channel:
        log = (await read(EventStoreServiceStub(channel))).events
    check_subscription(received, log, complete=False)


async def test_a_restart_keeps_the_log_and_its_id(database_url, server_process):
    process = server_process(database_url)
    async with grpc.aio.insecure_channel(process.address) as channel:
        event_store = EventStoreServiceStub(channel)
        await append(event_store, append_to("a", make_event(), make_event()), append_to("b"))
        before = await head_of(event_store), (await read(event_store)).events
    await asyncio.to_thread(process.kill)

    process = server_process(database_url)
    async with grpc.aio.insecure_channel(process.address) as channel:
        event_store = EventStoreServiceStub(channel)
        after = await head_of(event_store), (await read(event_store)).events
        response = await append(event_store, append_to("a", expected_version=2))

    assert after == before
    assert response.first_position == 4
