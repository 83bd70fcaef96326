"""The run: each database in turn, round after round.

Every program is started from bytecode, as after an installation by pip: it is kept in a
directory of the run, and made by a server and an import that don't count.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from databases import PostgresServer
from generator import write_log
from options import Options, parse
from report import machine, table, write_result
from rounds import Round, run_round, warm_up

IN_MEMORY = ("tmpfs", "ramfs")
WARM_UP_EVENTS = 100


def main(arguments: Sequence[str]) -> int:
    """Measures, prints the table, writes the results. Returns the exit code."""
    options = parse(arguments)
    directory = Path(tempfile.gettempdir()).resolve()
    if _file_system(directory) in IN_MEMORY:
        print(
            f"{directory} is kept in memory, where nothing is durable: set TMPDIR to a directory "
            "on the disk that is to be measured",
            file=sys.stderr,
        )
        return 1
    print(*(f"{name}: {value}" for name, value in machine().items()), sep="\n")
    rounds = _run(options)
    for each in rounds.values():
        print(f"{each[0].database}: {each[0].durability}")
    print("\n" + table(rounds))
    write_result(options.result, options, rounds)
    print(f"\nEvery log was whole and in order. All values: {options.result}")
    return 0


def _run(options: Options) -> dict[str, list[Round]]:
    rounds: dict[str, list[Round]] = {name: [] for name in options.databases}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="treering-bench-")))
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(directory / "bytecode")
        file = options.file
        if file is None:
            file = directory / "log.jsonl.gz"
            write_log(file, options.events)
        servers = {
            name: stack.enter_context(PostgresServer()) if name == "postgresql" else None
            for name in options.databases
        }
        runner = stack.enter_context(asyncio.Runner())
        small = directory / "small.jsonl.gz"
        write_log(small, WARM_UP_EVENTS)
        for server in servers.values():
            warm_up(server, small)
        for number in range(options.rounds):
            for name, server in servers.items():
                print(f"round {number + 1} of {options.rounds}: {name}", file=sys.stderr)
                rounds[name].append(run_round(server, file, options, runner))
    return rounds


def _file_system(directory: Path) -> str:
    """The kind of file system that a directory is on."""
    found = "unknown"
    for each in sorted(psutil.disk_partitions(all=True), key=lambda each: len(each.mountpoint)):
        if directory.is_relative_to(each.mountpoint):
            found = each.fstype
    return found
