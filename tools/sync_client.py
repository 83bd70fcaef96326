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
from dataclasses import dataclass
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
}
"""What is called otherwise in the blocking client."""

DROPPED = {"async", "await"}
"""What has no counterpart."""

HEADER = """\
# Made by tools/sync_client.py from {source}.
# Change that one, and run `python tools/sync_client.py`.

"""


@dataclass(frozen=True)
class Folder:
    """Where files are made from, and to."""

    source: str
    target: str
    names: tuple[str, ...]

    def pairs(self) -> list[tuple[Path, Path]]:
        source, target = ROOT / self.source, ROOT / self.target
        return [(source / name, target / name) for name in self.names]


FOLDERS = (
    Folder(
        "client/treering/_async",
        "client/treering/_sync",
        ("client.py", "connection.py", "reading.py", "subscription.py"),
    ),
)


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
    for command in (["check", "--select=I", "--fix", "--quiet"], ["format", "--quiet"]):
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
    check = arguments == ["--check"]
    if arguments and not check:
        print(__doc__, file=sys.stderr)
        return 2
    stale = []
    for folder in FOLDERS:
        for source, target in folder.pairs():
            text = made_from(source, target)
            found = target.read_text(encoding="utf-8") if target.exists() else None
            if found == text:
                continue
            stale.append(target.relative_to(ROOT).as_posix())
            if not check:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"{name}: {'is not what its source makes' if check else 'made anew'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
