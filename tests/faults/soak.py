"""Makes trials from the command line: one, or one after the other for minutes.

    make soak MINUTES=60
    make soak ARGS="--database postgresql --servers 2 --seed 7 --seconds 20"
    make soak ARGS="--judge build/faults/postgresql-2-7"

The first makes trials of about a minute, with one seed after the other, says a line after each,
and ends with 1 at the first promise that is broken. The second makes one trial, as it was made
before. The last asks the validators about what was kept of one.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from records import kept
from trial import Kind, Plan, broken, tried

PLANS: Sequence[tuple[Kind, int]] = (
    ("sqlite", 1),
    ("postgresql", 1),
    ("postgresql", 2),
    ("postgresql", 3),
)
TRIAL_SECONDS = 50.0
"""How long things break; to begin and to judge takes some more."""


def soak(seed: int, minutes: float) -> int:
    """Makes trials with one seed after the other."""
    ends = time.monotonic() + 60 * minutes
    done = 0
    while time.monotonic() < ends:
        kind, servers = PLANS[done % len(PLANS)]
        seconds = max(5.0, min(TRIAL_SECONDS, ends - time.monotonic()))
        code = try_one(Plan(kind, servers, seed + done, seconds))
        if code:
            return code
        done += 1
    return 0


def try_one(plan: Plan) -> int:
    """Makes one trial and says what came of it."""
    verdict = asyncio.run(tried(plan))
    say(str(verdict))
    return 1 if verdict.broken else 0


def judge(folder: Path) -> int:
    """Asks the validators about what was kept."""
    found = broken(*kept(folder))
    say("\n".join(f"{name}: {how}" for name, how in found.items()) or "every promise kept")
    return 1 if found else 0


def say(text: str) -> None:
    """Tells whoever waits, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """The program; its exit code."""
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, help="trials for so long")
    parser.add_argument("--judge", type=Path, metavar="FOLDER", help="what was kept")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--seconds", type=float, default=TRIAL_SECONDS)
    options = parser.parse_args()
    if options.judge:
        return judge(options.judge)
    if options.minutes:
        return soak(options.seed, options.minutes)
    return try_one(Plan(options.database, options.servers, options.seed, options.seconds))


if __name__ == "__main__":
    sys.exit(main())
