"""The command line as its users have it: a program of its own, its output a pipe or a terminal."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from databases import sqlite_url
from servers import ServerProcess, environment

COMMAND = (sys.executable, "-m", "treering")
SECONDS = 60.0


@dataclass(frozen=True)
class Ended:
    """What came of a command."""

    code: int
    out: str
    err: str

    def ok(self) -> str:
        """What it printed, if it ended well."""
        assert self.code == 0, (self.code, self.out[-2000:], self.err[-2000:])
        return self.out

    def refused(self, code: int = 1) -> str:
        """What it complained of, if that is how it ended: never with a traceback."""
        assert self.code == code, (self.code, self.out[-2000:], self.err[-2000:])
        assert "Traceback" not in self.err
        return self.err


class CommandLine:
    """Runs commands against one server."""

    def __init__(self, address: str) -> None:
        self.address = address

    def __call__(
        self, *arguments: str, input: bytes | None = None, env: dict[str, str] | None = None
    ) -> Ended:
        """Runs a command to its end, with pipes for its output."""
        done = subprocess.run(
            [*COMMAND, *arguments],
            input=input,
            stdin=None if input is not None else subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=SECONDS,
            env=self._environment(env),
        )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(
        self, *arguments: str, stdin: int = subprocess.DEVNULL, **options: Any
    ) -> "subprocess.Popen[str]":
        """Starts a command, for a test that does not wait for its end."""
        return subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment(None),
            **options,
        )

    def shell(self, script: str) -> Ended:
        """Runs a line of bash, in which $T is the command."""
        done = subprocess.run(
            ["/bin/bash", "-c", script],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=SECONDS,
            env=self._environment({"T": " ".join(COMMAND)}),
        )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    def in_terminal(
        self,
        *arguments: str,
        columns: int = 140,
        env: dict[str, str] | None = None,
        typed: str = "",
    ) -> Ended:
        """Runs a command in a terminal, which shows both of its outputs, and what is typed."""
        controller, terminal = pty.openpty()
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env=self._environment(
                {"COLUMNS": str(columns), "TERM": "xterm-256color"} | (env or {})
            ),
        )
        os.close(terminal)
        os.write(controller, typed.encode())
        shown = b""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            if not select.select([controller], [], [], 1.0)[0]:
                continue
            try:
                part = os.read(controller, 65536)
            except OSError:  # how Linux says that nobody has the terminal open any more
                break
            if not part:
                break
            shown += part
        os.close(controller)
        return Ended(process.wait(SECONDS), shown.decode().replace("\r\n", "\n"), "")

    def _environment(self, more: dict[str, str] | None) -> dict[str, str]:
        ours = {
            name: value
            for name, value in environment().items()
            if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "PY_COLORS", "GITHUB_ACTIONS")
        }
        return ours | {"TREERING_SERVER": self.address} | (more or {})


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server on SQLite for every test that only needs streams of its own."""
    with ServerProcess(sqlite_url(tmp_path_factory.mktemp("shared"))) as server:
        yield server


@pytest.fixture(scope="session")
def treering(shared_server: ServerProcess) -> CommandLine:
    """The command line, calling the shared server."""
    return CommandLine(shared_server.address)


@pytest.fixture
def calling() -> Callable[[str], CommandLine]:
    """Gives a command line that calls a server by its address."""
    return CommandLine


@pytest.fixture
def serve(server_process: Callable[..., ServerProcess]) -> Callable[..., CommandLine]:
    """Starts a server of the test's own, and gives a command line that calls it."""

    def start(database_url: str, **settings: Any) -> CommandLine:
        return CommandLine(server_process(database_url, **settings).address)

    return start


@pytest.fixture
def other_database_url(
    database_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[str]:
    """A second fresh database of the same kind."""
    if database_url.startswith("sqlite"):
        directory = tmp_path / "other"
        directory.mkdir()
        yield sqlite_url(directory)
        return
    postgres = request.getfixturevalue("postgres")
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture
def interrupt() -> Callable[["subprocess.Popen[str]", int], Ended]:
    """Sends a signal to a command, and gives what came of it."""

    def send(process: "subprocess.Popen[str]", number: int = signal.SIGINT) -> Ended:
        process.send_signal(number)
        out, err = process.communicate(timeout=SECONDS)
        return Ended(process.returncode, out, err)

    return send
