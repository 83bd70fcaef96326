"""Open files: raised as far as they may be."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from treering_server.transport import open_files_allowed
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))
allowed = open_files_allowed(int(sys.argv[1]))
print(allowed, *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("wanted", "allowed", "soft"), [(50, 50, 100), (200, 200, 200), (1000, 300, 300)]
)
def test_open_files_are_raised_to_what_is_wanted_and_allowed(wanted, allowed, soft):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(wanted)], capture_output=True, check=True, text=True
    )
    assert done.stdout.split() == [str(allowed), str(soft), "300"]
