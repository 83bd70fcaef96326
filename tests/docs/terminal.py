"""Runs a command in a terminal, and gives what a person would have seen there."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from pathlib import Path

SECONDS = 60.0
ROWS = 50
CHANGES_OUTPUT = ("NO_COLOR", "FORCE_COLOR", "PY_COLORS", "COLUMNS", "LINES", "GITHUB_ACTIONS")
"""Variables by which programs decide how to write to a terminal."""

_CONTROL = re.compile(r"\x1b\[(\??[0-9;]*)([A-Za-z])|([\r\n])")


def run(
    command: str,
    *,
    directory: Path,
    environment: Mapping[str, str],
    columns: int = 100,
    until: str | None = None,
) -> tuple[int, str]:
    """Runs a line of bash in a terminal so wide, and gives its exit code and all that it wrote,
    colours included. With `until` it is sent SIGTERM when it has written that."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    process = subprocess.Popen(
        ["/bin/bash", "-c", command],
        cwd=directory,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=dict(environment),
    )
    os.close(terminal)
    shown = b""
    deadline = time.monotonic() + SECONDS
    try:
        while time.monotonic() < deadline:
            if not select.select([controller], [], [], 1.0)[0]:
                continue
            try:
                part = os.read(controller, 65_536)
            except OSError:  # how Linux says that nobody has the terminal open any more
                break
            if not part:
                break
            shown += part
            if until is not None and until.encode() in shown:
                until = None
                process.terminate()
        code = process.wait(max(0.1, deadline - time.monotonic()))
    finally:
        process.kill()
        os.close(controller)
    return code, shown.decode()


def environment(server: str) -> dict[str, str]:
    """What a command sees: `treering` on its path, the server, no settings of ours."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TREERING_") and name not in CHANGES_OUTPUT
    }
    path = os.pathsep.join((str(Path(sys.executable).parent), ours.get("PATH", os.defpath)))
    return ours | {"PATH": path, "TERM": "xterm-256color", "TREERING_SERVER": server}


def screen(shown: str) -> str:
    """What stays on the screen of what was written, without colours: progress bars have gone."""
    lines: list[str] = [""]
    row = column = end = 0

    def put(text: str) -> None:
        nonlocal column
        line = lines[row].ljust(column)
        lines[row] = line[:column] + text + line[column + len(text) :]
        column += len(text)

    for match in _CONTROL.finditer(shown):
        put(shown[end : match.start()])
        end = match.end()
        argument, final, move = match.groups()
        if move == "\r":
            column = 0
        elif move == "\n":
            row, column = row + 1, 0
            if row == len(lines):
                lines.append("")
        elif final == "A":
            row = max(0, row - int(argument or 1))
        elif final == "K":
            lines[row] = "" if argument == "2" else lines[row][:column]
    put(shown[end:])
    return "\n".join(line.rstrip() for line in lines)
