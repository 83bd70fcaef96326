"""Event ids: version-7 UUIDs (RFC 9562), which sort by the time they were made.

Ids that are neighbours in time are neighbours in a database's index, which keeps appends
fast in a long log.
"""

import secrets
import threading
import time
import uuid

_RANDOM_BITS = 74


class _Rising:
    """Numbers that rise from one to the next, whatever is asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def next(self, wanted: int) -> int:
        """What is wanted, or else a little more than the last one, by a random step."""
        with self._lock:
            if wanted <= self._last:
                wanted = self._last + 1 + secrets.randbits(32)
            self._last = wanted
            return wanted


_values = _Rising()


def uuid7() -> uuid.UUID:
    """Makes a version-7 UUID that is greater than any made in this process before.

    Within one millisecond, or when the clock goes back, ids go on from the last one in
    random steps (RFC 9562, section 6.2, method 2). Any thread may call it.
    """
    milliseconds = time.time_ns() // 1_000_000
    value = _values.next(milliseconds << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS))
    # The version stands after the first 60 bits of it, the variant before the last 62.
    high, low = value >> 62, value & (1 << 62) - 1
    return uuid.UUID(int=(high >> 12) << 80 | 0x7 << 76 | (high & 0xFFF) << 64 | 0b10 << 62 | low)
