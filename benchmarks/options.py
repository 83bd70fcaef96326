"""What can be asked of a run."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from contestants.contestant import Contestant
from contestants.entrants import ENTRANTS, USUAL_ENTRANTS
from plan import plan
from scale import FULL, QUICK, USUAL, Scale

RESULT = Path("build") / "benchmarks.json"


@dataclass(frozen=True, slots=True)
class Options:
    """Who is measured, at what, and how much."""

    contestants: Sequence[type[Contestant]]
    workloads: Sequence[str]
    """Names; none: all."""
    scale: Scale
    file: Path | None
    """Imported instead of a generated log."""
    result: Path
    store_baseline: bool


def parse(arguments: Sequence[str]) -> Options:
    """Reads the command line. Ends the program if it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures Treering and what could be used instead, in turn, round after round.",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--quick",
        action="store_true",
        help="a round of seconds, to see that it works; its figures mean nothing",
    )
    size.add_argument("--full", action="store_true", help="all contestants, longer cells: hours")
    parser.add_argument(
        "--contestant",
        choices=[each.name for each in ENTRANTS],
        action="append",
        help="only this one; may be repeated",
    )
    parser.add_argument(
        "--workload",
        choices=[each.name for each in plan(USUAL, RESULT)],
        action="append",
        help="only this one; may be repeated",
    )
    parser.add_argument("--rounds", type=_positive, help="3 usually, 5 with --full")
    parser.add_argument(
        "--file", type=_file, help="import this file of CloudEvents (.jsonl, .jsonl.gz)"
    )
    parser.add_argument(
        "--json", type=Path, default=RESULT, help=f"where the results go (default: {RESULT})"
    )
    parser.add_argument(
        "--store-baseline",
        action="store_true",
        help="keep the processor times of this run, to compare later runs with",
    )
    given = parser.parse_args(arguments)
    scale = QUICK if given.quick else FULL if given.full else USUAL
    entrants = ENTRANTS if given.full or given.contestant else USUAL_ENTRANTS
    return Options(
        contestants=[
            each for each in entrants if not given.contestant or each.name in given.contestant
        ],
        workloads=given.workload or (),
        scale=replace(scale, rounds=given.rounds or scale.rounds),
        file=given.file,
        result=given.json,
        store_baseline=given.store_baseline,
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def _file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path
