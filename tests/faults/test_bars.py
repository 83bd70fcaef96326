"""What was done is added up, and held against what is wanted."""

import runs
from bars import BARS, table


def test_what_runs_have_come_to(tmp_path, monkeypatch):
    counts = tmp_path / "counts"
    monkeypatch.setenv("FAULT_COUNTS", str(counts))
    for seed, number in ((1, 150), (2, 60)):
        monkeypatch.setattr(runs, "SEED", seed)
        runs.count({"sqlite: server killed": number - 1})
        runs.count({"sqlite: server killed": 1, "sqlite: server killed after lock": 7})
    lines = table(runs.counted(counts)).splitlines()
    assert len(lines) == 1 + len(BARS)
    [kills] = [line.split() for line in lines if line.startswith("server kills, sqlite")]
    assert kills == ["server", "kills,", "sqlite", "150", "60", "210", "200", "reached"]
    [others] = [line.split() for line in lines if line.startswith("server kills, postgresql")]
    assert others[-5:] == ["0", "0", "200", "not", "yet"]
