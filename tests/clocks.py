"""A clock of its own for a process, which can be set back and forth while it runs.

`clock.c` is loaded before the process's C library. Debian's `libfaketime` does more than is
wanted: a wait by the monotonic clock fails in a process that it has set the time of.
"""

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

COMPILER = shutil.which("cc")
SOURCE = Path(__file__).with_name("clock.c")


def missing() -> str:
    """Why there can be none here; empty if there can."""
    return "" if COMPILER else "there is no C compiler (Debian: apt install gcc libc6-dev)"


class Clock:
    """The clock of whichever processes are started with its `variables`. Use as a context."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="treering-clock-")
        folder = Path(self._folder.name)
        folder.chmod(0o755)
        self._offset = folder / "offset"
        self._library = folder / "clock.so"
        self.set(0)
        options = ("-shared", "-fPIC", "-O2", "-Wall", "-Werror")
        subprocess.run([str(COMPILER), *options, "-o", self._library, SOURCE], check=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    @property
    def variables(self) -> Mapping[str, str]:
        """What a process must find in its environment."""
        return {"LD_PRELOAD": str(self._library), "TREERING_TEST_CLOCK": str(self._offset)}

    def set(self, seconds: int) -> None:
        """Sets it to so many seconds after the real time, at once."""
        # Not replaced: processes have it in their memory.
        with self._offset.open("r+b" if self._offset.exists() else "wb") as file:
            file.write(struct.pack("=q", seconds))
