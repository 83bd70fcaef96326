"""The workloads, and the cells of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from scale import Scale
from workloads.fill import EVENTS_PER_STREAM, rare_by_category, rare_by_type

RATE = 200
"""Appends per second where it is the latency that is measured."""
AT_ONCE = 100
"""Events in an append of a burst."""
NAMED = 16
"""Streams in a read of several."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What one process measures; or, with no program, what is seen from outside."""

    name: str
    program: str
    """Module in workloads/, or `size`."""
    needs: str
    """The method that a contestant must have."""
    arguments: Mapping[str, object] = field(default_factory=dict)
    streams: int = 0
    """Of ten events, that the log has before."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Cells that are measured on one log, one after the other."""

    name: str
    title: str
    unit: str
    """Of what is counted per second; empty where only what is extra says something."""
    cells: Sequence[Cell]
    log: Literal["fresh", "kept"] = "fresh"
    """Whether it begins with an empty log, or with one that is kept for the run."""
    usual: bool = True
    """Whether it is measured without being named."""


def plan(scale: Scale, file: Path) -> list[Workload]:
    """All of them, in the order in which they are measured. `file` is imported."""
    single = "Single events, expected version"
    return [
        Workload("W1", f"{single}, one in flight", "events", _appends(scale, 1, 1)),
        Workload("W2", f"{single}, many in flight", "events", _appends(scale, 1, *scale.many)),
        Workload("W3", "100 events an append", "events", _appends(scale, 100, *scale.few)),
        Workload("W4", "1,000 events an append", "events", _appends(scale, 1000, *scale.few)),
        Workload("W5", "The whole log, forwards", "events", _log(scale), "kept"),
        Workload("W6", "Streams of 10 events out of many", "streams", _loads(scale), "kept"),
        Workload("W7", "From before the append to the subscriber", "deliveries", _bursts(scale)),
        Workload("W8", "On disk", "", [Cell("size", "size", "log", streams=scale.streams)], "kept"),
        Workload("W9", "From the start to the first event", "", [Cell("start", "start", "append")]),
        Workload(
            "W10",
            "Import of a file",
            "events",
            [Cell("import", "imports", "append_mixed", {"file": str(file.resolve())})],
        ),
        Workload("W11", "With a condition on type and tags", "events", _conditions(scale)),
        Workload("W12", "Queries that match 1 event in 1,000", "events", _queries(scale), "kept"),
        Workload("W13", "Appends amid reads and subscribers", "events", [_mixed(scale)]),
        Workload("W14", "As the log grows", "operations", _growth(scale), usual=False),
    ]


def filling(first: int, streams: int) -> Cell:
    """What fills a log, or goes on filling it."""
    return Cell("fill", "fill", "append_mixed", {"first": first, "streams": streams})


def _appends(scale: Scale, events: int, *in_flight: int) -> list[Cell]:
    return [_append(scale, f"{number} in flight", events, number) for number in in_flight]


def _append(scale: Scale, name: str, events: int, in_flight: int) -> Cell:
    arguments = {"in_flight": in_flight, "events": events, "seconds": scale.seconds}
    return Cell(name, "appends", "append", arguments)


def _log(scale: Scale) -> list[Cell]:
    events = scale.streams * EVENTS_PER_STREAM
    wire = {"events": events, "seconds": scale.seconds}
    return [
        _read(scale, "client", "log", events),
        Cell("wire", "wire", "read_wire", wire, scale.streams),
    ]


def _queries(scale: Scale) -> list[Cell]:
    return [
        _read(scale, "type", "type", rare_by_type(scale.streams)),
        _read(scale, "category", "category", rare_by_category(scale.streams)),
    ]


def _read(scale: Scale, name: str, what: str, events: int) -> Cell:
    arguments = {"what": what, "events": events, "seconds": scale.seconds}
    return Cell(name, "reads", f"read_{what}", arguments, scale.streams)


def _loads(scale: Scale) -> list[Cell]:
    many = scale.many[0]
    return [
        _load(scale, "1 in flight", "load", scale.streams, in_flight=1),
        _load(scale, f"{many} in flight", "load", scale.streams, in_flight=many),
        _load(scale, f"{NAMED} a read", "load_many", scale.streams, in_flight=1, named=NAMED),
    ]


def _load(
    scale: Scale, name: str, needs: str, streams: int, *, in_flight: int, named: int = 1
) -> Cell:
    arguments = {"streams": streams, "in_flight": in_flight, "named": named}
    return Cell(name, "loads", needs, arguments | {"seconds": scale.seconds}, streams)


def _bursts(scale: Scale) -> list[Cell]:
    return [
        _delivery(f"1 at {RATE}/s", 1, round(RATE * scale.seconds), 1, RATE),
        *(
            _delivery(f"{number}, burst", number, max(AT_ONCE, scale.deliveries // number))
            for number in scale.subscribers
        ),
    ]


def _delivery(
    name: str, subscribers: int, events: int, at_once: int = AT_ONCE, rate: int | None = None
) -> Cell:
    arguments = {"subscribers": subscribers, "events": events, "at_once": at_once, "rate": rate}
    return Cell(name, "delivery", "follow", arguments)


def _conditions(scale: Scale) -> list[Cell]:
    many = scale.many[0]
    return [
        Cell(
            f"{words}, {many} in flight",
            "conditions",
            "append_if_none",
            {"in_flight": many, "tags": tags, "seconds": scale.seconds},
        )
        for words, tags in (("one tag", 1), ("two tags", 2))
    ]


def _mixed(scale: Scale) -> Cell:
    subscribers = scale.subscribers[0]
    arguments = {"writers": 8, "readers": 8, "subscribers": subscribers, "seconds": scale.seconds}
    return Cell(f"8 writers, 8 readers, {subscribers} subscribers", "mixed", "follow", arguments)


def _growth(scale: Scale) -> list[Cell]:
    return [
        replace(cell, name=f"{streams * EVENTS_PER_STREAM:,} events: {cell.name}", streams=streams)
        for streams in scale.growth
        for cell in (
            _grown(_append(scale, "single events, 1 in flight", 1, 1), streams),
            _grown(_append(scale, "single events, 64 in flight", 1, 64), streams),
            _grown(_append(scale, "100 an append", 100, 1), streams),
            _load(scale, "loads, 1 in flight", "load", streams, in_flight=1),
        )
    ]


def _grown(cell: Cell, streams: int) -> Cell:
    # Streams of its own at each size.
    return replace(cell, arguments={**cell.arguments, "prefix": f"grown-{streams}"})
