"""What a cell measures in its own process: operations, time, latencies, processor time."""

import resource
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

QUANTILES = {"p50": 500, "p90": 900, "p99": 990, "p99.9": 999}
"""In thousandths."""


class Meter:
    """Counts what is done while it is measuring."""

    def __init__(self) -> None:
        self.operations = 0
        self.latencies: list[float] = []
        """Seconds of each call, where calls are measured one by one."""
        self.extra: dict[str, float] = {}
        """What else there is to say, by its name and unit."""
        self._seconds = 0.0
        self._cpu = 0.0

    @contextmanager
    def measuring(self) -> Iterator[float]:
        """What is done inside counts. Gives when it began."""
        _say("begin")
        cpu = _cpu()
        began = time.perf_counter()
        yield began
        self._seconds = time.perf_counter() - began
        self._cpu = _cpu() - cpu
        _say("end")

    def result(self) -> dict[str, object]:
        """All of it, for JSON."""
        return {
            "operations": self.operations,
            "seconds": self._seconds,
            "client_cpu": self._cpu,
            "quantiles": _quantiles(self.latencies),
            "extra": self.extra,
        }


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """In milliseconds; nothing for less than two."""
    if len(seconds) < 2:
        return {}
    thousandths = statistics.quantiles(seconds, n=1000, method="inclusive")
    found = {name: thousandths[place - 1] * 1000 for name, place in QUANTILES.items()}
    return found | {"max": max(seconds) * 1000}


def _cpu() -> float:
    """Of this process, and of what it has started and seen to its end."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _say(word: str) -> None:
    """Says it and waits until it is answered."""
    print(word, flush=True)
    sys.stdin.readline()
