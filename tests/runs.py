"""What a run of tests is: how long, by which choices, and what it has done of what the bars ask.

`FAULT_LONG=1` makes it long, `FAULT_SEED` chooses; `make faults` sets both. `faults/bars.py`
adds up what was counted.
"""

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

LONG = os.environ.get("FAULT_LONG") == "1"
SEED = int(os.environ.get("FAULT_SEED", "1"))


def count(numbers: Mapping[str, int]) -> None:
    """Notes that so much more was done, in the file that `FAULT_COUNTS` names, if it names one."""
    path = os.environ.get("FAULT_COUNTS")
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"seed": SEED, "counts": dict(numbers)}) + "\n")


def counted(path: Path) -> dict[int, dict[str, int]]:
    """The sums of what was noted there, by seed."""
    sums: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for line in path.read_text(encoding="utf-8").splitlines():
        noted = json.loads(line)
        for name, number in noted["counts"].items():
            sums[noted["seed"]][name] += number
    return sums
