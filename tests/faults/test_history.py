"""Callers of every kind, servers killed, frozen and cut off, and a database that goes away: what
happened is written down, and every promise held.

`FAULT_SECONDS` says for how long things break in each trial, `FAULT_SEEDS` which choices are
made (`1,2,3`), `FAULT_FOLDER` where the history, the log and the servers' lines are kept if a
validator speaks. `make faults` lets it go on for long.
"""

import os
import sys

import pytest

from databases import PostgresServer
from trial import Plan, tried

SECONDS = float(os.environ.get("FAULT_SECONDS", "6"))
SEEDS = [int(seed) for seed in os.environ.get("FAULT_SEEDS", "1").split(",")]
SETTINGS = [("sqlite", 1), ("postgresql", 1), ("postgresql", 2)]
if SECONDS > 10:
    SETTINGS.append(("postgresql", 3))


@pytest.fixture(scope="module")
def breakable_postgres():
    with PostgresServer() as server:
        yield server


@pytest.mark.timeout(240 + 3 * SECONDS)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("kind", "servers"), SETTINGS)
async def test_every_promise_holds_while_things_break(request, kind, servers, seed):
    postgres = request.getfixturevalue("breakable_postgres") if kind == "postgresql" else None
    verdict = await tried(Plan(kind, servers, seed, SECONDS), postgres)
    assert not verdict.broken, str(verdict)
    # A trial in which little happened says little.
    assert verdict.faults.total() >= SECONDS / 3, str(verdict)
    assert verdict.calls["done"] >= 5 * SECONDS, str(verdict)
    assert verdict.calls["refused"] > 0, str(verdict)
    sys.stdout.write(f"{verdict}\n")
