"""Runs one cell in a process of its own, and looks at the servers while it measures."""

import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

from host import Host
from plan import Cell
from processes import Cpu
from servers import environment
from tools import client

PATIENCE_SECONDS = 120.0
"""For a cell, whose measuring takes seconds."""
IDLE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Measured:
    """What came out of a cell."""

    operations: int
    seconds: float
    client_cpu: float
    server_cpu: float
    """Seconds; 0 where there is no server."""
    database_cpu: float
    quantiles: dict[str, float]
    """Milliseconds."""
    extra: dict[str, float]


Answer = Callable[[], None]
"""Lets the client go on."""


class CellFailed(Exception):
    """A contestant could not do it, or did it wrong."""


def measure(host: Host, cell: Cell) -> Measured:
    """Measures a cell while the contestant serves.

    Raises:
        CellFailed: It was not done, or not right.
    """
    used: list[Cpu] = []

    def look(answer: Answer) -> None:
        used.append(host.processes.cpu())
        answer()

    result = _run(host, cell, begin=look, end=look)
    before, after = used
    server, database = after.server - before.server, after.database - before.database
    return Measured(server_cpu=server, database_cpu=database, **result)


def measure_start(host: Host, cell: Cell) -> Measured:
    """Measures a contestant that does not run yet, from when it is started, and its memory when
    it has nothing to do.

    Raises:
        CellFailed: It was not done, or not right.
    """
    used: list[Cpu] = []
    memory: list[float] = []

    def begin(answer: Answer) -> None:
        answer()
        host.start_all()

    def end(answer: Answer) -> None:
        used.append(host.processes.cpu())
        time.sleep(IDLE_SECONDS)
        memory.append(host.processes.memory_mib())
        answer()

    result = _run(host, cell, begin=begin, end=end)
    result["extra"] = {"ms": result["seconds"] * 1000, "idle MiB": memory[0]}
    # Of a database that was there already it is not known how much the start took.
    return Measured(server_cpu=used[0].server, database_cpu=0, **result)


def measure_size(host: Host, events: int) -> Measured:
    """What so many events take on the disk, when the contestant has stopped."""
    host.stop()
    each = host.stored_bytes() / events
    return Measured(events, 1, 0, 0, 0, {}, {"bytes/event": each})


def _run(
    host: Host, cell: Cell, *, begin: Callable[[Answer], None], end: Callable[[Answer], None]
) -> dict[str, Any]:
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(
            client(host.contestant),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment(),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        impatient = threading.Event()

        def give_up() -> None:
            impatient.set()
            process.kill()

        patience = threading.Timer(PATIENCE_SECONDS, give_up)
        patience.start()
        try:
            _send(process.stdin, _order(host, cell))
            result = None
            for line in process.stdout:
                match line.strip():
                    case "begin":
                        begin(lambda: _send(process.stdin, "go"))
                    case "end":
                        end(lambda: _send(process.stdin, "go"))
                    case text:
                        result = json.loads(text)
            code = process.wait()
        finally:
            patience.cancel()
            process.kill()
            process.communicate()
        if impatient.is_set():
            raise CellFailed(f"it was not done in {PATIENCE_SECONDS:.0f} s")
        errors.seek(0)
        if code != 0 or result is None:
            raise CellFailed(f"its client ended with {code}: {errors.read()[-2000:]}")
        found: dict[str, Any] = result
        return found


def _order(host: Host, cell: Cell) -> str:
    place = host.place
    where = {"directory": str(place.directory), "port": place.port, "database": place.database}
    order = {
        "contestant": host.contestant.name,
        "place": where,
        "program": cell.program,
        "arguments": cell.arguments,
    }
    return json.dumps(order)


def _send(stream: IO[str] | None, line: str) -> None:
    assert stream is not None
    stream.write(line + "\n")
    stream.flush()
