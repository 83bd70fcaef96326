# ruff: noqa: T201 - a script
"""Writes into the pages what their commands and programs show now.

    python tests/docs/renew.py [PAGE...]

Only what no longer agrees is written, so that ids and times stay as long as they can; a `...`
in it is to be put back by hand.
"""

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import pages  # noqa: E402
import running  # noqa: E402
from treering_server import logs  # noqa: E402


def renew(page: Path) -> int:
    """Renews a page; answers how much of it."""
    wrong: list[running.Shown] = []
    with tempfile.TemporaryDirectory() as name:
        work, data = Path(name) / "work", Path(name) / "server"
        work.mkdir()
        data.mkdir()
        with running.ServerThread(data) as server:
            running.run_page(
                page,
                work,
                lambda shown: None if shown.agrees else wrong.append(shown),
                server=server,
            )
    lines = page.read_text(encoding="utf-8").split("\n")
    for shown in reversed(wrong):
        new = [line.rstrip() for line in shown.shown.rstrip("\n").split("\n")]
        if shown.what.startswith("$ "):
            lines[shown.first : shown.first + len(shown.said)] = new if shown.shown.strip() else []
        elif shown.said:
            lines[shown.first : shown.first + len(shown.said)] = new
        else:
            lines[shown.first : shown.first] = ["", "```text", *new, "```"]
        print(f"{pages.name_of(page)}:{shown.first + 1}: {shown.what}")
    page.write_text("\n".join(lines), encoding="utf-8")
    return len(wrong)


if __name__ == "__main__":
    logs.configure("error", "text")
    given = [Path(name).resolve() for name in sys.argv[1:]] or pages.pages()
    sys.exit(1 if sum(map(renew, given)) else 0)
