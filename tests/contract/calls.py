"""Requests in few words, and answers taken apart.

Everything that is received through this module is checked in passing for what the contract
promises of every answer of its kind: the shape and sizes of a refusal, the state on every
response of a read, the order and the checkpoints of a subscription.
"""

import asyncio
import base64
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_from_bytes

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from treering.v1.event_pb2 import Event, RecordedEvent
from treering.v1.event_store_service_pb2 import (
    DIRECTION_BACKWARDS,
    DIRECTION_FORWARDS,
    AppendCondition,
    AppendItem,
    AppendManyRequest,
    AppendRequest,
    AppendResponse,
    AppendResult,
    GetHeadRequest,
    GetHeadResponse,
    ReadRequest,
    ReadResponse,
    StreamAppend,
    SubscribeRequest,
    SubscribeResponse,
)
from treering.v1.failure_pb2 import Failure, FailureReason, Violation
from treering.v1.query_pb2 import Query, QueryItem

WAIT_SECONDS = 10.0
"""How long a test waits for what must come."""

MAX_NUMBER = 2**63 - 1
MEGABYTE = b"x" * (1024 * 1024)
FORWARDS, BACKWARDS = DIRECTION_FORWARDS, DIRECTION_BACKWARDS
ALL = Query(all=True)

CODES = {
    "VERSION_CONFLICT": grpc.StatusCode.ABORTED,
    "CONDITION_FAILED": grpc.StatusCode.ABORTED,
    "EVENT_ID_CONFLICT": grpc.StatusCode.ALREADY_EXISTS,
    "STREAM_DELETED": grpc.StatusCode.FAILED_PRECONDITION,
    "INVALID_REQUEST": grpc.StatusCode.INVALID_ARGUMENT,
    "LIMIT_EXCEEDED": grpc.StatusCode.INVALID_ARGUMENT,
    "POSITION_AHEAD_OF_LOG": grpc.StatusCode.OUT_OF_RANGE,
    "MIN_POSITION_NOT_REACHED": grpc.StatusCode.UNAVAILABLE,
    "LOG_MISMATCH": grpc.StatusCode.FAILED_PRECONDITION,
    "OVERLOADED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "STORAGE_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "SHUTTING_DOWN": grpc.StatusCode.UNAVAILABLE,
    "NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "ALREADY_EXISTS": grpc.StatusCode.ALREADY_EXISTS,
    "READ_ONLY": grpc.StatusCode.FAILED_PRECONDITION,
    "OUTCOME_UNKNOWN": grpc.StatusCode.UNAVAILABLE,
    "STORAGE_FULL": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "LOG_DIVERGED": grpc.StatusCode.FAILED_PRECONDITION,
    "CONDITION_TOO_COSTLY": grpc.StatusCode.FAILED_PRECONDITION,
}
"""The code of each reason, as `failure.proto` lists them."""

DETAILS = {
    "VERSION_CONFLICT": "version_conflict",
    "CONDITION_FAILED": "condition_failed",
    "EVENT_ID_CONFLICT": "event_id_conflict",
    "INVALID_REQUEST": "invalid_request",
    "LIMIT_EXCEEDED": "invalid_request",
    "POSITION_AHEAD_OF_LOG": "log_state",
    "MIN_POSITION_NOT_REACHED": "log_state",
    "LOG_MISMATCH": "log_state",
    "LOG_DIVERGED": "log_state",
}
"""The facts that a reason comes with; the others come without."""


# --- requests


def new_id() -> str:
    """An event id that nothing else has."""
    return str(uuid.uuid4())


def make_event(type: str = "Happened", *tags: str, id: str | None = None, **fields: Any) -> Event:
    """An event with an id of its own unless one is given (`id=""`: the server makes it)."""
    return Event(id=new_id() if id is None else id, type=type, tags=tags, **fields)


def to_stream(stream: str, *events: Event, **expectation: Any) -> StreamAppend:
    """The part of an append that concerns one stream."""
    return StreamAppend(stream=stream, events=events, **expectation)


def append_to(stream: str, *events: Event, **expectation: Any) -> AppendRequest:
    """An append to one stream, of one event if none is given."""
    return AppendRequest(appends=[to_stream(stream, *(events or [make_event()]), **expectation)])


def append_all(*appends: StreamAppend, **fields: Any) -> AppendRequest:
    """An append to several streams."""
    return AppendRequest(appends=appends, **fields)


def fail_if(query: Query, after: int = 0) -> AppendCondition:
    """A dynamic consistency boundary."""
    return AppendCondition(fail_if_match=query, after_position=after)


def matching(*items: QueryItem, **parts: Iterable[str]) -> Query:
    """A query of these items, or of one item with these parts."""
    return Query(items=items or [QueryItem(**parts)])


