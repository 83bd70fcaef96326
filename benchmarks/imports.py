"""How fast a file of CloudEvents goes in, by the command that a user would run."""

import json
import subprocess
import sys
import time
from pathlib import Path

from figures import Figure
from processes import Processes


def measure_import(address: str, file: Path, processes: Processes) -> tuple[int, list[Figure]]:
    """Runs `treering import`, its start included, and gives how many events it recorded.

    Raises:
        RuntimeError: It did not record every line.
    """
    command = [sys.executable, "-m", "treering", "import", str(file)]
    before = processes.cpu()
    began = time.perf_counter()
    done = subprocess.run(
        [*command, "--server", address, "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - began
    used = processes.cpu()
    if done.returncode != 0:
        raise RuntimeError(f"treering import failed: {done.stderr or done.stdout}")
    counts = json.loads(done.stdout)
    recorded: int = counts["recorded"]
    if recorded == 0 or recorded != counts["read"]:
        raise RuntimeError(f"treering import did not record every line: {counts}")
    return recorded, [
        Figure("import", "rate", "events/s", recorded / seconds),
        *used.per(recorded, "import", "event", before),
        Figure("import", "server's peak memory", "MiB", processes.server_peak_mib),
    ]
