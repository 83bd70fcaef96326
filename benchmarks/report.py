"""The results for people: tables in Markdown, one for each cell."""

from collections.abc import Iterable, Sequence

from contestants.contestant import Contestant
from plan import Workload
from results import Result, Results


def report(
    workloads: Iterable[Workload], contestants: Sequence[type[Contestant]], results: Results
) -> str:
    """All tables."""
    parts = ["## Who\n\n" + _durability(contestants)]
    for workload in workloads:
        for cell in workload.cells:
            found = [
                result
                for each in contestants
                if (result := results.find(workload.name, cell.name, each.name))
            ]
            if found:
                title = f"## {workload.name}. {workload.title}: {cell.name}"
                parts.append(f"{title}\n\n{_table(workload.unit, found)}")
    failures = [
        f"- {result.workload}, {result.cell}: {result.contestant}: {len(result.failures)} of "
        f"{len(result.failures) + len(result.rounds)} rounds: {_last_line(result.failures[0])}"
        for result in results.all
        if result.failures
    ]
    if failures:
        parts.append("## What failed\n\n" + "\n".join(failures))
    return "\n\n".join(parts)


def best_peer(results: Iterable[Result]) -> Result | None:
    """The fastest of those that could be used instead."""
    peers = [each for each in results if each.kind == "peer"]
    return max(peers, key=lambda each: each.rate, default=None)


def short(value: float) -> str:
    """Three digits that count: more than such a measurement is good for."""
    if value >= 100:
        return f"{round(value, 3 - len(str(int(value)))):,.0f}"
    return f"{value:.3g}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is words, and whose others are numbers."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        " | ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    rule = " | ".join(
        "-" * width if place == 0 else "-" * (width - 1) + ":" for place, width in enumerate(widths)
    )
    return "\n".join(f"| {line} |" for line in (text[0], rule, *text[1:]))


def _durability(contestants: Iterable[type[Contestant]]) -> str:
    return "\n".join(f"- {each.name} ({each.kind}): {each.durable}" for each in contestants)


def _table(unit: str, results: Sequence[Result]) -> str:
    extras = list(dict.fromkeys(name for result in results for name in result.extra))
    rated = [f"{unit}/s", "to best peer", "min..max", "p50 ms", "p99 ms"] if unit else []
    cpu = ["server µs", "client µs", "database µs"] if unit else []
    best = best_peer(results)
    rows = []
    for result in results:
        row = [result.contestant]
        if unit:
            row += [
                short(result.rate),
                f"{result.rate / best.rate:.2f}" if best else "",
                f"{short(min(result.rates))}..{short(max(result.rates))}",
                *(quantile(result, name) for name in ("p50", "p99")),
                *map(short, (result.server_cpu, result.client_cpu, result.database_cpu)),
            ]
        row += [short(result.extra[name]) if name in result.extra else "" for name in extras]
        rows.append(row)
    return markdown(["", *rated, *cpu, *extras], rows)


def quantile(result: Result, name: str) -> str:
    """A latency in ms; empty if none was measured."""
    value = result.quantile(name)
    return "" if value is None else short(value)


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1]
