"""How much is measured: to see that it works, in minutes, or all of it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """The sizes of all workloads."""

    rounds: int
    seconds: float
    """Of each cell that goes on for a while."""
    few: Sequence[int]
    """In flight, of appends of many events."""
    many: Sequence[int]
    """In flight, of single events."""
    streams: int
    """Of ten events, in a filled log."""
    imported: int
    """Events of the generated file."""
    subscribers: Sequence[int]
    """In the bursts."""
    deliveries: int
    """In each burst."""
    growth: Sequence[int]
    """Streams of ten events, where what is measured is how a log's size matters."""


QUICK = Scale(1, 0.1, (2,), (8,), 200, 1_000, (5,), 1_000, (100, 200))
USUAL = Scale(
    3, 1.0, (1, 8), (64, 256), 20_000, 50_000, (50, 200), 100_000, (10_000, 100_000, 1_000_000)
)
FULL = Scale(
    5, 2.0, (1, 8), (64, 256), 20_000, 100_000, (50, 200, 500, 5_000), 400_000, USUAL.growth
)
