"""What came out of all rounds, cell by cell."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from contestants.contestant import Kind
from session import Measured

MICROSECONDS = 1e6


@dataclass(slots=True)
class Result:
    """A contestant's rounds of one cell."""

    workload: str
    cell: str
    contestant: str
    kind: Kind
    rounds: list[Measured] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """Of rounds that it failed."""

    @property
    def rates(self) -> Sequence[float]:
        """Of each round, per second."""
        return [each.operations / each.seconds for each in self.rounds]

    @property
    def rate(self) -> float:
        """The median."""
        return statistics.median(self.rates)

    @property
    def cpu(self) -> float:
        """Microseconds for each operation, all processes together; the median."""
        return self.server_cpu + self.client_cpu + self.database_cpu

    @property
    def server_cpu(self) -> float:
        """Microseconds for each operation."""
        return self._per_operation(lambda each: each.server_cpu)

    @property
    def client_cpu(self) -> float:
        """Microseconds for each operation."""
        return self._per_operation(lambda each: each.client_cpu)

    @property
    def database_cpu(self) -> float:
        """Microseconds for each operation."""
        return self._per_operation(lambda each: each.database_cpu)

    def quantile(self, name: str) -> float | None:
        """Median of a latency, in ms; None if none was measured."""
        found = [each.quantiles[name] for each in self.rounds if name in each.quantiles]
        return statistics.median(found) if found else None

    @property
    def extra(self) -> dict[str, float]:
        """Medians of what else was measured."""
        names = {name: None for each in self.rounds for name in each.extra}
        return {
            name: statistics.median(
                [each.extra[name] for each in self.rounds if name in each.extra]
            )
            for name in names
        }

    def _per_operation(self, seconds: Callable[[Measured], float]) -> float:
        return MICROSECONDS * statistics.median(
            [seconds(each) / each.operations for each in self.rounds]
        )


class Results:
    """All of them."""

    def __init__(self) -> None:
        self._all: dict[tuple[str, str, str], Result] = {}

    def of(self, workload: str, cell: str, contestant: str, kind: Kind) -> Result:
        """The one of a cell, maybe still without rounds."""
        key = (workload, cell, contestant)
        return self._all.setdefault(key, Result(workload, cell, contestant, kind))

    def find(self, workload: str, cell: str, contestant: str) -> Result | None:
        """The one of a cell, if there are rounds."""
        found = self._all.get((workload, cell, contestant))
        return found if found and found.rounds else None

    @property
    def all(self) -> Sequence[Result]:
        """In the order in which they were measured first."""
        return list(self._all.values())
