"""Where the programs of a contestant are: with ours, or made by `make peers`."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from contestants.contestant import Contestant

HERE = Path(__file__).resolve().parent
PEERS = HERE.parent / "build" / "peers"
PROGRAMS = {"own": Path(sys.executable).parent, "peers": PEERS / "bin", "node": PEERS / "bin"}


def programs(contestant: type[Contestant]) -> Path:
    """Where its server's programs are, and its Python."""
    return PROGRAMS[contestant.tools]


def client(contestant: type[Contestant]) -> Sequence[str | Path]:
    """The command that measures one cell."""
    if contestant.tools == "node":
        return ("node", HERE / "contestants" / f"{contestant.name}.mjs")
    return (programs(contestant) / "python", HERE / "cell.py")


def missing(contestant: type[Contestant]) -> str:
    """What is not there that it needs; empty if all is there."""
    if contestant.tools == "own":
        return ""
    if not (PEERS / ".made").exists():
        return "its packages are not there: `make peers`"
    if contestant.tools == "node":
        if shutil.which("node") is None:
            return "there is no node"
        if not (PEERS / "node_modules" / "@event-driven-io").exists():
            return "its packages are not there: `make peers`, with npm"
    return ""
