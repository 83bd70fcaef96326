"""The measuring program runs, and finds what it measured complete and in order."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_quick_run_measures_and_checks(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    command = ["-m", "benchmarks", "--quick", "--database", "sqlite", "--json", str(results)]
    ended = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert ended.returncode == 0, ended.stderr
    assert results.stat().st_size > 0
