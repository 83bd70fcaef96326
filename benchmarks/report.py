"""The results: a table for people, and a file for programs."""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from options import Options
from rounds import Round

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Summary:
    """One figure, over all rounds on one database."""

    measure: str
    name: str
    unit: str
    median: float
    min: float
    max: float
    values: Sequence[float]


def summarise(rounds: Iterable[Round]) -> list[Summary]:
    """Every figure, in the order in which they were measured."""
    values: dict[tuple[str, str, str], list[float]] = {}
    for each in rounds:
        for figure in each.figures:
            values.setdefault((figure.measure, figure.name, figure.unit), []).append(figure.value)
    return [
        Summary(*key, statistics.median(found), min(found), max(found), found)
        for key, found in values.items()
    ]


def table(rounds: Mapping[str, Sequence[Round]]) -> str:
    """Medians and, where there was more than one round, the least and the most."""
    columns = {each[0].database: summarise(each) for each in rounds.values()}
    # All have the same figures in the same order, but for those of a database's own processes.
    fullest = max(columns.values(), key=len)
    rows = [(summary.measure, summary.name, summary.unit) for summary in fullest]
    lines = [("", "", *columns)]
    measure = ""
    for row in rows:
        cells = [
            next(
                (_cell(each) for each in summaries if (each.measure, each.name, each.unit) == row),
                "",
            )
            for summaries in columns.values()
        ]
        if row[0] != measure:
            measure = row[0]
            lines.append((measure, "", *[""] * len(columns)))
        lines.append((f"  {row[1]}", row[2], *cells))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join(text)


def _cell(summary: Summary) -> str:
    median = _short(summary.median)
    if len(summary.values) == 1:
        return median
    return f"{median} ({_short(summary.min)}..{_short(summary.max)})"


def _short(value: float) -> str:
    """Three digits that count: more than such a measurement is good for."""
    if value >= 100:
        return f"{round(value, 3 - len(str(int(value)))):,.0f}"
    return f"{value:.3g}"


def write_result(path: Path, options: Options, rounds: Mapping[str, Sequence[Round]]) -> None:
    """Writes every value of every round, with what is needed to judge them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "treering": version("treering"),
        "commit": _commit(),
        "machine": machine(),
        "options": asdict(options),
        "databases": {
            name: {
                "database": each[0].database,
                "durability": each[0].durability,
                "load": [one.load for one in each],
                "figures": [asdict(summary) for summary in summarise(each)],
            }
            for name, each in rounds.items()
        },
    }
    path.write_text(json.dumps(result, indent=2, default=str) + "\n", encoding="utf-8")


def machine() -> dict[str, object]:
    """What the figures are of."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor()


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()
