"""The tables of the documentation's page "Performance", from what one or more runs have left.

    .venv/bin/python benchmarks/page.py build/benchmarks.json [MORE.json ...]

Figures are medians over the rounds of all the runs; how far the runs lie apart stands below.
"""

import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

from report import markdown, quantile, short  # noqa: E402
from results import Result, Results  # noqa: E402
from session import Measured  # noqa: E402
from targets import targets  # noqa: E402


class Row(NamedTuple):
    """A cell, as the page calls it."""

    title: str
    workload: str
    cell: str


CONTESTANTS = {
    "treering-sqlite": "Treering, SQLite",
    "treering-postgresql": "Treering, PostgreSQL",
    "umadb": "UmaDB",
    "eventsourcing-sqlite": "`eventsourcing`, SQLite",
    "message-db": "message-db",
    "grpc-unary": "gRPC alone",
}
"""Those that the page shows. The others are named in its text."""
FLOORS = {
    "raw-sqlite": "SQLite alone",
    "raw-postgresql": "PostgreSQL alone",
    "grpc-unary": "gRPC alone, a call each",
    "grpc-held": "gRPC alone, one call",
}
"""What a server in Python over a database can't be faster than."""

RATES = (
    Row("single appends, one in flight (W1)", "W1", "1 in flight"),
    Row("single appends, 64 in flight (W2)", "W2", "64 in flight"),
    Row("the same, 256 in flight", "W2", "256 in flight"),
    Row("100 events an append, one in flight (W3)", "W3", "1 in flight"),
    Row("the same, 8 in flight", "W3", "8 in flight"),
    Row("1,000 events an append, one in flight (W4)", "W4", "1 in flight"),
    Row("the same, 8 in flight", "W4", "8 in flight"),
    Row("the whole log, as the client gives it (W5)", "W5", "client"),
    Row("the whole log, bytes on the wire", "W5", "wire"),
    Row("streams of 10 events, one in flight (W6)", "W6", "1 in flight"),
    Row("the same, 64 in flight", "W6", "64 in flight"),
    Row("streams of 10 events, 16 named in one read", "W6", "16 a read"),
    Row("a burst to 50 subscribers, deliveries (W7)", "W7", "50, burst"),
    Row("a burst to 200 subscribers, deliveries", "W7", "200, burst"),
    Row("import of a file (W10)", "W10", "import"),
    Row("append condition on a type and a tag, 64 in flight (W11)", "W11", "one tag, 64 in flight"),
    Row("append condition on a type and two tags", "W11", "two tags, 64 in flight"),
    Row("events of a type that 1 in 1,000 has (W12)", "W12", "type"),
    Row("events of a category that 1 in 1,000 has", "W12", "category"),
    Row(
        "appends amid 8 readers and 50 subscribers (W13)",
        "W13",
        "8 writers, 8 readers, 50 subscribers",
    ),
)
LATENCIES = (
    *(row for row in RATES if row.workload in ("W1", "W2")),
    Row("from the append to a subscriber, 200 a second (W7)", "W7", "1 at 200/s"),
    *(row for row in RATES if (row.workload, row.cell) == ("W6", "1 in flight")),
)
EXTRAS = (
    (Row("bytes on the disk for an event of 256 (W8)", "W8", "size"), "bytes/event"),
    (Row("ms from the start to the first event (W9)", "W9", "start"), "ms"),
    (Row("MiB when idle", "W9", "start"), "idle MiB"),
)


def read_runs(files: Sequence[Path]) -> list[Results]:
    """What each of the runs has left."""
    runs = []
    for file in files:
        run = Results()
        for each in json.loads(file.read_text(encoding="utf-8"))["results"]:
            result = run.of(each["workload"], each["cell"], each["contestant"], each["kind"])
            result.rounds += [Measured(**measured) for measured in each["rounds"]]
        runs.append(run)
    return runs


def together(runs: Sequence[Results]) -> Results:
    """The rounds of all runs."""
    joined = Results()
    for run in runs:
        for each in run.all:
            result = joined.of(each.workload, each.cell, each.contestant, each.kind)
            result.rounds += each.rounds
    return joined


Figure = Callable[[Result], str]


def table(
    head: str,
    lines: Iterable[tuple[Row, Figure]],
    results: Results,
    who: Mapping[str, str] = CONTESTANTS,
) -> str:
    """A figure of a cell in each line, of each of them."""
    rows = []
    for row, figure in lines:
        found = [results.find(row.workload, row.cell, name) for name in who]
        if any(found):
            rows.append([row.title, *("" if each is None else figure(each) for each in found)])
    return markdown([head, *who.values()], rows)


def rate(result: Result) -> str:
    """How many in a second."""
    return short(result.rate)


def processor(result: Result) -> str:
    """Microseconds of each that has any."""
    parts = (result.server_cpu, result.client_cpu, result.database_cpu)
    return " + ".join(short(part) for part in parts if part >= 0.005)


def latencies(result: Result) -> str:
    """The middle, and what few exceed."""
    return " / ".join(quantile(result, name) for name in ("p50", "p99"))


def extra(name: str) -> Figure:
    """Something else that was measured."""

    def figure(result: Result) -> str:
        return short(result.extra[name]) if name in result.extra else ""

    return figure


def apart(runs: Sequence[Results]) -> str:
    """How far the medians of the runs lie apart: the largest rate by the smallest."""

    def factors(name: str) -> list[float]:
        of_rows = [[run.find(row.workload, row.cell, name) for run in runs] for row in RATES]
        rates = [[each.rate for each in of_row if each is not None] for of_row in of_rows]
        return [max(found) / min(found) for found in rates if len(found) == len(runs)]

    rows = [
        [title, short(statistics.median(found)), short(max(found))]
        for name, title in CONTESTANTS.items()
        if (found := factors(name))
    ]
    return markdown(["largest rate by smallest", "middle of the cells", "worst cell"], rows)


def main(*files: str) -> None:
    """Prints the tables."""
    runs = read_runs([Path(file) for file in files])
    results = together(runs)
    parts = [
        table("a second", ((row, rate) for row in RATES), results),
        table("a second", ((row, rate) for row in RATES), results, FLOORS),
        table("milliseconds, p50 / p99", ((row, latencies) for row in LATENCIES), results),
        table("", ((row, extra(name)) for row, name in EXTRAS), results),
        table("µs: server + client + database", ((row, processor) for row in RATES), results),
        targets(results),
    ]
    if len(runs) > 1:
        parts.append(apart(runs))
    print("\n\n".join(parts))


if __name__ == "__main__":
    main(*sys.argv[1:])
