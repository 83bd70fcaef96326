"""What was measured is judged: a log that is not whole, a target, a cell that became slower."""

import json
from pathlib import Path

import pytest

import baseline
from checks import BrokenPromise
from contestants.contestant import Stored
from results import Results
from session import Measured
from targets import targets
from workloads.content import check_stored, new_event

STREAMS = [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
LOG = [
    Stored(position, version, new_event(stream, version).data)
    for position, (stream, version) in enumerate(STREAMS, start=1)
]
ACKNOWLEDGED = {"a": 2, "b": 2}


def test_a_whole_log_passes() -> None:
    check_stored(LOG, ACKNOWLEDGED)


@pytest.mark.parametrize(
    "log",
    [
        LOG[:-1],
        [*LOG, LOG[-1]._replace(position=5)],
        [LOG[1], LOG[0], *LOG[2:]],
        [*LOG[:2], LOG[2]._replace(position=4), LOG[3]._replace(position=3)],
        [LOG[0]._replace(version=2), *LOG[1:]],
        LOG[1:],
    ],
    ids=["lost", "twice", "moved", "disordered", "numbered wrongly", "lost first"],
)
def test_any_other_fails(log: list[Stored]) -> None:
    with pytest.raises(BrokenPromise):
        check_stored(log, ACKNOWLEDGED)


def measured(rate: float, cpu: float) -> Measured:
    return Measured(1_000, 1_000 / rate, cpu / 1_000, 0, 0, {}, {})


def results(ours: Measured, floor: Measured, peer: Measured) -> Results:
    found = Results()
    found.of("W1", "1 in flight", "treering-sqlite", "treering").rounds.append(ours)
    found.of("W1", "1 in flight", "grpc-held", "floor").rounds.append(floor)
    found.of("W1", "1 in flight", "umadb", "peer").rounds.append(peer)
    return found


def test_a_target_is_a_ratio_to_the_rival() -> None:
    floor = measured(5_000, 100)
    met = targets(results(measured(1_300, 100), floor, measured(1_000, 100)))
    not_met = targets(results(measured(1_100, 100), floor, measured(1_000, 100)))
    assert "| 1.3 | " in " ".join(met.split())
    assert "not met" not in met
    assert "not met" in not_met


def test_slower_is_what_the_floors_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "PATH", tmp_path / "baseline.json")
    peer = measured(1_000, 100)
    baseline.store(results(measured(1_000, 200), measured(5_000, 100), peer))
    assert len(json.loads((tmp_path / "baseline.json").read_text())) == 2

    # The machine is half as fast.
    same = results(measured(500, 400), measured(2_500, 200), peer)
    assert baseline.compare(same).startswith("0 of 1 ")
    slower = results(measured(500, 600), measured(2_500, 200), peer)
    assert "1.50 times" in baseline.compare(slower)
