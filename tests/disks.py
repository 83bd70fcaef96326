"""A small disk of its own, which can be filled up and emptied again."""

import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self


def missing() -> str:
    """Why there can be none here; empty if there can."""
    if os.geteuid() != 0:
        return "only root may mount a disk"
    try:
        SmallDisk(1).remove()
    except OSError as error:
        return f"no disk can be mounted here: {error}"
    return ""


class SmallDisk:
    """A file system of a few MiB, in memory. Use as a context."""

    def __init__(self, mebibytes: int) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="treering-disk-"))
        self._ballast = self.directory / "ballast"
        options = f"size={mebibytes}m,mode=0777"
        mount = ["mount", "-t", "tmpfs", "-o", options, "treering", str(self.directory)]
        done = subprocess.run(mount, capture_output=True, check=False)
        if done.returncode != 0:
            self.directory.rmdir()
            raise OSError(done.stderr.decode(errors="replace").strip())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def fill(self) -> None:
        """Leaves room for nothing more."""
        with self._ballast.open("ab") as file:
            while free := shutil.disk_usage(self.directory).free:
                # Unless somebody is quicker: then what is left is looked at again.
                with suppress(OSError):
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, free)

    def clear(self) -> None:
        """Gives the room back."""
        self._ballast.unlink(missing_ok=True)

    def remove(self) -> None:
        """Takes it away with all that is on it, whoever still uses it."""
        subprocess.run(["umount", "--lazy", str(self.directory)], check=True)
        self.directory.rmdir()
