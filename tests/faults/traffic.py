"""Writers and followers that do as clients should while everything breaks around them."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, Self

import grpc
import grpc.aio

from calls import append_all, make_event, read, subscribed, to_stream, unpack
from checks import check_atomic, check_durable, check_log, check_subscription
from treering.v1.event_pb2 import RecordedEvent
from treering.v1.event_store_service_pb2 import AppendRequest
from treering.v1.event_store_service_pb2_grpc import EventStoreServiceStub

SECONDS = 60.0
"""How long a test waits for what must come at last."""
CALL_SECONDS = 20.0
PAUSE_SECONDS = 0.05

# A server that is back is to be found at once.
CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
)


def connect(address: str) -> Any:
    """A channel that finds a restarted server soon. Use as a context."""
    return grpc.aio.insecure_channel(address, CHANNEL_OPTIONS)


def ids_of(request: AppendRequest) -> list[str]:
    """Ids of an append in the order of recording."""
    parts = [event.id for part in request.appends for event in part.events]
    return parts + [event.id for event in request.events]


def reason_of(error: Any) -> str:
    """Why a call failed: our reason, or the bare code of the transport."""
    if "grpc-status-details-bin" in dict(error.trailing_metadata() or ()):
        return unpack(error).reason
    if error.details() == "Internal error from Core":
        # gRPC's own, in this process: it had something to send on a call that was over.
        return "UNAVAILABLE"
    return str(error.code().name)


REPEATED = {
    "STORAGE_UNAVAILABLE",
    "OUTCOME_UNKNOWN",
    "SHUTTING_DOWN",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "CANCELLED",
    "STORAGE_FULL",
}
"""Why an append is repeated. Anything else would be a defect."""


class Traffic:
    """Writers who repeat each append, ids and all, until it is acknowledged.

    Use as `async with Traffic(stubs) as traffic`; at the end of the block all that they sent is
    settled.
    """

    def __init__(self, event_stores: Sequence[Any], *, writers: int = 6, seed: int = 1) -> None:
        self._event_stores = event_stores
        self._rng = random.Random(seed)
        self._changed = asyncio.Condition()
        self._stopping = False
        self._count = writers
        self.sent: list[AppendRequest] = []
        self.answered = 0
        self.acknowledged: dict[str, int] = {}
        """Positions told, by event id."""
        self.repeated: Counter[str] = Counter()
        """How often an append was repeated, by the reason."""

    async def __aenter__(self) -> Self:
        self._writers = [asyncio.create_task(self._write(n)) for n in range(self._count)]
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        self._stopping = True
        if kind is not None:
            for writer in self._writers:
                writer.cancel()
        async with asyncio.timeout(SECONDS):
            await asyncio.gather(*self._writers, return_exceptions=kind is not None)

    async def more(self, count: int) -> None:
        """Waits until so many more appends were acknowledged."""
        goal = self.answered + count
        await self._until(lambda: self.answered >= goal)

    async def until_repeated(self, count: int) -> None:
        """Waits until so many appends had to be repeated."""
        goal = self.repeated.total() + count
        await self._until(lambda: self.repeated.total() >= goal)

    async def _until(self, reached: Any) -> None:
        async with asyncio.timeout(SECONDS), self._changed:
            while not reached():
                for writer in self._writers:
                    if writer.done():
                        writer.result()
                await self._changed.wait()

    async def _write(self, number: int) -> None:
        try:
            while not self._stopping:
                await self._settle(self._next_request(), number)
        finally:
            async with self._changed:
                self._changed.notify_all()

    def _next_request(self) -> AppendRequest:
        parts = [
            to_stream(
                f"s-{self._rng.randrange(8)}",
                *(make_event(data=b"x" * 200) for _ in range(self._rng.randrange(1, 4))),
            )
            for _ in range(self._rng.randrange(3))
        ]
        request = append_all(*parts, events=[make_event()])
        self.sent.append(request)
        return request

    async def _settle(self, request: AppendRequest, turn: int) -> None:
        while True:
            event_store = self._event_stores[turn % len(self._event_stores)]
            turn += 1
            try:
                response = await event_store.Append(request, timeout=CALL_SECONDS)
            except grpc.RpcError as error:
                reason = reason_of(error)
                assert reason in REPEATED, error
                async with self._changed:
                    self.repeated[reason] += 1
                    self._changed.notify_all()
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            for position, event_id in enumerate(ids_of(request), start=response.first_position):
                self.acknowledged[event_id] = position
            async with self._changed:
                self.answered += 1
                self._changed.notify_all()
            return

    async def check(self, event_store: Any) -> list[RecordedEvent]:
        """All promises on the whole log, which holds what was sent, once, and nothing else."""
        log = (await read(event_store)).events
        check_log(log)
        check_atomic(log, map(ids_of, self.sent))
        check_durable(log, self.acknowledged)
        assert {event.id for event in log} == {id for each in self.sent for id in ids_of(each)}
        assert self.acknowledged.keys() == {event.id for event in log}
        return log


class Follower:
    """A subscriber who goes on where it was, whenever its call ends."""

    def __init__(self, event_store: Any) -> None:
        self._event_store = event_store
        self.received: list[RecordedEvent] = []
        self.ends: Counter[str] = Counter()
        """How its calls ended, by the reason."""

    async def follow(self, position: int) -> None:
        """Follows until it has received an event at the position."""
        async with asyncio.timeout(SECONDS):
            while self._last.position < position:
                try:
                    await self._follow_once(position)
                except grpc.RpcError as error:
                    reason = reason_of(error)
                    assert reason in REPEATED, error
                    self.ends[reason] += 1
                    await asyncio.sleep(PAUSE_SECONDS)

    @property
    def _last(self) -> RecordedEvent:
        return self.received[-1] if self.received else RecordedEvent()

    async def _follow_once(self, position: int) -> None:
        last = self._last
        async with subscribed(
            self._event_store, after_position=last.position, after_event_id=last.id
        ) as subscription:
            seen = 0
            while self._last.position < position:
                await subscription.next()
                self.received += subscription.received[seen:]
                seen = len(subscription.received)

    def check(self, log: Sequence[RecordedEvent]) -> None:
        """It got the whole log, once and in order."""
        check_subscription(self.received, log)


def stub(channel: Any) -> Any:
    """The stub to append, read and subscribe by."""
    return EventStoreServiceStub(channel)
