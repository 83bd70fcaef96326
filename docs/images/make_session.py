# ruff: noqa: INP001, T201 - a script
"""Makes session.svg: commands that are really run in a terminal, against a real server, and what
they show.

    .venv/bin/python docs/images/make_session.py           makes it
    .venv/bin/python docs/images/make_session.py --check   fails if they show something else now

Ids and times are of the run that made it, and are not compared.
"""

import html
import io
import re
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

PICTURE = Path(__file__).resolve().with_name("session.svg")
TESTS = PICTURE.parents[2] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "docs")]

import pages  # noqa: E402
import running  # noqa: E402
import terminal  # noqa: E402
from treering_server import logs  # noqa: E402

COLUMNS = 100
FOLDER = "/srv/demo"
"""What the folder in which it all runs is called in the picture."""

SERVE = "treering serve"
READY = "listening"
COMMANDS = (
    "treering append order-1042 --type OrderPlaced --data '{\"total\":42}' --expected-new",
    "treering append order-1042 --type OrderPaid --tag customer:7 --expected-version 1",
    "treering append order-1042 --type OrderCancelled --expected-version 1",
    "treering read --stream order-1042",
    "treering subscribe --tag customer:7 --checkpoint customer-7.checkpoint",
)

# Legible on a light page as on a dark one: it has a background of its own.
THEME = TerminalTheme(
    (30, 34, 42),
    (220, 223, 228),
    [
        (30, 34, 42),
        (240, 113, 120),
        (152, 211, 130),
        (240, 200, 110),
        (110, 175, 245),
        (205, 150, 235),
        (100, 205, 215),
        (220, 223, 228),
    ],
    [
        (130, 138, 150),
        (240, 113, 120),
        (152, 211, 130),
        (240, 200, 110),
        (110, 175, 245),
        (205, 150, 235),
        (100, 205, 215),
        (255, 255, 255),
    ],
)


def session() -> str:
    """Runs it all; gives what stands in the terminal, colours included."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        # Stopped when it has said on what it runs; then another serves the same file.
        _, shown = _run(f"exec {SERVE} --listen 127.0.0.1:0", folder, "", until=READY)
        listening = next(line for line in shown.split("\n") if READY in line)
        address = pages.address_in(listening)
        parts = [_prompt(SERVE), shown[: shown.index(listening) + len(listening)], "\n"]
        parts = ["".join(parts).replace(address, pages.ADDRESS)]
        with running.ServerThread(folder) as server:
            for command in COMMANDS:
                _, shown = _run(command, folder, server.address)
                parts += [_prompt(command), shown.replace(server.address, pages.ADDRESS)]
        return "".join(parts).replace("\r", "").replace(str(folder), FOLDER)


def _run(command: str, folder: Path, server: str, *, until: str | None = None) -> tuple[int, str]:
    environment = terminal.environment(server)
    return terminal.run(
        command, directory=folder, environment=environment, columns=COLUMNS, until=until
    )


def _prompt(command: str) -> str:
    return f"\x1b[1;32m$\x1b[0m \x1b[1m{command}\x1b[0m\n"


def picture(shown: str) -> str:
    """The session as SVG, with its text as the description."""
    console = Console(
        record=True,
        width=COLUMNS,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        no_color=False,
    )
    console.print(Text.from_ansi(shown.rstrip("\n")))
    svg = console.export_svg(title="treering", theme=THEME, unique_id="session")
    # Fonts from elsewhere are not loaded in a picture, and need not be asked for.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    described = f"<desc>{html.escape(terminal.screen(shown).strip(), quote=False)}</desc>"
    opened, end, rest = svg.partition(">")
    return "\n".join(line.rstrip() for line in f"{opened}{end}\n{described}{rest}".split("\n"))


def said(svg: str) -> list[str]:
    """The text of a picture, comparable."""
    found = re.search(r"<desc>(.*?)</desc>", svg, re.DOTALL)
    return pages.comparable(html.unescape(found[1])) if found else []


def main(arguments: list[str]) -> int:
    """Makes or checks the picture."""
    logs.configure("error", "text")
    svg = picture(session())
    if "--check" not in arguments:
        PICTURE.write_text(svg, encoding="utf-8")
        return 0
    if PICTURE.exists() and said(PICTURE.read_text(encoding="utf-8")) == said(svg):
        return 0
    print(f"{PICTURE.name} shows what is no longer so: run docs/images/make_session.py")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