def timestamp(nanoseconds: int) -> Timestamp:
    """A time, from nanoseconds since 1970."""
    return Timestamp(seconds=nanoseconds // 10**9, nanos=nanoseconds % 10**9)


def nanoseconds(time: Timestamp) -> int:
    """Nanoseconds since 1970, exactly."""
    return time.seconds * 10**9 + time.nanos


def with_unknown_field(message: Any) -> Any:
    """The same message with a field, number 2,000, that no server knows."""
    message.MergeFromString(b"\x80\x7d\x01")
    return message


# --- refusals


@dataclass(frozen=True)
class Refused:
    """What a refused call tells its caller."""

    code: grpc.StatusCode
    message: str
    failure: Failure
    facts: dict[str, str]
    """`ErrorInfo.metadata`."""
    trailers: dict[str, str | bytes]

    @property
    def reason(self) -> str:
        """The reason, as `ErrorInfo` spells it."""
        return reason_of(self.failure)

    @property
    def violations(self) -> Sequence[Violation]:
        """What is wrong with the request."""
        return self.failure.invalid_request.violations

    @property
    def fields(self) -> list[str]:
        """Paths of what is wrong with the request."""
        return [violation.field for violation in self.violations]


def reason_of(failure: Failure) -> str:
    """The reason without its prefix."""
    return FailureReason.Name(failure.reason).removeprefix("FAILURE_REASON_")


def check_failure(failure: Failure) -> None:
    """What holds for every `Failure`, in trailers or in a result of `AppendMany`."""
    reason = reason_of(failure)
    assert failure.code == CODES[reason].value[0]
    assert 0 < len(failure.message.encode()) <= 1024
    assert failure.WhichOneof("detail") == DETAILS.get(reason)
    assert len(failure.invalid_request.violations) <= 16
    for violation in failure.invalid_request.violations:
        assert 0 < len(violation.description.encode()) <= 128
    if failure.WhichOneof("detail") == "invalid_request":
        limits_only = all(violation.limit for violation in failure.invalid_request.violations)
        assert (reason == "LIMIT_EXCEEDED") == limits_only


def unpack(error: grpc.RpcError) -> Refused:
    """Takes a refusal apart and checks what section 5 of the design promises of each."""
    trailers = dict(error.trailing_metadata())
    assert "grpc-status-details-bin" in trailers, (
        f"no Failure with {error.code()}: {error.details()}"
    )
    status = Status.FromString(trailers["grpc-status-details-bin"])
    assert [any_message.TypeName() for any_message in status.details] == [
        "google.rpc.ErrorInfo",
        "treering.v1.Failure",
    ]
    info, failure = ErrorInfo(), Failure()
    status.details[0].Unpack(info)
    status.details[1].Unpack(failure)
    check_failure(failure)
    assert info.domain == "treering"
    assert info.reason == reason_of(failure)
    assert status.code == failure.code == error.code().value[0]
    assert len(status.message.encode()) <= 1024
    assert len(error.details().encode()) <= 1024
    assert sum(any_message.ByteSize() for any_message in status.details) <= 4096
    percent_encoded = quote_from_bytes(error.details().encode(), safe=bytes(range(0x20, 0x7F)))
    on_the_wire = len(base64.b64encode(trailers["grpc-status-details-bin"])) + len(percent_encoded)
    assert on_the_wire <= 7 * 1024
    if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
        assert failure.HasField("retry_after")
        assert int(trailers["grpc-retry-pushback-ms"]) > 0
    for word in ("Traceback", "SELECT ", "INSERT ", "sqlite3", "psycopg", "sqlalchemy"):
        assert word not in error.details() + failure.message
    return Refused(error.code(), error.details(), failure, dict(info.metadata), trailers)


async def outcome(call: Awaitable[Any] | AsyncIterator[Any]) -> Any:
    """Waits for the end of a call, whichever kind it is; a subscription counts as begun, and
    is cancelled, once it has answered."""
    async with asyncio.timeout(WAIT_SECONDS):
        if isinstance(call, grpc.aio.UnaryUnaryCall):
            return await call
        responses = []
        async for response in call:
            responses.append(response)
            if isinstance(response, SubscribeResponse):
                call.cancel()
                break
        return responses


async def next_response(call: Any) -> Any:
    """The next response of a streaming call; `grpc.aio.EOF` after the last."""
    async with asyncio.timeout(WAIT_SECONDS):
        return await call.read()


async def rest_of(call: Any) -> list[Any]:
    """All further responses of a call that some were taken from by `next_response`."""
    responses = []
    while (response := await next_response(call)) is not grpc.aio.EOF:
        responses.append(response)
    return responses


async def refused(call: Awaitable[Any] | AsyncIterator[Any], reason: str) -> Refused:
    """Waits until a call is refused, which must be for this reason."""
    try:
        answer = await outcome(call)
    except grpc.RpcError as error:
        refusal = unpack(error)
    else:
        raise AssertionError(f"not refused with {reason}, but answered: {str(answer)[:500]}")
    assert refusal.reason == reason, refusal.message
    return refusal


# --- answers


async def head_of(event_store: Any) -> GetHeadResponse:
    """Where the log is."""
    return await event_store.GetHead(GetHeadRequest())


async def append(event_store: Any, *requests: AppendRequest) -> AppendResponse:
    """Makes appends one after the other; the answer to the last."""
    for request in requests:
        response = await event_store.Append(request)
    return response


@dataclass(frozen=True)
class Answer:
    """A whole answer to a read."""

    events: list[RecordedEvent]
    head_position: int
    stream_version: int
    log_id: str
    responses: list[ReadResponse]

    @property
    def positions(self) -> list[int]:
        """Positions of the events, in the order received."""
        return [event.position for event in self.events]

    @property
    def versions(self) -> list[int]:
        """Versions of the events, in the order received."""
        return [event.version for event in self.events]

    @property
    def ids(self) -> list[str]:
        """Ids of the events, in the order received."""
        return [event.id for event in self.events]


def whole(responses: Sequence[ReadResponse]) -> Answer:
    """Joins the responses of one read and checks that they tell of one state."""
    assert responses, "at least one response"
    states = {(r.head_position, r.stream_version, r.log_id) for r in responses}
    assert len(states) == 1, "the state is on every response, and one"
    assert len(responses) == 1 or all(response.events for response in responses)
    events = [event for response in responses for event in response.events]
    return Answer(events, *states.pop(), list(responses))


async def read(event_store: Any, timeout: float | None = None, **fields: Any) -> Answer:
    """Reads everything asked for; without a source, all of the log."""
    if "stream" not in fields and "query" not in fields:
        fields["query"] = ALL
    return whole(await outcome(event_store.Read(ReadRequest(**fields), timeout=timeout)))


async def append_many(event_store: Any, *requests: AppendRequest) -> list[AppendResult]:
    """Sends all on one call, one message each, and waits for all results."""

    async def messages() -> AsyncIterator[AppendManyRequest]:
        for request_id, request in enumerate(requests, start=1):
            yield AppendManyRequest(items=[AppendItem(request_id=request_id, append=request)])

    responses = await outcome(event_store.AppendMany(messages()))
    results = [result for response in responses for result in response.results]
    assert [result.request_id for result in results] == list(range(1, len(requests) + 1))
    for result in results:
        if result.HasField("failure"):
            check_failure(result.failure)
    return results


# --- subscriptions


@dataclass
class Subscription:
    """An open subscription. Checks what must hold of whatever comes."""

    call: Any
    received: list[RecordedEvent] = field(default_factory=list)
    """All events so far."""
    done: int = 0
    """Everything up to here was looked at."""
    has_started: bool = False

    async def next(self) -> tuple[str, Any]:
        """The next response: its kind and content."""
        response = await next_response(self.call)
        assert response is not grpc.aio.EOF, "a subscription never ends with OK"
        kind = response.WhichOneof("content")
        content = getattr(response, kind)
        self._check(kind, content)
        return kind, content

    def _check(self, kind: str, content: Any) -> None:
        assert (kind == "started") == (not self.has_started), "started: first and once"
        if kind == "started":
            self.has_started = True
            self.done = content.after_position
        elif kind == "events":
            assert content.events
            for event in content.events:
                assert event.position > self.done, "in order, once, none that was passed over"
                self.done = event.position
            self.received += content.events
        else:
            assert content.position >= self.done, "a checkpoint never goes back"
            self.done = content.position

    async def until(self, kind: str) -> Any:
        """Passes over everything (events are kept in `received`) up to a response of this
        kind, and gives that."""
        while True:
            came, content = await self.next()
            if came == kind:
                return content

    async def until_received(self, count: int) -> list[RecordedEvent]:
        """Waits until that many events have come in all."""
        while len(self.received) < count:
            await self.next()
        return self.received

    async def end(self) -> Refused:
        """Waits until the server ends the subscription, which it never does with OK."""
        try:
            while True:
                await self.next()
        except grpc.RpcError as error:
            return unpack(error)


@asynccontextmanager
async def subscribed(event_store: Any, **fields: Any) -> AsyncIterator[Subscription]:
    """Holds a subscription open; without a source, to all of the log."""
    if "stream" not in fields and "query" not in fields:
        fields["query"] = ALL
    call = event_store.Subscribe(SubscribeRequest(**fields))
    try:
        yield Subscription(call)
    finally:
        call.cancel()
