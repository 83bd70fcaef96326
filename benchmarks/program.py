"""The run: whoever can be measured, round after round, and what came out of it.

Every program is started from bytecode, as after an installation by a package manager: it is
made by a first start that does not count.
"""

import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from baseline import compare, store
from contestants.contestant import Contestant
from databases import PostgresServer
from generator import write_log
from host import Host
from machine import IN_MEMORY, ROOT, file_system, machine
from options import Options, parse
from plan import Cell, Workload, plan
from record import write_record
from report import report
from results import Results
from rounds import Rounds
from scale import USUAL
from session import CellFailed, measure
from targets import targets
from tools import missing

BYTECODE = ROOT / "build" / "bytecode"
CONNECTIONS = "400"
"""Of PostgreSQL: with some contestants each subscriber holds one."""


def main(arguments: Sequence[str]) -> int:
    """Measures, prints the tables, writes the results. Returns the exit code."""
    options = parse(arguments)
    directory = Path(tempfile.gettempdir()).resolve()
    if file_system(directory) in IN_MEMORY:
        print(
            f"{directory} is kept in memory, where nothing is durable: set TMPDIR to a directory "
            "on the disk that is to be measured",
            file=sys.stderr,
        )
        return 1
    print(*(f"- {name}: {value}" for name, value in machine().items()), sep="\n")
    results = Results()
    with ExitStack() as stack:
        kept = Path(stack.enter_context(TemporaryDirectory(prefix="treering-bench-")))
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(BYTECODE)
        workloads = _workloads(options, kept)
        postgres = None
        if any(each.on_postgresql for each in options.contestants):
            postgres = stack.enter_context(PostgresServer({"max_connections": CONNECTIONS}))
        contestants = list(_able(options.contestants, postgres))
        rounds = stack.enter_context(Rounds(postgres, results))
        for number in range(options.scale.rounds):
            print(f"round {number + 1} of {options.scale.rounds}", file=sys.stderr)
            rounds.run(workloads, contestants)
    print("\n" + report(workloads, contestants, results))
    print("\n## Targets\n\n" + (targets(results) or "None of their cells was measured."))
    if options.store_baseline:
        store(results)
    # In other sizes the same cells take other times.
    if options.scale.seconds == USUAL.seconds:
        print("\n## Against the baseline\n\n" + compare(results))
    write_record(options.result, options.scale, contestants, results)
    print(f"\nAll values: {options.result}")
    return int(any(each.failures for each in results.all if each.kind == "treering"))


def _workloads(options: Options, kept: Path) -> list[Workload]:
    file = options.file
    if file is None:
        file = kept / "log.jsonl.gz"
        write_log(file, options.scale.imported)
    return [
        workload
        for workload in plan(options.scale, file)
        if workload.name in options.workloads or (workload.usual and not options.workloads)
    ]


def _able(
    contestants: Iterable[type[Contestant]], postgres: PostgresServer | None
) -> Iterable[type[Contestant]]:
    """Those that can take part, each started once before it counts. Names the others."""
    first = Cell("first", "start", "append")
    for contestant in contestants:
        why = missing(contestant)
        if not why:
            try:
                with Host(contestant, postgres) as host:
                    host.start()
                    host.wait()
                    measure(host, first)
            except (CellFailed, RuntimeError) as failed:
                why = str(failed).strip().splitlines()[-1]
        if why:
            print(f"skipped: {contestant.name}: {why}", file=sys.stderr)
        else:
            yield contestant
