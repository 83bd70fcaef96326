"""What the processes that take part use up: processor time and memory. Linux only."""

import resource
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from figures import Figure

MICROSECONDS = 1e6


@dataclass(frozen=True, slots=True)
class Cpu:
    """Seconds of processor time."""

    client: float
    server: float
    database: float | None
    """None: the database is inside of the server."""

    def per(self, count: int, measure: str, what: str, since: "Cpu") -> list[Figure]:
        """What was used since then, for each of so many."""
        unit = f"µs/{what}"
        used = [("client CPU", self.client - since.client)]
        used.append(("server CPU", self.server - since.server))
        if self.database is not None and since.database is not None:
            used.append(("database CPU", self.database - since.database))
        return [
            Figure(measure, name, unit, seconds / count * MICROSECONDS) for name, seconds in used
        ]


class Processes:
    """The server and its database, as the operating system sees them. The client is this
    process, with those that it started and saw to their end."""

    def __init__(self, server_pid: int, database_pid: int | None) -> None:
        """`database_pid` is that of PostgreSQL's main process."""
        self._server = psutil.Process(server_pid)
        self._database = None if database_pid is None else psutil.Process(database_pid)

    def cpu(self) -> Cpu:
        """What was used until now."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        server = self._server.cpu_times()
        return Cpu(
            client=time.process_time() + ended.ru_utime + ended.ru_stime,
            server=server.user + server.system,
            database=None if self._database is None else _of_all(self._database),
        )

    @property
    def server_peak_mib(self) -> float:
        """The most memory that the server has had resident until now."""
        status = Path(f"/proc/{self._server.pid}/status").read_text(encoding="ascii")
        _, _, rest = status.partition("VmHWM:")
        return int(rest.split()[0]) / 1024


def _of_all(main: psutil.Process) -> float:
    """Of a process, and of those that it started, whether they still run or have ended."""
    seconds = 0.0
    for process in (main, *main.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        seconds += times.user + times.system + times.children_user + times.children_system
    return seconds
