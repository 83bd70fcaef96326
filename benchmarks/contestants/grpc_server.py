"""A server that does nothing with what it is sent but hand it to subscribers: `grpc_server.py
ADDRESS`."""

import asyncio
import sys
from collections.abc import AsyncIterator

METHODS = "/benchmark.Null/"
EVENT_BYTES = 256
EVENTS_PER_STREAM = 10
EVENTS_PER_MESSAGE = 1000
ANSWER = bytes(32)


class Null:
    """Its methods."""

    def __init__(self) -> None:
        self._subscribers: set[asyncio.Queue[bytes]] = set()
        self._log = 0
        """How many bytes a read gives."""

    async def append(self, request: bytes, _: object) -> bytes:
        """Answers."""
        for subscriber in self._subscribers:
            subscriber.put_nowait(request)
        return ANSWER

    async def append_many(self, requests: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
        """Answers each."""
        async for _request in requests:
            yield ANSWER

    async def fill(self, request: bytes, _: object) -> bytes:
        """Forgets it, but for its size."""
        self._log += len(request)
        return ANSWER

    async def load(self, _request: bytes, _: object) -> bytes:
        """Gives what could be a stream."""
        return bytes(EVENTS_PER_STREAM * EVENT_BYTES)

    async def read(self, _request: bytes, _: object) -> AsyncIterator[bytes]:
        """Gives what could be a log."""
        message = bytes(EVENTS_PER_MESSAGE * EVENT_BYTES)
        for begin in range(0, self._log, len(message)):
            yield message[: self._log - begin]

    async def subscribe(self, _request: bytes, _: object) -> AsyncIterator[bytes]:
        """Gives what is appended."""
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._subscribers.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._subscribers.discard(queue)


async def main(address: str) -> None:
    """Serves until it is ended."""
    import grpc

    null = Null()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                METHODS.strip("/"),
                {
                    "Append": grpc.unary_unary_rpc_method_handler(null.append),
                    "AppendMany": grpc.stream_stream_rpc_method_handler(null.append_many),
                    "Fill": grpc.unary_unary_rpc_method_handler(null.fill),
                    "Load": grpc.unary_unary_rpc_method_handler(null.load),
                    "Read": grpc.unary_stream_rpc_method_handler(null.read),
                    "Subscribe": grpc.unary_stream_rpc_method_handler(null.subscribe),
                },
            )
        ]
    )
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
