"""Makes the blocking client, and its tests, from the asynchronous ones.

    python tools/sync_client.py          writes what is out of date
    python tools/sync_client.py --check  names what is out of date, and fails if anything is

Names are replaced token by token, never by a pattern over the text of the program; docstrings
and comments speak of both clients, so the same names are replaced in them as whole words. Then
ruff formats. What can't be had that way is in io.py and appender.py, which both clients have
and which are written by hand.
"""

import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

NAMES = {
    "AsyncClient": "Client",
    "AsyncReading": "Reading",
    "AsyncSubscription": "Subscription",
    "AsyncIterator": "Iterator",
    "StopAsyncIteration": "StopIteration",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "aiter": "iter",
    "anext": "next",
    "_async": "_sync",
    "waiting_async": "waiting_sync",
}
"""What is called otherwise in the blocking client."""

FIXES = ("--select=I,SIM117,C416,RUF100", "--fix", "--unsafe-fixes", "--exit-zero")
"""What ruff puts right where `async with` became `with` and the like."""

DROPPED = {"async", "await"}
"""What has no counterpart."""

HEADER = """\
# Made by tools/sync_client.py from {source}.
# Change that one, and run `python tools/sync_client.py`.

"""


CLIENT = ("client.py", "connection.py", "reading.py", "subscription.py")


def pairs() -> list[tuple[Path, Path]]:
    """Each file that something is made from, with what is made."""
    client, tests = ROOT / "client/treering", ROOT / "tests/client"
    return [(client / "_async" / name, client / "_sync" / name) for name in CLIENT] + [
        (source, source.with_name(source.name.replace("_async_", "_sync_")))
        for source in sorted(tests.glob("test_async_*.py"))
    ]


def orphans() -> list[Path]:
    """Tests that were made from something that is no more."""
    made = {target for _, target in pairs()}
    return [each for each in (ROOT / "tests/client").glob("test_sync_*.py") if each not in made]


def to_sync(text: str) -> str:
    """The program without its `async` and `await`, and with the blocking client's names."""
    # From back to front, so that places in the text stay what they are.
    lines = text.splitlines(keepends=True)
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    for token in reversed(tokens):
        (row, start), (end_row, end) = token.start, token.end
        if token.type == tokenize.NAME:
            line = lines[row - 1]
            if token.string in DROPPED:
                rest = line[end:].removeprefix(" ")
                lines[row - 1] = line[:start] + rest
            elif token.string in NAMES:
                lines[row - 1] = line[:start] + NAMES[token.string] + line[end:]
        elif token.type in (tokenize.STRING, tokenize.COMMENT):
            first, last = lines[row - 1], lines[end_row - 1]
            lines[row - 1 : end_row] = [first[:start] + _prose_to_sync(token.string) + last[end:]]
            # A string over several lines is one entry now; keep the numbering.
            lines[row:row] = [""] * (end_row - row)
    return "".join(lines)


def _prose_to_sync(prose: str) -> str:
    prose = re.sub(r"\b(?:async|await) (?=[a-z_(])", "", prose)
    words = "|".join(map(re.escape, NAMES))
    return re.sub(rf"(?<![\w])(?:{words})(?!\w)", lambda match: NAMES[match.group()], prose)


def made_from(source: Path, target: Path) -> str:
    """What the target has to be."""
    header = HEADER.format(source=source.relative_to(ROOT).as_posix())
    text = header + to_sync(source.read_text(encoding="utf-8"))
    for command in (["check", *FIXES, "--quiet"], ["format", "--quiet"]):
        text = subprocess.run(
            [sys.executable, "-m", "ruff", *command, f"--stdin-filename={target}", "-"],
            input=text,
            capture_output=True,
            check=True,
            cwd=ROOT,
            encoding="utf-8",
        ).stdout
    return text


def main(arguments: list[str]) -> int:
    """Writes or checks; answers the exit code."""
    check = arguments == ["--check"]
    if arguments and not check:
        print(__doc__, file=sys.stderr)
        return 2
    stale = []
    for source, target in pairs():
        text = made_from(source, target)
        if target.exists() and target.read_text(encoding="utf-8") == text:
            continue
        stale.append(target)
        if not check:
            target.write_text(text, encoding="utf-8")
    for orphan in orphans():
        stale.append(orphan)
        if not check:
            orphan.unlink()
    for path in stale:
        said = "is not what its source makes of it" if check else "brought up to date"
        print(f"{path.relative_to(ROOT).as_posix()}: {said}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
