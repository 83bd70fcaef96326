"""The results for programs: every value of every round, with what is needed to judge them."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from contestants.contestant import Contestant
from machine import commit, machine
from results import Results
from scale import Scale


def write_record(
    path: Path, scale: Scale, contestants: Sequence[type[Contestant]], results: Results
) -> None:
    """Writes them as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "treering": version("treering"),
        "commit": commit(),
        "machine": machine(),
        "scale": asdict(scale),
        "contestants": {each.name: each.durable for each in contestants},
        "results": [asdict(each) for each in results.all],
    }
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
