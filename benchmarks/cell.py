"""Measures one cell: `python cell.py`, a process of its own for each.

Reads an order from standard input, a line of JSON, and writes the result as the last line of
standard output. In between it says `begin` and `end`, and goes on when it is answered: so the
program that started it knows when to look at what servers have used.
"""

import json
import sys
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent
# What a log must be is said where the tests say it.
sys.path.append(str(HERE.parent / "tests"))

from contestants.contestant import Place  # noqa: E402
from contestants.entrants import find  # noqa: E402
from meter import Meter  # noqa: E402


def main() -> None:
    """Measures what is ordered."""
    order = json.loads(sys.stdin.readline())
    where = order["place"]
    contestant = find(order["contestant"])
    client = contestant(Place(Path(where["directory"]), where["port"], where["database"]))
    program = import_module(f"workloads.{order['program']}")
    meter = Meter()
    contestant.concurrency.run(program.measure(client, meter, **order["arguments"]))
    print(json.dumps(meter.result()), flush=True)


if __name__ == "__main__":
    main()
