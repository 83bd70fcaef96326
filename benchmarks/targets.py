"""What Treering is to reach beside the others, as ratios within one run."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from report import markdown, short
from results import Result, Results

Rivals = Sequence[str]
"""Names of contestants: the best of them counts."""

UMADB: Rivals = ("umadb",)
LIBRARY: Rivals = ("eventsourcing-sqlite",)
ON_POSTGRESQL: Rivals = (
    "eventsourcing-postgresql",
    "eventsourcing-dcb",
    "message-db",
    "emmett-postgresql",
)
SQL: Rivals = (*LIBRARY, *ON_POSTGRESQL)
GRPC: Rivals = ("grpc-unary",)
DCB: Rivals = ("eventsourcing-dcb",)

SQLITE = ("treering-sqlite",)
POSTGRESQL = ("treering-postgresql",)
BOTH = (*SQLITE, *POSTGRESQL)

FIRST_SIZE = "100,000 events"
LAST_SIZE = "10,000,000 events"


@dataclass(frozen=True, slots=True)
class Target:
    """A bound for one figure of a cell, as a multiple of the best rival's where there are any."""

    workload: str
    cell: str
    who: Sequence[str]
    bound: float
    rivals: Rivals = ()
    figure: str = "rate"
    """`rate`, a quantile, or something extra."""
    kind: Literal["at least", "at most"] = "at least"
    rivals_cell: str = ""
    """Where it is not the same."""


TARGETS: Sequence[Target] = (
    Target("W1", "1 in flight", SQLITE, 1.2, UMADB),
    Target("W1", "1 in flight", POSTGRESQL, 1.0, UMADB),
    Target("W1", "1 in flight", POSTGRESQL, 1.5, ON_POSTGRESQL),
    *(
        target
        for cell in ("64 in flight", "256 in flight")
        for target in (
            Target("W2", cell, SQLITE, 1.3, UMADB),
            Target("W2", cell, POSTGRESQL, 1.1, UMADB),
            Target("W2", cell, BOTH, 5.0, SQL),
        )
    ),
    *(
        target
        for cell in ("1 in flight", "8 in flight")
        for target in (
            Target("W3", cell, SQLITE, 1.0, LIBRARY),
            Target("W3", cell, POSTGRESQL, 1.5, ON_POSTGRESQL),
            Target("W4", cell, SQLITE, 1.0, LIBRARY),
            Target("W4", cell, SQLITE, 0.5, UMADB),
            Target("W4", cell, POSTGRESQL, 2.0, ON_POSTGRESQL),
        )
    ),
    Target("W3", "8 in flight", SQLITE, 0.6, UMADB),
    Target("W5", "client", SQLITE, 1.0, UMADB),
    Target("W5", "wire", SQLITE, 1.3, UMADB),
    Target("W5", "client", POSTGRESQL, 3.0, ON_POSTGRESQL),
    Target("W6", "1 in flight", BOTH, 0.9, GRPC),
    Target("W6", "64 in flight", BOTH, 0.9, GRPC),
    Target("W6", "16 a read", BOTH, 3.0, UMADB, rivals_cell="1 in flight"),
    Target("W7", "1 at 200/s", SQLITE, 1.0, UMADB, "p50", "at most"),
    Target("W7", "1 at 200/s", POSTGRESQL, 2.0, UMADB, "p50", "at most"),
    Target("W7", "50, burst", BOTH, 1.7, UMADB),
    Target("W7", "200, burst", BOTH, 1.7, UMADB),
    Target("W8", "size", SQLITE, 400, (), "bytes/event", "at most"),
    Target("W8", "size", POSTGRESQL, 540, (), "bytes/event", "at most"),
    Target("W9", "start", BOTH, 800, (), "ms", "at most"),
    Target("W9", "start", BOTH, 70, (), "idle MiB", "at most"),
    Target("W10", "import", SQLITE, 1.3, UMADB),
    Target("W10", "import", POSTGRESQL, 2.0, ON_POSTGRESQL),
    Target("W11", "one tag, 64 in flight", SQLITE, 1.2, UMADB),
    Target("W11", "two tags, 64 in flight", SQLITE, 1.2, UMADB),
    Target("W11", "one tag, 64 in flight", POSTGRESQL, 5.0, DCB),
    Target("W11", "two tags, 64 in flight", POSTGRESQL, 5.0, DCB),
)


def targets(results: Results) -> str:
    """A table of those whose cells were measured; empty if there are none."""
    rows = [row for target in TARGETS for who in target.who if (row := _row(results, target, who))]
    rows += _growth(results)
    head = ("", "cell", "figure", "wanted", "reached", "")
    return markdown(head, rows) if rows else ""


def _row(results: Results, target: Target, who: str) -> Sequence[str] | None:
    ours = results.find(target.workload, target.cell, who)
    if ours is None:
        return None
    reached, against = _figure(ours, target.figure), ""
    if target.rivals:
        cell = target.rivals_cell or target.cell
        found = (results.find(target.workload, cell, name) for name in target.rivals)
        choose = max if target.kind == "at least" else min
        rival = _best(found, choose, target.figure)
        if rival is None:
            return None
        reached, against = reached / _figure(rival, target.figure), f" x {rival.contestant}"
    met = reached >= target.bound if target.kind == "at least" else reached <= target.bound
    wanted = f"{'≥' if target.kind == 'at least' else '≤'} {short(target.bound)}{against}"
    return (
        who,
        f"{target.workload}, {target.cell}",
        target.figure,
        wanted,
        short(reached),
        _met(met),
    )


def _growth(results: Results) -> list[Sequence[str]]:
    """At ten million events nothing takes more than 1.3 times as long as at 100,000."""
    rows: list[Sequence[str]] = []
    for last in results.all:
        size, _, what = last.cell.partition(": ")
        if last.workload == "W14" and size == LAST_SIZE and last.rounds:
            first = results.find("W14", f"{FIRST_SIZE}: {what}", last.contestant)
            if first is not None:
                slower = first.rate / last.rate
                wanted = f"≤ 1.3 x that of {FIRST_SIZE}"
                rows.append(
                    (
                        last.contestant,
                        f"W14, {what}",
                        "time",
                        wanted,
                        short(slower),
                        _met(slower <= 1.3),
                    )
                )
    return rows


def _best(
    found: Iterable[Result | None], choose: Callable[..., Result | None], figure: str
) -> Result | None:
    return choose(
        (each for each in found if each is not None),
        key=lambda each: _figure(each, figure),
        default=None,
    )


def _figure(result: Result, figure: str) -> float:
    if figure == "rate":
        return result.rate
    value = result.quantile(figure)
    return result.extra[figure] if value is None else value


def _met(met: bool) -> str:
    return "met" if met else "not met"
