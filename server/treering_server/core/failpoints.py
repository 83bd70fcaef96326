"""Steps of an append at which tests let the server die.

`TREERING_FAIL_POINT=after_insert:3` kills the process, as `kill -9` does, when it is at this
step for the third time; `after_state:3:SIGSTOP` freezes it there instead, with the append
lock held. Without the variable a step costs the call of an empty function.
"""

import os
import signal
from collections.abc import Callable

STEPS = (
    "before_lock",
    "after_lock",
    "after_state",
    "after_insert",
    "before_commit",
    "after_commit",
)


def fail_point(specification: str) -> Callable[[str], None]:
    """What is to be called at every step, with its name.

    Args:
        specification: `STEP[:COUNT[:SIGNAL]]`; empty: nothing fails.

    Raises:
        ValueError: It can't be understood.
    """
    if not specification:
        return lambda _: None
    parts = specification.split(":")
    step, count, signal_name = [*parts, *("", "1", "SIGKILL")[len(parts) :]]
    if step not in STEPS:
        raise ValueError(f"no such fail point: {step!r}; there are {', '.join(STEPS)}")
    remaining = int(count)
    number = signal.Signals[signal_name]

    def reached(name: str) -> None:
        nonlocal remaining
        if name == step:
            remaining -= 1
            if remaining == 0:
                os.kill(os.getpid(), number)

    return reached


reached = fail_point(os.environ.get("TREERING_FAIL_POINT", ""))
