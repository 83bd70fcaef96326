"""What servers and databases use up: processor time and memory. Linux only."""

from collections.abc import Iterator
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Cpu:
    """Seconds of processor time."""

    server: float
    database: float


class Processes:
    """A server and a database, as the operating system sees them; either may be missing."""

    def __init__(self, server_pid: int | None, database_pid: int | None) -> None:
        """`database_pid` is that of PostgreSQL's main process."""
        self._server = None if server_pid is None else psutil.Process(server_pid)
        self._database = None if database_pid is None else psutil.Process(database_pid)

    def cpu(self) -> Cpu:
        """What was used until now."""
        return Cpu(_cpu(self._server), _cpu(self._database))

    def memory_mib(self) -> float:
        """What the server has resident, or the database where there is none: its share of what
        it shares with others."""
        return (
            sum(each.memory_full_info().pss for each in _tree(self._server or self._database))
            / 2**20
        )


def _tree(main: psutil.Process | None) -> Iterator[psutil.Process]:
    """A process, and those that it has started and that still run."""
    if main is not None:
        yield main
        yield from main.children(recursive=True)


def _cpu(main: psutil.Process | None) -> float:
    """Of a process, and of those that it started, whether they still run or have ended."""
    seconds = 0.0
    for process in _tree(main):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        seconds += times.user + times.system + times.children_user + times.children_system
    return seconds
