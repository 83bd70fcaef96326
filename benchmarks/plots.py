"""Plots for the documentation: `build/peers/bin/python benchmarks/plots.py RESULTS DIRECTORY`.

Runs in the environment of the peers, where matplotlib is, and draws the JSON that a run has left:
what is not in there is not drawn.
"""

import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt

mpl.use("svg")
# So that the same figures give the same file, and text stays text.
mpl.rcParams.update({"svg.hashsalt": "treering", "svg.fonttype": "none", "font.size": 9})

SIZE = (7, 4)
STYLES = {"treering": "-", "peer": "--", "floor": ":"}

Cells = Sequence[tuple[str, str, float]]
"""Workload, name of the cell, and where it stands on the horizontal axis."""

Value = Callable[[Mapping[str, Any]], float | None]
"""Of a round of a cell."""


class Plot(NamedTuple):
    """A line for each contestant over some cells."""

    file: str
    title: str
    across: str
    up: str
    cells: Cells
    value: Value


def rate(measured: Mapping[str, Any]) -> float:
    """Operations per second."""
    return float(measured["operations"] / measured["seconds"])


def quantile(name: str) -> Value:
    """A latency in milliseconds."""

    def value(measured: Mapping[str, Any]) -> float | None:
        found: float | None = measured["quantiles"].get(name)
        return found

    return value


IN_FLIGHT: Cells = (
    ("W1", "1 in flight", 1),
    ("W2", "64 in flight", 64),
    ("W2", "256 in flight", 256),
)


def plots(cells: Iterable[tuple[str, str]]) -> Iterable[Plot]:
    """All of them. Some have as many points as were measured."""
    measured = list(dict.fromkeys(cells))
    for name in ("p50", "p99"):
        yield Plot(
            f"latency-{name}.svg",
            f"Single appends: {name}",
            "in flight",
            "ms",
            IN_FLIGHT,
            quantile(name),
        )
    for in_flight in (1, 8):
        cell = f"{in_flight} in flight"
        batches: list[tuple[str, str, float]] = [("W3", cell, 100), ("W4", cell, 1000)]
        if in_flight == 1:
            batches.insert(0, ("W1", cell, 1))
        yield Plot(
            f"batches-{in_flight}.svg",
            f"Appends, {in_flight} in flight",
            "events an append",
            "events/s",
            batches,
            rate,
        )
    bursts = [
        (workload, cell, float(cell.partition(",")[0]))
        for workload, cell in measured
        if workload == "W7" and cell.endswith("burst")
    ]
    yield Plot("subscribers.svg", "Fan-out of a burst", "subscribers", "deliveries/s", bursts, rate)
    grown = [cell.partition(" events: ") for workload, cell in measured if workload == "W14"]
    for number, what in enumerate(dict.fromkeys(what for _, _, what in grown), start=1):
        sizes = [
            ("W14", f"{size} events: {what}", float(size.replace(",", "")))
            for size, _, found in grown
            if found == what
        ]
        yield Plot(f"growth-{number}.svg", what, "events in the log", "per second", sizes, rate)


def draw(plot: Plot, results: Sequence[Mapping[str, Any]], directory: Path) -> bool:
    """Draws it, if any contestant has two points."""
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    places = {(workload, cell): place for workload, cell, place in plot.cells}
    drawn = False
    for name in dict.fromkeys(each["contestant"] for each in results):
        points, kind = [], ""
        for each in results:
            key = (each["workload"], each["cell"])
            if each["contestant"] == name and key in places:
                kind = each["kind"]
                found = [value for one in each["rounds"] if (value := plot.value(one)) is not None]
                if found:
                    points.append((places[key], statistics.median(found), min(found), max(found)))
        if len(points) > 1:
            across, median, least, most = zip(*sorted(points), strict=True)
            (line,) = axes.plot(across, median, STYLES[kind], marker="o", label=name)
            axes.fill_between(across, least, most, alpha=0.1, color=line.get_color())
            drawn = True
    if drawn:
        axes.set(title=plot.title, xlabel=plot.across, ylabel=plot.up, xscale="log", yscale="log")
        ticks = sorted(set(places.values()))
        axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(visible=True, alpha=0.3)
        figure.legend(loc="outside right upper", frameon=False)
        figure.savefig(directory / plot.file, metadata={"Date": None})
    plt.close(figure)
    return drawn


def main(record: str, directory: str) -> None:
    """Draws all."""
    results = json.loads(Path(record).read_text(encoding="utf-8"))["results"]
    Path(directory).mkdir(parents=True, exist_ok=True)
    cells = [(each["workload"], each["cell"]) for each in results]
    for plot in plots(cells):
        if draw(plot, results, Path(directory)):
            print(Path(directory) / plot.file)


if __name__ == "__main__":
    main(*sys.argv[1:])
