"""The languages with an example in client/, and the server that their tests run against.

Each has a `run.sh` with the same commands: `available`, `build`, `test`, `conformance`. A new
language is a name in `SPEAKING`.
"""

import contextlib
import functools
import os
import random
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from servers import ServerProcess, environment

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
REQUIRED = os.environ.get("TREERING_REQUIRE_LANGUAGES", "")
"""Names of languages that must not be missing, comma-separated; 1: all. Others are skipped."""


@dataclass(frozen=True)
class Language:
    """A language with an example."""

    name: str
    """In the words of the folder: client/<name>."""

    @property
    def folder(self) -> Path:
        return ROOT / "client" / self.name

    def run(self, *arguments: str, variables: Mapping[str, str] | None = None) -> None:
        """Runs its script, which must succeed."""
        self._run([str(self.folder / "run.sh"), *arguments], variables or {})

    def prepare(self) -> None:
        """Builds it, once in a test run. Skips the test if that is not possible here."""
        missing = _missing(self)
        if missing and (REQUIRED == "1" or self.name in REQUIRED.split(",")):
            pytest.fail(missing)
        if missing:
            pytest.skip(missing)
        error = _built(self)
        if error is not None:
            pytest.fail(error)

    def _run(self, command: Sequence[str], variables: Mapping[str, str]) -> None:
        # What it prints is for the person at `make client-<name>`, and for a failed test.
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            env=environment() | variables,
            check=False,
        )
        print(done.stdout, end="")  # noqa: T201
        shown = shlex.join([Path(command[0]).name, *command[1:]])
        assert done.returncode == 0, f"{self.name}: {shown} failed with {done.returncode}"


class Python(Language):
    """Ours, which has its own tests and takes part in the conformance cases only."""

    def run(self, *arguments: str, variables: Mapping[str, str] | None = None) -> None:
        assert arguments[0] == "conformance"
        self._run([sys.executable, str(HERE / "conformance.py"), *arguments[1:]], variables or {})

    def prepare(self) -> None:
        pass


SPEAKING = [Language(name) for name in ("go", "typescript", "java", "cpp", "rust")]
"""Those with an example of their own."""
EXAMPLES = [*SPEAKING, Language("browser")]
"""All that is tested as an example. What a browser writes and reads is TypeScript's."""
LANGUAGES = [Python("python"), *SPEAKING]
"""Those that take part in the conformance cases."""


@functools.cache
def _missing(language: Language) -> str:
    """What keeps it from being used here, empty if nothing does."""
    done = subprocess.run(
        [language.folder / "run.sh", "available"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    return "" if done.returncode == 0 else f"{language.name}: {done.stderr.strip()}"


@functools.cache
def _built(language: Language) -> str | None:
    """Builds it; why that failed, if it did."""
    try:
        language.run("build")
    except AssertionError as error:
        return str(error)
    return None


def _steady_port() -> int:
    """A free port that the system gives to no connection by itself. Of others, a client that
    tries again and again while the server is away may get the very one, and meet itself."""
    for port in random.sample(range(15_000, 30_000), 100):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


class RestartableServer:
    """A server process that the program under test can have restarted: it stays at its address
    and keeps its log."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._address = f"127.0.0.1:{_steady_port()}"
        self._server = ServerProcess(database_url, listen=self._address)
        self._requests = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve_requests, daemon=True)
        self.restarts = 0
        """How often it was restarted."""

    @property
    def variables(self) -> dict[str, str]:
        """What a program under test is told."""
        port = self._requests.getsockname()[1]
        restart = shlex.join([sys.executable, str(HERE / "restart.py"), str(port)])
        return {"TREERING_SERVER": self._address, "TREERING_RESTART": restart}

    def __enter__(self) -> Self:
        self._server.wait_until_ready()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Wakes the thread, which a close alone does not.
        self._requests.shutdown(socket.SHUT_RDWR)
        self._requests.close()
        self._thread.join()
        self._server.kill()

    def _serve_requests(self) -> None:
        while True:
            try:
                connection, _ = self._requests.accept()
            except OSError:
                return
            with connection:
                self._server.terminate()
                self._server = ServerProcess(self._database_url, listen=self._address)
                self._server.wait_until_ready()
                self.restarts += 1
                connection.sendall(b"done")
