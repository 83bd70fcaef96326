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
from session import CellFailed, Measured, measure, measure_start


class Rounds:
    """Measures, and keeps filled logs from round to round. Use as a context manager.

    A workload begins with a fresh log for each contestant, unless it asks for a filled one.
    """

    def __init__(self, streams: int, postgres: PostgresServer | None, results: Results) -> None:
        """`streams` are those of a filled log."""
        self._streams = streams
        self._postgres = postgres
        self._results = results
        self._filled: dict[str, Host] = {}
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
            try:
                if workload.log == "filled" and contestant.keeps:
                    host = self._filled_host(contestant)
                    stack.callback(host.stop)
                else:
                    host = stack.enter_context(Host(contestant, self._postgres))
                    if workload.log == "filled":
                        _start(host)
                        measure(host, filling(self._streams))
            except CellFailed as failed:
                self._note(workload, cells[0], contestant, failed)
                return
            for cell in cells:
                try:
                    measured = _measure_cell(host, cell)
                except CellFailed as failed:
                    self._note(workload, cell, contestant, failed)
                else:
                    self._note(workload, cell, contestant, measured)

    def _filled_host(self, contestant: type[Contestant]) -> Host:
        host = self._filled.get(contestant.name)
        if host is None:
            host = self._stack.enter_context(Host(contestant, self._postgres))
            _start(host)
            measure(host, filling(self._streams))
            self._filled[contestant.name] = host
        return host

    def _note(
        self,
        workload: Workload,
        cell: Cell,
        contestant: type[Contestant],
        outcome: Measured | CellFailed,
    ) -> None:
        result = self._results.of(workload.name, cell.name, contestant.name, contestant.kind)
        if isinstance(outcome, Measured):
            result.rounds.append(outcome)
        else:
            print(f"{workload.name}, {cell.name}: {contestant.name}: {outcome}", file=sys.stderr)
            result.failures.append(str(outcome))


def _measure_cell(host: Host, cell: Cell) -> Measured:
    if cell.program == "start":
        host.stop_all()
        return measure_start(host, cell)
    _start(host)
    return measure(host, cell)


def _start(host: Host) -> None:
    if not host.runs:
        host.start()
        host.wait()
