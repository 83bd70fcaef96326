"""The workloads, and the cells of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from scale import Scale

EVENTS_PER_STREAM = 10
RATE = 200
"""Appends per second where it is the latency that is measured."""
AT_ONCE = 100
"""Events in an append of a burst."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What one process measures."""

    name: str
    program: str
    """Module in workloads/."""
    needs: str
    """The method that a contestant must have."""
    arguments: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Workload:
    """Cells that are measured on one log, one after the other."""

    name: str
    title: str
    unit: str
    """Of what is counted per second; empty where only what is extra says something."""
    cells: Sequence[Cell]
    log: Literal["fresh", "filled"] = "fresh"


def plan(scale: Scale, file: Path) -> list[Workload]:
    """All of them, in the order in which they are measured. `file` is imported."""
    events = scale.streams * EVENTS_PER_STREAM
    return [
        Workload(
            "W1", "Single events, expected version, one in flight", "events", _appends(scale, 1, 1)
        ),
        Workload(
            "W2",
            "Single events, expected version, many in flight",
            "events",
            _appends(scale, 1, *scale.many),
        ),
        Workload("W3", "100 events an append", "events", _appends(scale, 100, *scale.few)),
        Workload("W4", "1,000 events an append", "events", _appends(scale, 1000, *scale.few)),
        Workload(
            "W5",
            "The whole log, forwards",
            "events",
            [
                _read(scale, "client", "log", "read_log", events),
                Cell("wire", "wire", "read_wire", {"events": events, "seconds": scale.seconds}),
            ],
            "filled",
        ),
        Workload(
            "W6",
            "Loading a stream of 10 events out of many",
            "streams",
            [
                _load(scale, "1 in flight", "load", 1),
                _load(scale, f"{scale.many[0]} in flight", "load", scale.many[0]),
                _load(scale, "16 a read", "load_many", 1, 16),
            ],
            "filled",
        ),
        Workload(
            "W7", "From before the append to the subscriber", "deliveries", _deliveries(scale)
        ),
        Workload("W9", "From the start to the first event", "", [Cell("start", "start", "append")]),
        Workload(
            "W10",
            "Import of a file",
            "events",
            [Cell("import", "imports", "log", {"file": str(file.resolve())})],
        ),
    ]


def filling(streams: int, first: int = 0) -> Cell:
    """What fills a log, or goes on filling it."""
    return Cell("fill", "fill", "append_mixed", {"streams": streams, "first": first})


def _appends(scale: Scale, events: int, *in_flight: int) -> list[Cell]:
    return [
        Cell(
            f"{number} in flight",
            "appends",
            "append",
            {"in_flight": number, "events": events, "seconds": scale.seconds},
        )
        for number in in_flight
    ]


def _read(scale: Scale, name: str, what: str, needs: str, events: int) -> Cell:
    arguments = {"what": what, "events": events, "seconds": scale.seconds}
    return Cell(name, "reads", needs, arguments)


def _load(scale: Scale, name: str, needs: str, in_flight: int, named: int = 1) -> Cell:
    arguments = {"streams": scale.streams, "in_flight": in_flight, "named": named}
    return Cell(name, "loads", needs, arguments | {"seconds": scale.seconds})


def _deliveries(scale: Scale) -> list[Cell]:
    paced = {"subscribers": 1, "events": round(RATE * scale.seconds), "at_once": 1, "rate": RATE}
    return [Cell(f"1 at {RATE}/s", "delivery", "follow", paced)] + [
        Cell(
            f"{number}, burst",
            "delivery",
            "follow",
            {
                "subscribers": number,
                "events": max(AT_ONCE, scale.deliveries // number),
                "at_once": AT_ONCE,
                "rate": None,
            },
        )
        for number in scale.subscribers
    ]
