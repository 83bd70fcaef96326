"""Event ids: version-7 UUIDs (RFC 9562), which sort by the time they were made.

Ids that are neighbours in time are neighbours in a database's index, which keeps appends
fast in a long log.
"""

import os
import secrets
import struct
import threading
import time
import uuid

_RANDOM_BITS = 74
_STEPS = 512
"""Random steps fetched at a time: a call of the system for each costs more than all the rest."""


class _Rising:
    """Numbers that rise from one to the next: milliseconds, then random bits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0
        self._steps: list[int] = []

    def next(self) -> int:
        """Random bits of this millisecond, or else a little more than the last number, by a
        random step."""
        milliseconds = time.time_ns() // 1_000_000
        with self._lock:
            if milliseconds > self._last >> _RANDOM_BITS:
                value = milliseconds << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
            else:
                if not self._steps:
                    self._steps += struct.unpack(f"{_STEPS}I", os.urandom(4 * _STEPS))
                value = self._last + 1 + self._steps.pop()
            self._last = value
            return value


_values = _Rising()


def _begin_anew() -> None:
    """A forked process must not take the same steps as the one that it comes from."""
    global _values  # noqa: PLW0603
    _values = _Rising()


os.register_at_fork(after_in_child=_begin_anew)


def uuid7() -> uuid.UUID:
    """Makes a version-7 UUID that is greater than any made in this process before.

    Within one millisecond, or when the clock goes back, ids go on from the last one in
    random steps (RFC 9562, section 6.2, method 2). Any thread may call it.
    """
    value = _values.next()
    # The version stands after the first 60 bits of it, the variant before the last 62.
    high, low = value >> 62, value & (1 << 62) - 1
    return uuid.UUID(int=(high >> 12) << 80 | 0x7 << 76 | (high & 0xFFF) << 64 | 0b10 << 62 | low)
