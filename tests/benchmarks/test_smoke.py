"""The measuring program runs, and finds what it measured complete and in order."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# They need no package of the peers.
CONTESTANTS = ("treering-sqlite", "raw-sqlite")
# One for each program that measures.
WORKLOADS = ("W2", "W5", "W6", "W7", "W8", "W9", "W10", "W11", "W13")


def test_a_quick_run_measures_and_checks(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--json", str(results)]
    for contestant in CONTESTANTS:
        command += ["--contestant", contestant]
    for workload in WORKLOADS:
        command += ["--workload", workload]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert ended.returncode == 0, ended.stderr
    assert "What failed" not in ended.stdout, ended.stderr

    # As of two runs: the tables of the documentation.
    page = [sys.executable, "benchmarks/page.py", str(results), str(results)]
    tables = subprocess.run(page, cwd=ROOT, capture_output=True, text=True, check=True, timeout=100)
    for title in ("whole log, as the client", "bytes on the disk", "import of a file"):
        assert title in tables.stdout
    assert "| Treering, SQLite         |                   1 |          1 |" in tables.stdout


def test_the_budget_is_measured_on_both_databases() -> None:
    command = [sys.executable, "benchmarks/budget.py", "100"]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
    )
    assert ended.returncode == 0, ended.stderr
    rows = [line for line in ended.stdout.splitlines() if line.startswith("| all ")]
    assert [row.count("|") for row in rows] == [10, 8]
