"""The pages of the documentation, and what can be run of them.

Every block of `console` and of `python` is run, page by page from the top, against a server of
the page's own; one that can't be has a comment before it that says why:

    <!-- not run: it serves until a signal comes -->

- In a `console` block a line that begins with `$ ` is a command, run by bash in a terminal of 100
  columns; lines that begin with `> ` continue it. What follows is what the terminal shows. Files
  stay from one command to the next, and `$?` is the exit code of the one before.
- `python` blocks of a page are one program. A `text` block right behind one is what it prints;
  without it, it prints nothing.
- A line that is `...` stands for any lines.

What differs from run to run (ids, times, the server's address) is not compared.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
ADDRESS = "127.0.0.1:7464"
"""Stands for the server's address in all that is run."""

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[a-z]*)[^\n]*$")
_NOT_RUN = re.compile(r"^ *<!-- not run: .+ -->$")

_ANY = "..."
_DIFFERS = (
    (re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"), "<id>"),
    (
        re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|\+00:00)?"),
        "<time>",
    ),
    (re.compile(r"127\.0\.0\.1:\d+"), "<address>"),
    (re.compile(r"\(pid \d+\)"), "(pid <number>)"),
    (re.compile(r"SQLite \d+\.\d+\.\d+"), "SQLite <version>"),
)


@dataclass
class Block:
    """A block of code."""

    language: str
    first: int
    """Index of its first line in the page."""
    lines: list[str]
    is_run: bool
    expected: "Block | None" = None
    """What a `python` block prints."""

    @property
    def code(self) -> str:
        return "".join(f"{line}\n" for line in self.lines)


@dataclass
class Command:
    """A command of a `console` block, and what is shown then."""

    text: str
    first: int
    """Index of its first line in the page."""
    output: list[str] = field(default_factory=list)


def pages() -> list[Path]:
    """Every page that people write."""
    written = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    return [page for page in written if page != DOCS / "reference" / "api.md"]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(lines: Sequence[str]) -> Iterator[Block]:
    """The blocks of a page."""
    index = 0
    before: Block | None = None
    while index < len(lines):
        opening = _FENCE.match(lines[index])
        if opening is None:
            if lines[index].strip():
                before = None
            index += 1
            continue
        said = next((line for line in reversed(lines[:index]) if line.strip()), "")
        first = index + 1
        index = first
        while lines[index].strip() != "```":
            index += 1
        indent = len(opening["indent"])
        content = [line[indent:] for line in lines[first:index]]
        block = Block(opening["language"], first, content, is_run=not _NOT_RUN.match(said))
        if block.language == "text" and before is not None and before.language == "python":
            before.expected = block
        before = block
        index += 1
        yield block


def runnable(lines: Sequence[str]) -> list[Block]:
    """What is run of a page."""
    found = list(blocks(lines))  # whole, as a block's output comes after it
    return [each for each in found if each.language in ("console", "python") and each.is_run]


def commands(block: Block) -> list[Command]:
    """The commands of a `console` block."""
    found: list[Command] = []
    for number, line in enumerate(block.lines, start=block.first):
        if line.startswith("$ "):
            found.append(Command(line[2:], number))
        elif line.startswith("> ") and found and not found[-1].output:
            found[-1].text += f"\n{line[2:]}"
        elif found:
            found[-1].output.append(line)
        else:
            raise AssertionError(f"line {number + 1} comes before any command")
    return found


def address_in(text: str) -> str:
    """The address that a text names."""
    found = re.search(r"127\.0\.0\.1:\d+", text)
    assert found is not None, text
    return found[0]


def comparable(text: str) -> list[str]:
    """Lines without what differs from run to run."""
    for pattern, name in _DIFFERS:
        text = pattern.sub(name, text)
    return [line.rstrip() for line in text.rstrip("\n").split("\n")] if text.strip() else []


def agrees(expected: Sequence[str], actual: Sequence[str]) -> bool:
    """Whether what was shown is what was said, both comparable."""
    if not expected:
        return not actual
    if expected[0] == _ANY:
        return any(agrees(expected[1:], actual[skip:]) for skip in range(len(actual) + 1))
    return bool(actual) and expected[0] == actual[0] and agrees(expected[1:], actual[1:])
