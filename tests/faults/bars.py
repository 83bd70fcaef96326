"""What runs of `make faults` have come to, beside what is wanted.

    .venv/bin/python tests/faults/bars.py build/faults/counts.jsonl

A column for each seed, and their sum: the long bars may be reached in three runs with three
seeds. Where a run has counted less than it should there is no verdict in that: what broke a
promise has failed its test.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from runs import counted

CUTS = ("cut off from", "answers lost to", "half-open to")
DATABASES = ("sqlite", "postgresql")
RPCS = (
    *("Append", "AppendMany", "Read", "Subscribe", "GetHead"),
    *("GetStream", "ListStreams", "UpdateStream", "DeleteStream"),
)


@dataclass(frozen=True)
class Bar:
    """So many of something are wanted."""

    text: str
    wanted: int
    is_meant: Callable[[str], bool]
    """Whether what was counted under a name is of it."""

    def reached(self, counts: Mapping[str, int]) -> int:
        """How many there were."""
        return sum(number for name, number in counts.items() if self.is_meant(name))


def of(*names: str) -> Callable[[str], bool]:
    """What is counted under one of the names, in whichever database."""
    return lambda name: name in names or name.partition(": ")[2] in names


def begins(*starts: str) -> Callable[[str], bool]:
    """What is counted under a name that begins so, in whichever database."""
    return lambda name: name.partition(": ")[2].startswith(starts)


BARS = [
    *(Bar(f"server kills, {each}", 200, of(f"{each}: server killed")) for each in DATABASES),
    Bar("pauses of a lock holder", 50, of("lock holder paused")),
    Bar("database kills", 50, of("database killed")),
    Bar("terminated backends", 500, of("backend terminated")),
    Bar("network cuts", 1_000, begins(*CUTS)),
    Bar("ways slowed: delay, one byte at a time, bandwidth", 300, begins("slow to")),
    Bar("failovers", 20, of("failover", "failovers that lose an end")),
    Bar("of these with a lost end", 10, of("failovers that lose an end")),
    Bar("clocks set", 40, begins("clock of")),
    Bar("disk full, sqlite", 40, of("sqlite: disk full")),
    Bar("disk full, postgresql", 20, of("postgresql: disk full")),
    Bar("locks held by others", 40, of("append lock held by another", "tables locked")),
    Bar("pooler kills", 10, of("pooler killed")),
    Bar("histories judged", 50, of("histories judged")),
    Bar("calls in them", 250_000, of("calls in histories")),
    *(Bar(f"model steps, {each}", 100_000, of(f"{each}: model steps")) for each in DATABASES),
    *(
        Bar(f"n of fail the n-th, {each}", 100, of(f"{each}: failed the n-th"))
        for each in DATABASES
    ),
    *(Bar(f"hostile requests, {rpc}", 20_000, of(f"hostile requests, {rpc}")) for rpc in RPCS),
    Bar("hostile raw messages", 200_000, of("hostile raw messages")),
]


def table(counts: Mapping[int, Mapping[str, int]]) -> str:
    """A line for each bar."""
    seeds = sorted(counts)
    head = ["", *(f"seed {seed}" for seed in seeds), "sum", "wanted", ""]
    rows = [head]
    for bar in BARS:
        reached = [bar.reached(counts[seed]) for seed in seeds]
        is_reached = sum(reached) >= bar.wanted
        numbers = [f"{number:,}" for number in (*reached, sum(reached), bar.wanted)]
        rows.append([bar.text, *numbers, "reached" if is_reached else "not yet"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if n in {0, len(row) - 1} else text.rjust(width)
            for n, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


if __name__ == "__main__":
    sys.stdout.write(f"{table(counted(Path(sys.argv[1])))}\n")
