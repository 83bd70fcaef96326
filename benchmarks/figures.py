"""What is measured, as numbers with names."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One number out of one round."""

    measure: str
    """What was done: `import`."""
    name: str
    """What of it: `rate`."""
    unit: str
    value: float


def latencies(measure: str, seconds: Sequence[float]) -> list[Figure]:
    """The usual time and the time of the slowest hundredth."""
    hundredths = statistics.quantiles(seconds, n=100, method="inclusive")
    return [
        Figure(measure, "p50", "ms", hundredths[49] * 1000),
        Figure(measure, "p99", "ms", hundredths[98] * 1000),
    ]
