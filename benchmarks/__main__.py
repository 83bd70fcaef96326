"""`python -m benchmarks`: measures a real server, and fails if what it recorded is wrong."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Databases, servers and checks are those of the tests, whose modules have bare names.
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

from program import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
