"""Makes trials from the command line: one after the other for minutes, or one.

    make soak MINUTES=60
    make soak ARGS="--database postgresql --servers 2 --setting pooler --seed 7 --seconds 20"
    make soak ARGS="--judge build/faults/postgresql-2-pooler-7"

The first goes through all settings, with a new seed each time, says a line a minute, and ends
with 1 at the first promise that is broken. The second makes one trial, as it was made before.
The last asks the validators about what was kept of one.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import get_args

from grounds import SETTINGS, Setting, missing
from records import kept
from trial import Plan, Verdict, broken, tried

MINUTE = 60.0
SPARE_SECONDS = 12.0
"""What a trial takes to begin, and to judge."""


def soak(seed: int, minutes: float) -> int:
    """Makes trials with one seed after the other, one a minute."""
    ends = time.monotonic() + MINUTE * minutes
    faults: Counter[str] = Counter()
    for setting in {setting for _, _, setting in SETTINGS}:
        if why := missing(setting):
            say(f"without the setting {setting!r}: {why}")
    settings = [each for each in SETTINGS if not missing(each[2])]
    done = 0
    while (left := ends - time.monotonic()) > 0:
        kind, servers, setting = settings[done % len(settings)]
        seconds = max(5.0, min(MINUTE, left) - SPARE_SECONDS)
        verdict = asyncio.run(tried(Plan(kind, servers, seed + done, seconds, setting)))
        if verdict.broken:
            say(str(verdict))
            return 1
        done += 1
        faults += verdict.faults
        say(line(done, verdict))
    say(f"{done} trials, every promise kept; faults: {in_words(faults)}")
    return 0


def line(number: int, verdict: Verdict) -> str:
    """What a minute came to."""
    calls, seconds = verdict.calls, max(verdict.seconds, 1)
    return (
        f"{number:>4} {verdict.plan.name}: {verdict.events / seconds:.0f} events/s, "
        f"{calls.total() / seconds:.0f} calls/s, {verdict.faults.total()} faults "
        f"({in_words(verdict.faults)}), 0 violations"
    )


def in_words(counts: Counter[str]) -> str:
    """Numbers and what they are of, most first."""
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


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
    parser.add_argument("--setting", choices=get_args(Setting), default="plain")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--seconds", type=float, default=MINUTE - SPARE_SECONDS)
    options = parser.parse_args()
    if options.judge:
        return judge(options.judge)
    if options.minutes:
        return soak(options.seed, options.minutes)
    plan = Plan(options.database, options.servers, options.seed, options.seconds, options.setting)
    return try_one(plan)


if __name__ == "__main__":
    sys.exit(main())
