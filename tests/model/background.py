"""A server beside a test that does not run in an event loop."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Self

from servers import InProcessServer

SECONDS = 30.0


class BackgroundServer:
    """A server in a thread with an event loop of its own, which can be restarted."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: InProcessServer | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()

    @property
    def address(self) -> str:
        """Where it listens, for a channel."""
        assert self._server is not None, "it is not running"
        return self._server.address

    def start(self) -> None:
        """Starts it on what the database holds."""
        server = InProcessServer(self._database_url)
        self._run(server.__aenter__())
        self._server = server

    def stop(self) -> None:
        """Stops it as an operator would."""
        if self._server is not None:
            self._run(self._server.__aexit__(None, None, None))
            self._server = None

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SECONDS)
