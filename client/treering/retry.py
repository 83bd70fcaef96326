"""What is tried again, when, and for how long. Pure: no clock, no waiting, no network.

Repeating is always safe here: reads change nothing, the events of an append carry ids by which
the server finds a repeat, and a stream that is deleted or has its retention already stays as it
is. So the question is only whether a repeat can help.

- The server said when (`retry_after`), or the code is UNAVAILABLE, or it is overloaded: yes,
  for as long as the call has time.
- INTERNAL, UNKNOWN, CANCELLED and DEADLINE_EXCEEDED by somebody else's will (a proxy's time
  limit, a reset connection, but also a defect of the server): a few times.
- Anything else is final: ABORTED above all, where repeating would overrule the decision.
"""

import random
from collections.abc import Callable

import grpc

from treering.errors import MinPositionNotReached, Overloaded, TreeringError

FIRST_DELAY_SECONDS = 0.05
LONGEST_DELAY_SECONDS = 3.0
DOUBTFUL_ATTEMPTS = 3

DOUBTFUL = frozenset(
    {
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.DATA_LOSS,
    }
)


def may_pass(error: TreeringError) -> bool:
    """Whether repeating the call is worth while, and not only a few times."""
    if isinstance(error, MinPositionNotReached):
        return False  # The server has waited already; its caller knows whether to go on.
    if error.retry_after is not None or isinstance(error, Overloaded):
        return True
    return error.code is grpc.StatusCode.UNAVAILABLE


class Backoff:
    """Delays that grow, so that a server in trouble is left in peace, and differ from client
    to client, so that they do not all come back at once."""

    def __init__(self, random: Callable[[], float] = random.random) -> None:
        self._random = random
        self._delay = FIRST_DELAY_SECONDS

    def next(self, retry_after: float | None = None) -> float:
        """Seconds to wait before the next attempt, never less than the server asked for."""
        delay = self._delay * (0.5 + self._random() / 2)
        self._delay = min(self._delay * 2, LONGEST_DELAY_SECONDS)
        return delay + (retry_after or 0.0)

    def reset(self) -> None:
        """It works again: begin anew."""
        self._delay = FIRST_DELAY_SECONDS


class Attempts:
    """The attempts at one call.

    Args:
        deadline: When to give up, on the clock that `now` is read from. None: never.
        max_attempts: How often to try. None: as long as there is time.
    """

    __slots__ = ("_count", "_doubtful_count", "_max_attempts", "_outcome_unknown", "deadline")

    def __init__(self, deadline: float | None, max_attempts: int | None) -> None:
        self.deadline = deadline
        self._max_attempts = max_attempts
        self._count = 0
        self._doubtful_count = 0
        self._outcome_unknown = False

    def remaining(self, now: float) -> float | None:
        """Seconds left, 0 if there are none. None: no end."""
        return None if self.deadline is None else max(0.0, self.deadline - now)

    def gives_up(self, error: TreeringError, delay: float, now: float) -> bool:
        """Whether to raise the error instead of trying again after the delay.

        Notes in the error whether any of the attempts may have been carried out.
        """
        self._count += 1
        self._outcome_unknown = error.outcome_unknown = (
            error.outcome_unknown or self._outcome_unknown
        )
        if self._max_attempts is not None and self._count >= self._max_attempts:
            return True
        if self.deadline is not None and now + delay >= self.deadline:
            return True
        if may_pass(error):
            return False
        self._doubtful_count += 1
        return error.code not in DOUBTFUL or self._doubtful_count >= DOUBTFUL_ATTEMPTS
