"""Callers of every kind, and everything that breaks around them: what happened is written down,
and every promise held.

`FAULT_LONG=1` makes more and longer trials, `FAULT_SEED` chooses others, `FAULT_FOLDER` is where
the history, the log and the servers' lines are kept if a validator speaks.
"""

import os

import pytest

from databases import PostgresServer
from grounds import SETTINGS, missing
from runs import LONG, SEED, count
from trial import Plan, tried

SECONDS = float(os.environ.get("FAULT_SECONDS", "50" if LONG else "6"))
TIMES = {"plain": 2, "standby": 2, "defaults": 2, "clocks": 1, "pooler": 1, "full-disk": 1}
"""How often in the long form; twice as often on SQLite, of which there are fewer."""
TRIALS = [
    (kind, servers, setting, 1_000 * SEED + n)
    for kind, servers, setting in SETTINGS
    for n in range(TIMES[setting] * (2 if kind == "sqlite" else 1) if LONG else 1)
    if LONG or servers < 3
]


@pytest.fixture(scope="module")
def breakable_postgres():
    with PostgresServer() as server:
        yield server


@pytest.mark.timeout(240 + 3 * SECONDS)
@pytest.mark.parametrize(("kind", "servers", "setting", "seed"), TRIALS)
async def test_every_promise_holds_while_things_break(
    request, record_property, kind, servers, setting, seed
):
    if why := missing(setting):
        pytest.skip(why)
    postgres = request.getfixturevalue("breakable_postgres") if kind == "postgresql" else None
    verdict = await tried(Plan(kind, servers, seed, SECONDS, setting), postgres)
    record_property("verdict", verdict)
    assert not verdict.broken, str(verdict)
    # A trial in which little happened says little.
    assert verdict.faults.total() >= SECONDS / 4, str(verdict)
    assert verdict.calls["done"] >= SECONDS, str(verdict)
    assert verdict.calls["refused"] > 0, str(verdict)
    count(
        {f"{kind}: {fault}": number for fault, number in verdict.faults.items()}
        | {"histories judged": 1, "calls in histories": verdict.calls.total()}
    )
