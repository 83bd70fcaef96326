"""What the figures are of."""

import os
import platform
import subprocess
import tempfile
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
IN_MEMORY = ("tmpfs", "ramfs")


def machine() -> dict[str, object]:
    """The machine."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "file_system": file_system(Path(tempfile.gettempdir()).resolve()),
        "python": platform.python_version(),
    }


def commit() -> str:
    """Of Treering."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def file_system(directory: Path) -> str:
    """The kind of file system that a directory is on."""
    found = "unknown"
    for each in sorted(psutil.disk_partitions(all=True), key=lambda each: len(each.mountpoint)):
        if directory.is_relative_to(each.mountpoint):
            found = each.fstype
    return found


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor()
