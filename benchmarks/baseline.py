"""Whether Treering has become slower since a run that was stored.

What is compared is the processor time of an operation, of client, server and database together,
since other work on the machine moves it less than it moves rates. And it is compared with that
of the floors in the same run: the median of how much more or less they took than when the
baseline was stored is what the machine has changed, and is taken out.
"""

import json
import statistics
from pathlib import Path

from results import Result, Results

PATH = Path(__file__).resolve().parent / "baseline.json"
SLOWER = 1.25
"""From this on it is told: less is noise, as rounds of one cell differ by as much."""


def store(results: Results) -> None:
    """Keeps the processor times of this run, of Treering and of the floors."""
    kept = {
        _key(each): round(each.cpu, 3)
        for each in results.all
        if each.kind != "peer" and _counts(each)
    }
    PATH.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def compare(results: Results) -> str:
    """What has become slower, in words."""
    if not PATH.exists():
        return "No baseline is stored: --store-baseline does."
    stored: dict[str, float] = json.loads(PATH.read_text(encoding="utf-8"))
    both = [each for each in results.all if _key(each) in stored and _counts(each)]
    times = {_key(each): each.cpu / stored[_key(each)] for each in both}
    floors = [times[_key(each)] for each in both if each.kind == "floor"]
    if not floors:
        return "Nothing to compare with the baseline: no floor was measured that it knows."
    machine = statistics.median(floors)
    ours = [each for each in both if each.kind == "treering"]
    slower = [
        f"- {_key(each)}: {times[_key(each)] / machine:.2f} times the CPU of the baseline"
        for each in ours
        if times[_key(each)] / machine > SLOWER
    ]
    head = (
        f"{len(slower)} of {len(ours)} cells take more than {SLOWER} times the CPU of the baseline "
        f"(the floors, whose times are taken out: {machine:.2f})."
    )
    return "\n".join([head, *slower])


def _key(result: Result) -> str:
    return f"{result.workload}, {result.cell}: {result.contestant}"


def _counts(result: Result) -> bool:
    """Whether it was measured, and has taken any time that could be seen."""
    return bool(result.rounds) and result.cpu > 0
