"""What can be asked of a run."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DATABASES = ("sqlite", "postgresql")
RESULT = Path("build") / "benchmarks.json"


@dataclass(frozen=True, slots=True)
class Options:
    """How much is measured."""

    databases: Sequence[str]
    rounds: int
    events: int
    """In the generated log that is imported."""
    file: Path | None
    """Imported instead of a generated log."""
    seconds: float
    """How long appends, reads and latency are measured, each."""
    in_flight: int
    rate: float
    """Appends per second while latency is measured."""
    result: Path


def parse(arguments: Sequence[str]) -> Options:
    """Reads the command line. Ends the program if it makes no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures a server on each database, in turn, round after round.",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a round of seconds, to see that it works; its figures mean nothing",
    )
    parser.add_argument(
        "--database",
        choices=DATABASES,
        action="append",
        help="only this one (default: each)",
    )
    parser.add_argument("--rounds", type=_positive, help="rounds on each database (default: 3)")
    parser.add_argument("--events", type=_positive, help="in the log generated (default: 100,000)")
    parser.add_argument(
        "--file", type=_file, help="import this file of CloudEvents instead (.jsonl, .jsonl.gz)"
    )
    parser.add_argument(
        "--seconds", type=float, help="for each of appends, reads and latency (default: 3)"
    )
    parser.add_argument(
        "--in-flight", type=_positive, default=256, help="appends under way (default: 256)"
    )
    parser.add_argument(
        "--rate", type=float, default=100.0, help="appends/s for latency (default: 100)"
    )
    parser.add_argument(
        "--json", type=Path, default=RESULT, help=f"where the results go (default: {RESULT})"
    )
    given = parser.parse_args(arguments)
    rounds, events, seconds = (1, 2_000, 0.3) if given.quick else (3, 100_000, 3.0)
    return Options(
        databases=tuple(given.database or DATABASES),
        rounds=given.rounds or rounds,
        events=given.events or events,
        file=given.file,
        seconds=given.seconds or seconds,
        in_flight=given.in_flight,
        rate=given.rate,
        result=given.json,
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
