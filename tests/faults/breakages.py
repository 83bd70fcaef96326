"""Breaks the server on purpose, in a copy, and says which validator noticed.

    make breakages
    make breakages ARGS="--only 'a hole at the seam' --trials 5"

A harness that never speaks is worth nothing. Each breakage here is a small change of the
server that breaks a promise; trials go on with one seed after the other until a validator
speaks. Ends with 1 if one went unnoticed, or can't be made any more since the server's code has
changed.
"""

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from grounds import Kind
from trial import Plan, tried

SERVER = Path(__file__).resolve().parents[2] / "server"


@dataclass(frozen=True)
class Breakage:
    """One change of the server's code."""

    name: str
    file: str
    was: str
    becomes: str
    kind: Kind = "sqlite"
    servers: int = 1


BREAKAGES = [
    Breakage(
        "acknowledged before the commit",
        "core/writer.py",
        """                    reached("before_commit")
""",
        """                    early = zip((each.answer for each in batch), outcomes, strict=True)
                    self._loop.call_soon_threadsafe(self._deliver, list(early), None)
                    reached("before_commit")
""",
    ),
    Breakage(
        "the head read before the lock",
        "storage/postgresql.py",
        """
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SELECT
""",
        """
BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE;
SELECT 1 FROM log;
SELECT
""",
        "postgresql",
        2,
    ),
    Breakage(
        "the lock shared",
        "storage/postgresql.py",
        "  pg_advisory_xact_lock({key})\n",
        "  pg_advisory_xact_lock_shared({key})\n",
        "postgresql",
        2,
    ),
    Breakage(
        "the look-up of ids skipped",
        "core/writer.py",
        "transaction.state(streams, ids)",
        "transaction.state(streams, ())",
    ),
    Breakage(
        "expectations not checked",
        "core/decide.py",
        "if part.expectation is not None and not part.expectation.holds(version):",
        "if part.expectation is None and version < 0:",
    ),
    Breakage(
        "conditions not decided on what came last",
        "core/decide.py",
        "        if match is not None:\n            raise ConditionFailed(match, index)\n",
        "",
    ),
    Breakage(
        "a hole at the seam of history and live",
        "core/subscription.py",
        "self._position = until if last else page.looked_to",
        "self._position = max(until, self._feed.head) if last else page.looked_to",
    ),
    Breakage(
        "a heartbeat ahead of what was sent",
        "core/subscription.py",
        "return Heartbeat(self._position, await self._event_id())",
        "return Heartbeat(self._feed.head, None)",
    ),
    Breakage(
        "events sent twice after falling out of the ring",
        "core/subscription.py",
        "            except FellOut:\n                return\n",
        "            except FellOut:\n                self._position = max(0, self._position - 1)\n"
        "                return\n",
    ),
    Breakage(
        "commits that are not durable",
        "storage/postgresql.py",
        "    CASE WHEN current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')\n"
        "    THEN 'on' ELSE current_setting('synchronous_commit') END, true),\n",
        "    'off', true),\n",
        "postgresql",
    ),
    Breakage(
        "an append recorded in part",
        "core/writer.py",
        "transaction.insert(state.records)",
        "transaction.insert(state.records[:-1] or state.records)",
    ),
    Breakage(
        "reads of an old state",
        "core/reader.py",
        "        head = head or self._storage.head()\n",
        "        old, self._old = getattr(self, '_old', None), self._storage.head()\n"
        "        head = head or old or self._old\n",
    ),
    Breakage(
        "an unknown commit told as none",
        "core/writer.py",
        "            except (StorageUnavailable, CommitUnknown) as error:\n",
        "            except CommitUnknown as error:\n"
        "                for each in batch:\n"
        "                    each.attempted = False\n"
        "                self._give_up(batch, StorageUnavailable(str(error)))\n"
        "                return\n"
        "            except StorageUnavailable as error:\n",
        "postgresql",
    ),
    Breakage(
        "a repeat told as new",
        "core/decide.py",
        "        duplicate=True,\n",
        "        duplicate=False,\n",
    ),
    Breakage(
        "a removal that is not recorded",
        "storage/changes.py",
        "                floor_version=floor_version,\n",
        "                floor_version=max(0, floor_version - 1),\n",
    ),
]


async def noticed(breakage: Breakage, seeds: range, seconds: float) -> str:
    """Which promises were seen broken, and how; empty if none was."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "server"
        shutil.copytree(SERVER, copy, ignore=shutil.ignore_patterns("__pycache__"))
        file = copy / "treering_server" / breakage.file
        code = file.read_text(encoding="utf-8")
        if code.count(breakage.was) != 1:
            return ""
        file.write_text(code.replace(breakage.was, breakage.becomes), encoding="utf-8")
        # The servers that are started from now on.
        os.environ["PYTHONPATH"] = str(copy)
        os.environ["FAULT_FOLDER"] = str(Path(folder) / "kept")
        for seed in seeds:
            verdict = await tried(Plan(breakage.kind, breakage.servers, seed, seconds))
            if verdict.broken:
                how = (f"{name}: {text.splitlines()[-1]}" for name, text in verdict.broken.items())
                return f"seed {seed}: " + "; ".join(how)
    return ""


def main() -> int:
    """The program; its exit code."""
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="TEXT", default="", help="whose name has it in it")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    code = 0
    for breakage in BREAKAGES:
        if options.only not in breakage.name:
            continue
        try:
            how = asyncio.run(noticed(breakage, range(1, options.trials + 1), options.seconds))
        except AssertionError as error:
            how = f"it did not even start: {str(error).splitlines()[0]}"
        sys.stdout.write(f"{breakage.name}: {how or 'NOT NOTICED'}\n")
        sys.stdout.flush()
        code = code or (0 if how else 1)
    return code


if __name__ == "__main__":
    sys.exit(main())
