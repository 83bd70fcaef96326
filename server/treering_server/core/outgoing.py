"""How much of the log is on its way out, and how much more may be."""

from collections.abc import Iterator
from contextlib import contextmanager

MOST_BYTES = 64 * 1024 * 1024
PAGE_BYTES = 1_000_000
"""No response nears the 4 MiB that gRPC clients take by default."""
LEAST_PAGE_BYTES = 32 * 1024
SHARES = 16
"""One page takes at most so much of what is left."""


class Outgoing:
    """Pages that were made and are not sent yet, since whoever asked reads slowly.

    Nobody is refused: the more of them wait, the smaller are the next ones, so that thousands
    of readers who stand still cost little more than the bound.
    """

    def __init__(self) -> None:
        """Nothing waits."""
        self._size = 0

    @property
    def page_bytes(self) -> int:
        """How large the next page may be: one of few sizes, so that equal ones are shared."""
        share = (MOST_BYTES - self._size) // SHARES
        if share >= PAGE_BYTES:
            return PAGE_BYTES
        return max(1 << (max(share, 1).bit_length() - 1), LEAST_PAGE_BYTES)

    @contextmanager
    def waiting(self, payload: bytes) -> Iterator[None]:
        """While it is sent."""
        self._size += len(payload)
        try:
            yield
        finally:
            self._size -= len(payload)
