"""The server under test: inside the test's event loop, or as a process of its own."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import IO, Any, Self

from treering_server.config import Settings
from treering_server.server import Server

START_SECONDS = 30.0
STOP_SECONDS = 30.0


class InProcessServer:
    """A server that runs in the event loop of the test: quick, and open to a debugger.

    Use as `async with InProcessServer(database_url) as server`. Settings go by their names.
    """

    def __init__(self, database_url: str, *, listen: str = "127.0.0.1:0", **settings: Any) -> None:
        self.database_url = database_url
        self.settings = Settings(database_url=database_url, listen=listen, **settings)
        self.server = Server(self.settings)

    async def __aenter__(self) -> Self:
        await self.server.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.server.__aexit__(kind, error, traceback)

    @property
    def address(self) -> str:
        """Where it listens, for a channel."""
        return self.server.address


class ServerProcess:
    """`treering serve` as an operator starts it, which can be killed and frozen.

    Every method blocks; a test whose event loop has to go on meanwhile calls it in a thread.
    Settings are given by their names and passed as `TREERING_*` variables.
    """

    def __init__(
        self,
        database_url: str,
        *arguments: str,
        listen: str = "127.0.0.1:0",
        variables: Mapping[str, str] | None = None,
        **settings: object,
    ) -> None:
        """`variables` are of the environment, and none of its settings."""
        self.database_url = database_url
        self.output: list[str] = []
        """Every line that it has written, to either stream."""
        self.logs: list[dict[str, Any]] = []
        """Those lines of it that are JSON."""
        self._changed = threading.Condition()
        self._is_over = False
        given = {f"TREERING_{name.upper()}": str(value) for name, value in settings.items()}
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "treering", "serve"),
                *("--database-url", database_url, "--listen", listen, *arguments),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            # Ctrl-C is for the test run, which then ends the server in its own time.
            start_new_session=True,
            env=environment() | dict(variables or {}) | given,
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(
            target=self._follow, args=(self._process.stdout,), daemon=True
        )
        self._reader.start()

    def __enter__(self) -> Self:
        self.wait_until_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def address(self) -> str:
        """Where it listens, for a channel."""
        return str(self.wait_for_log("listening")["address"])

    @property
    def is_running(self) -> bool:
        """Whether it lives."""
        return self._process.poll() is None

    def wait_until_ready(self) -> None:
        """Waits until it listens."""
        self.wait_for_log("listening")

    def wait_for_log(self, event: str, seconds: float = START_SECONDS) -> dict[str, Any]:
        """Waits for a log line of this event and gives the first."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                for line in self.logs:
                    if line.get("event") == event:
                        return line
                remaining = deadline - time.monotonic()
                if self._is_over or remaining <= 0:
                    break
                self._changed.wait(remaining)
        why = f"it ended with {self._process.wait(STOP_SECONDS)}" if self._is_over else "in time"
        raise AssertionError(f"the server did not log {event!r}: {why}\n{self.text}")

    @property
    def text(self) -> str:
        """All that it has written."""
        return "\n".join(self.output)

    def terminate(self, seconds: float = STOP_SECONDS) -> int:
        """Asks it to stop, waits until it has, and gives its exit code."""
        self._process.terminate()
        return self.wait(seconds)

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Waits until it has ended and gives its exit code, negative for a signal."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"still running after {seconds} s\n{self.text}") from error
        self._reader.join(STOP_SECONDS)
        return code

    def kill(self) -> None:
        """Kills it at once, whatever it is doing; also when paused, or over already."""
        self._process.kill()
        self.wait()

    def pause(self) -> None:
        """Freezes it."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on after `pause`."""
        self._process.send_signal(signal.SIGCONT)

    def _follow(self, stream: IO[str]) -> None:
        """Runs in a thread of its own, so that the server never waits for us to read."""
        with stream:
            for text in stream:
                line = text.rstrip("\n")
                with self._changed:
                    self.output.append(line)
                    parsed = parse_log(line)
                    if parsed is not None:
                        self.logs.append(parsed)
                    self._changed.notify_all()
        with self._changed:
            self._is_over = True
            self._changed.notify_all()


def environment() -> dict[str, str]:
    """Our environment without settings that happen to be there."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TREERING_")}


def parse_log(line: str) -> dict[str, Any] | None:
    """A line of the structured log; None for any other line."""
    try:
        parsed = json.loads(line)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None
