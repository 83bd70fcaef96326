"""The rounds: workload after workload, the contestants of each in turn."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Self

from contestants.contestant import Contestant
from databases import PostgresServer
from host import Host
from plan import Cell, Workload, filling
from results import Results
from session import CellFailed, Measured, measure, measure_size, measure_start
from workloads.fill import EVENTS_PER_STREAM

STREAMS_AT_ONCE = 50_000
"""That one process makes."""


class Rounds:
    """Measures, and keeps some logs from round to round. Use as a context manager."""

    def __init__(self, postgres: PostgresServer | None, results: Results) -> None:
        self._postgres = postgres
        self._results = results
        self._hosts: dict[str, Host] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, workloads: Sequence[Workload], contestants: Sequence[type[Contestant]]) -> None:
        """One round."""
        for workload in workloads:
            for contestant in contestants:
                cells = [cell for cell in workload.cells if contestant.offers(cell.needs)]
                if cells:
                    print(f"  {workload.name}: {contestant.name}", file=sys.stderr)
                    self._measure(workload, cells, contestant)

    def _measure(
        self, workload: Workload, cells: Sequence[Cell], contestant: type[Contestant]
    ) -> None:
        with ExitStack() as stack:
            # What keeps nothing is filled again by each client.
            if workload.log == "kept" and contestant.keeps:
                host = self._kept(contestant)
                stack.callback(host.stop)
            else:
                host = stack.enter_context(Host(contestant, self._postgres))
            for cell in cells:
                result = self._results.of(
                    workload.name, cell.name, contestant.name, contestant.kind
                )
                if result.failures and not result.rounds:
                    # What it can't do is not waited for again.
                    continue
                try:
                    result.rounds.append(_measure_cell(host, cell))
                except CellFailed as failed:
                    print(
                        f"{workload.name}, {cell.name}: {contestant.name}: {failed}",
                        file=sys.stderr,
                    )
                    result.failures.append(str(failed))

    def _kept(self, contestant: type[Contestant]) -> Host:
        if contestant.name not in self._hosts:
            host = self._stack.enter_context(Host(contestant, self._postgres))
            self._hosts[contestant.name] = host
        return self._hosts[contestant.name]


def _measure_cell(host: Host, cell: Cell) -> Measured:
    if cell.program == "start":
        host.stop_all()
        return measure_start(host, cell)
    _start(host)
    while host.streams < cell.streams:
        more = min(cell.streams - host.streams, STREAMS_AT_ONCE)
        measure(host, filling(host.streams, more))
        host.streams += more
    if cell.program == "size":
        return measure_size(host, cell.streams * EVENTS_PER_STREAM)
    return measure(host, cell)


def _start(host: Host) -> None:
    if not host.runs:
        host.start()
        host.wait()
