"""Floors: what Python's gRPC does with an empty server (`grpc_server.py`) and bytes."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from concurrency import Concurrency, Tasks
from contestants.contestant import Contestant, Kind, NewEvent, Place, Received
from contestants.grpc_server import EVENT_BYTES, METHODS

SERVER = Path(__file__).parent / "grpc_server.py"


class GrpcUnary(Contestant):
    """A call for each append."""

    name = "grpc-unary"
    kind: ClassVar[Kind] = "floor"
    tools = "own"
    concurrency: ClassVar[type[Concurrency]] = Tasks
    durable = "keeps nothing"
    keeps = False

    @classmethod
    def server(cls, place: Place, programs: Path) -> Sequence[str | Path]:
        """Command of the server."""
        return (programs / "python", SERVER, place.address)

    @classmethod
    def offers(cls, method: str) -> bool:
        """Not an import, of which nothing would be kept."""
        return method != "append_mixed" and super().offers(method)

    async def open(self) -> None:
        """Connects."""
        from grpc.aio import insecure_channel

        self._channel: Any = insecure_channel(self.place.address)
        self._append = self._channel.unary_unary(METHODS + "Append")
        self._load = self._channel.unary_unary(METHODS + "Load")

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close()

    async def append(self, events: Sequence[NewEvent]) -> int | None:
        """Sends and is answered."""
        await self._append(b"".join(event.data for event in events))
        return None

    async def append_mixed(self, events: Sequence[NewEvent]) -> None:
        """Lets the server's reads be so much longer."""
        await self._channel.unary_unary(METHODS + "Fill")(b"".join(event.data for event in events))

    async def read_log(self) -> int:
        """Counts by size."""
        size = 0
        async for message in self._channel.unary_stream(METHODS + "Read")(b""):
            size += len(message)
        return size // EVENT_BYTES

    async def read_wire(self) -> int:
        """The same."""
        return await self.read_log() * EVENT_BYTES

    async def load(self, stream: str) -> int:
        """Counts by size."""
        return len(await self._load(stream.encode())) // EVENT_BYTES

    async def follow(self, received: Received) -> None:
        """Gets each message that is appended, and splits it."""
        async for message in self._channel.unary_stream(METHODS + "Subscribe")(b""):
            for begin in range(0, len(message), EVENT_BYTES):
                if received(message[begin : begin + EVENT_BYTES]):
                    return


class GrpcHeld(GrpcUnary):
    """One call that is held, with a message and an answer for each append."""

    name = "grpc-held"

    async def open(self) -> None:
        """Connects and calls."""
        await super().open()
        self._sending: asyncio.Queue[bytes] = asyncio.Queue()
        self._waiting: deque[asyncio.Future[None]] = deque()
        responses = self._channel.stream_stream(METHODS + "AppendMany")(self._requests())
        self._receiving = asyncio.create_task(self._receive(responses))

    async def close(self) -> None:
        """Ends the call."""
        self._receiving.cancel()
        await super().close()

    @classmethod
    def offers(cls, method: str) -> bool:
        """Appends are all that differs."""
        return method == "append"

    async def append(self, events: Sequence[NewEvent]) -> int | None:
        """Sends, and is answered in turn."""
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        self._sending.put_nowait(b"".join(event.data for event in events))
        await answer
        return None

    async def _requests(self) -> AsyncIterator[bytes]:
        while True:
            yield await self._sending.get()

    async def _receive(self, responses: AsyncIterator[bytes]) -> None:
        async for _ in responses:
            self._waiting.popleft().set_result(None)
