"""Waiting for what happens elsewhere."""

import time
from collections.abc import Callable

WAIT_SECONDS = 10.0


def eventually(condition: Callable[[], bool]) -> None:
    """Returns as soon as the condition holds, and fails if it does not in time."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
