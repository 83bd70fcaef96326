"""A connection that can be cut, frozen, slowed down and made one-way, between a client and a real
server."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

WAIT_SECONDS = 10.0
READ_BYTES = 65_536


@dataclass(frozen=True)
class Pace:
    """How bytes go in each direction."""

    seconds: float = 0.0
    """What each piece waits for before it goes."""
    piece: int = READ_BYTES
    """At most so many bytes go together."""


FAST = Pace()


class Proxy:
    """Passes bytes on to a server, or does not. Any thread may call any of it."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()
        self._refusing = False
        self._pace = FAST
        self._thawed = asyncio.Event()
        self._frozen: list[asyncio.Event] = []
        self._answers_flow = asyncio.Event()
        self._server: asyncio.Server | None = None
        self.connections = 0
        """How many were made so far."""

    def __enter__(self) -> Self:
        self._thawed.set()
        self._answers_flow.set()
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_SECONDS)
        self._loop.close()

    @property
    def address(self) -> str:
        """Where it listens."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    def cut(self) -> None:
        """Cuts every connection; new ones can be made."""
        self._run(self._cut())

    def refuse(self) -> None:
        """Cuts every connection and refuses new ones."""
        self._refusing = True
        self.cut()

    def accept(self) -> None:
        """Takes connections again."""
        self._refusing = False

    def freeze(self) -> None:
        """Passes nothing on any more over the connections there are, as if something on the
        way had forgotten them. New ones are not concerned."""
        self._run(self._freeze())

    def go(self, pace: Pace) -> None:
        """Passes everything on at this pace from now on."""
        self._pace = pace

    def hold_answers(self) -> None:
        """Passes requests on, but no answers."""
        self._loop.call_soon_threadsafe(self._answers_flow.clear)

    def flow(self) -> None:
        """Passes everything on again."""
        self._loop.call_soon_threadsafe(self._answers_flow.set)

    def lose_answers_until(self, condition: Callable[[], bool]) -> threading.Thread:
        """Holds answers until the condition holds, then cuts: what was answered is lost. From
        then on everything flows. Answers the thread that sees to it."""
        self.hold_answers()

        def watch() -> None:
            pause = threading.Event()
            while not condition():
                pause.wait(0.01)
            self.cut()
            self.flow()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        return thread

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)

    async def _finish(self) -> None:
        assert self._server is not None
        self._server.close()
        self._refusing = True
        await self._cut()
        # Connections that were accepted a moment ago become tasks only now.
        await asyncio.sleep(0)
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _cut(self) -> None:
        for frozen in self._frozen:
            # So that whoever waits there finds out, and ends.
            frozen.set()
        self._frozen.clear()
        for writer in self._writers:
            writer.transport.abort()

    async def _freeze(self) -> None:
        self._thawed.clear()
        self._frozen.append(self._thawed)
        self._thawed = asyncio.Event()
        self._thawed.set()

    async def _connected(
        self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        if self._refusing:
            to_client.transport.abort()
            return
        self.connections += 1
        try:
            from_server, to_server = await asyncio.open_connection(self._host, self._port)
        except OSError:
            to_client.transport.abort()
            return
        self._writers |= {to_client, to_server}
        try:
            thawed = self._thawed
            await asyncio.gather(
                self._pump(from_client, to_server, thawed),
                self._pump(from_server, to_client, thawed, self._answers_flow),
            )
        except asyncio.CancelledError:
            pass  # The proxy is closed.
        finally:
            self._writers -= {to_client, to_server}

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *flows: asyncio.Event
    ) -> None:
        try:
            while data := await source.read(READ_BYTES):
                for flow in flows:
                    await flow.wait()
                await self._pass_on(data, target)
        except ConnectionError:
            pass
        finally:
            target.transport.abort()

    async def _pass_on(self, data: bytes, target: asyncio.StreamWriter) -> None:
        """Each piece at the pace that holds when its turn has come."""
        sent = 0
        while sent < len(data):
            pace = self._pace
            if pace != FAST:
                # Also for no time at all: then what was written is sent before the next.
                await asyncio.sleep(pace.seconds)
            target.write(data[sent : sent + pace.piece])
            sent += pace.piece
            await target.drain()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_SECONDS)
