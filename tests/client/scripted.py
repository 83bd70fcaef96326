"""A server that does what a test has written down, for what a real one does not do on demand:
failing in a certain way at a certain point, falling silent, speaking a later version.

It runs in a thread with an event loop of its own, so that blocking clients can be tested too.
"""

import asyncio
import threading
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from treering.v1 import event_store_service_pb2 as pb
from treering.v1 import failure_pb2, stream_service_pb2
from treering.v1.event_pb2 import RecordedEvent

WAIT_SECONDS = 10.0
LOG_ID = "0193b1c8-0000-7000-8000-000000000001"
OTHER_LOG_ID = "0193b1c8-0000-7000-8000-000000000002"


@dataclass(frozen=True)
class Fail:
    """The call ends with this status."""

    code: grpc.StatusCode
    failure: failure_pb2.Failure | None = None
    trailers: tuple[tuple[str, str | bytes], ...] = ()

    def all_trailers(self) -> tuple[tuple[str, str | bytes], ...]:
        """With the failure packed as the server does."""
        if self.failure is None:
            return self.trailers
        status = Status(code=self.code.value[0], message=self.failure.message)
        status.details.add().Pack(ErrorInfo(domain="treering"))
        status.details.add().Pack(self.failure)
        return (*self.trailers, ("grpc-status-details-bin", status.SerializeToString()))


@dataclass(frozen=True)
class Hang:
    """Nothing more comes."""


@dataclass(frozen=True)
class Answer:
    """The append, or all of the message, is recorded."""


@dataclass(frozen=True)
class Refuse:
    """The append is refused: as an item's result, or as the status of the call."""

    failure: failure_pb2.Failure


Step = Message | Fail | Hang | Answer | Refuse


def failure(reason: str, code: grpc.StatusCode, **facts: Any) -> failure_pb2.Failure:
    """A failure as the server describes it."""
    return failure_pb2.Failure(
        code=code.value[0],
        reason=failure_pb2.FailureReason.Value(f"FAILURE_REASON_{reason}"),
        message=f"because of {reason}",
        **facts,
    )


def fail(reason: str, code: grpc.StatusCode, **facts: Any) -> Fail:
    """The call ends with a failure as the server describes it."""
    return Fail(code, failure(reason, code, **facts))


def recorded(position: int, stream: str = "s") -> RecordedEvent:
    """An event at a position; its id tells which."""
    return RecordedEvent(
        id=event_id(position),
        type="Happened",
        position=position,
        stream=stream,
        version=position,
        content_type="application/json",
    )


def event_id(position: int) -> str:
    """Id of the event at a position."""
    return f"0193b1c8-0000-7000-8000-{position:012d}"


def page(*positions: int, head: int = 9, log_id: str = LOG_ID) -> pb.ReadResponse:
    """A response of a read."""
    events = [recorded(position) for position in positions]
    return pb.ReadResponse(events=events, head_position=head, stream_version=head, log_id=log_id)


def started(after: int = 0, head: int = 9, log_id: str = LOG_ID) -> pb.SubscribeResponse:
    """The first response of a subscription."""
    message = pb.SubscriptionStarted(log_id=log_id, after_position=after, head_position=head)
    return pb.SubscribeResponse(started=message)


def events(*positions: int) -> pb.SubscribeResponse:
    """Events of a subscription."""
    batch = pb.EventBatch(events=[recorded(position) for position in positions])
    return pb.SubscribeResponse(events=batch)


def caught_up(position: int) -> pb.SubscribeResponse:
    """All history was sent."""
    message = pb.CaughtUp(position=position, event_id=event_id(position))
    return pb.SubscribeResponse(caught_up=message)


def fell_behind(position: int, log_id: str = "") -> pb.SubscribeResponse:
    """History again, perhaps of the log's next incarnation."""
    return pb.SubscribeResponse(fell_behind=pb.FellBehind(position=position, log_id=log_id))


def heartbeat(position: int) -> pb.SubscribeResponse:
    """A sign of life."""
    message = pb.Heartbeat(position=position, event_id=event_id(position))
    return pb.SubscribeResponse(heartbeat=message)


class ScriptedServer:
    """Each call of a method takes the next list of steps written for it.

    Appends are different: every append that comes, by `Append` or in a message of
    `AppendMany`, takes one step of `appends`, so that the same story is told to a client of
    either kind. Once a script is at its end, appends are answered, and anything else hangs.
    """

    def __init__(self) -> None:
        self.requests: dict[str, list[Any]] = defaultdict(list)
        """What came, by method; for AppendMany every message of every call."""
        self.cancelled: list[str] = []
        """Methods of the calls that the client has cancelled."""
        self.open_calls = 0
        self.appends: deque[Step] = deque()
        self._calls: dict[str, deque[Sequence[Step]]] = defaultdict(deque)
        self._position = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: grpc.aio.Server | None = None
        self.address = ""

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(WAIT_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        stopped = self._server.stop(0)
        asyncio.run_coroutine_threadsafe(stopped, self._loop).result(WAIT_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_SECONDS)
        self._loop.close()

    def script(self, method: str, *calls: Sequence[Step]) -> None:
        """Writes down what the next calls of a method do."""
        self._calls[method].extend(calls)

    def items(self) -> list[pb.AppendItem]:
        """Every append that came over AppendMany, in order."""
        return [item for message in self.requests["AppendMany"] for item in message.items]

    def appended_ids(self) -> list[str]:
        """The ids of the first events of all appends that came, by either method."""
        requests = self.requests["Append"] + [item.append for item in self.items()]
        return [request.appends[0].events[0].id for request in requests]

    async def _start(self) -> None:
        self._server = grpc.aio.server()
        event_store = {
            "Append": grpc.unary_unary_rpc_method_handler(self._append, *_codec(pb.AppendRequest)),
            "AppendMany": grpc.stream_stream_rpc_method_handler(
                self._append_many, *_codec(pb.AppendManyRequest)
            ),
            "Read": grpc.unary_stream_rpc_method_handler(
                self._stream("Read"), *_codec(pb.ReadRequest)
            ),
            "Subscribe": grpc.unary_stream_rpc_method_handler(
                self._stream("Subscribe"), *_codec(pb.SubscribeRequest)
            ),
            "GetHead": grpc.unary_unary_rpc_method_handler(
                self._unary("GetHead"), *_codec(pb.GetHeadRequest)
            ),
        }
        streams = {
            method: grpc.unary_unary_rpc_method_handler(
                self._unary(method), *_codec(getattr(stream_service_pb2, f"{method}Request"))
            )
            for method in ("GetStream", "ListStreams", "UpdateStream", "DeleteStream")
        }
        self._server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler("treering.v1.EventStoreService", event_store),
                grpc.method_handlers_generic_handler("treering.v1.StreamService", streams),
            ]
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()

    def _stream(self, method: str) -> Any:
        async def handle(request: Message, context: Any) -> AsyncIterator[Message]:
            self.requests[method].append(request)
            self.open_calls += 1
            try:
                for step in self._next_call(method):
                    if isinstance(step, Message):
                        yield step
                    else:
                        await _end(step, context)
            except (asyncio.CancelledError, GeneratorExit):
                self.cancelled.append(method)
                raise
            finally:
                self.open_calls -= 1

        return handle

    def _unary(self, method: str) -> Any:
        async def handle(request: Message, context: Any) -> Message | None:
            self.requests[method].append(request)
            (step,) = self._next_call(method)
            if isinstance(step, Message):
                return step
            await _end(step, context)
            return None

        return handle

    async def _append(self, request: pb.AppendRequest, context: Any) -> pb.AppendResponse | None:
        self.requests["Append"].append(request)
        step = self.appends.popleft() if self.appends else Answer()
        if isinstance(step, Answer):
            return self._record(request)
        await _end(step, context)
        return None

    async def _append_many(self, _: Any, context: Any) -> None:
        self.open_calls += 1
        try:
            while (message := await context.read()) is not grpc.aio.EOF:
                self.requests["AppendMany"].append(message)
                response = pb.AppendManyResponse()
                for item in message.items:
                    step = self.appends.popleft() if self.appends else Answer()
                    result = pb.AppendResult(request_id=item.request_id)
                    if isinstance(step, Answer):
                        result.appended.CopyFrom(self._record(item.append))
                    elif isinstance(step, Refuse):
                        result.failure.CopyFrom(step.failure)
                    else:
                        if response.results:
                            await context.write(response)
                        await _end(step, context)
                    response.results.append(result)
                await context.write(response)
        except asyncio.CancelledError:
            self.cancelled.append("AppendMany")
            raise
        finally:
            self.open_calls -= 1

    def _record(self, request: pb.AppendRequest) -> pb.AppendResponse:
        self._position += 1
        response = pb.AppendResponse(log_id=LOG_ID, first_position=self._position)
        response.last_position = self._position
        response.recorded_at.seconds = 1
        return response

    def _next_call(self, method: str) -> Sequence[Step]:
        calls = self._calls[method]
        return calls.popleft() if calls else [Hang()]


async def _end(step: Step, context: Any) -> None:
    if isinstance(step, Refuse):
        code = next(each for each in grpc.StatusCode if each.value[0] == step.failure.code)
        step = Fail(code, step.failure)
    if isinstance(step, Fail):
        message = step.failure.message if step.failure else "without a failure of ours"
        await context.abort(step.code, message, step.all_trailers())
    assert isinstance(step, Hang)
    await asyncio.Event().wait()


def _codec(request: type[Message]) -> tuple[Any, Any]:
    return request.FromString, lambda message: message.SerializeToString()
