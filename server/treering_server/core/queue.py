"""What waits to be recorded: bounded by bytes, and taken fairly.

Each caller gets an equal share of the writer, by bytes: an append is due when its caller would
be through with it, had it been served at the same speed as all others that wait. So one that
floods the server delays itself, and hardly anybody else. (Self-clocked fair queueing: S. J.
Golestani, A self-clocked fair queueing scheme for broadband applications, INFOCOM 1994.)
"""

from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Share:
    """What one caller has here."""

    size: int = 0
    due: int = 0
    """When the last of it is, on the queue's own clock, which counts bytes."""


class FairQueue(Generic[T]):
    """A queue in which the items of one caller stay in order. Not safe among threads."""

    def __init__(self, most_bytes: int) -> None:
        """Begins empty."""
        self._most_bytes = most_bytes
        self._size = 0
        self._clock = 0
        self._shares: dict[str, _Share] = {}
        self._waiting: list[tuple[int, int, str, int, T]] = []
        """A heap, by when they are due, then by when they came."""
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._waiting)

    def admit(self, caller: str, size: int) -> bool:
        """Takes room for an item, which `put` or `leave` must follow. False: there is none.

        When all is taken, a caller still gets what others would have had to leave to it: so
        callers together may hold twice the bound. An item of any size is admitted if nothing
        else is there.
        """
        share = self._shares.get(caller)
        own = size if share is None else share.size + size
        if self._size and self._size + size > self._most_bytes:
            callers = len(self._shares) + (share is None)
            if own * callers > self._most_bytes:
                return False
        if share is None:
            share = self._shares[caller] = _Share()
        share.size = own
        self._size += size
        return True

    def has_room(self, caller: str) -> bool:
        """Whether a caller who can slow down need not: half of all, or of its share, is free."""
        if 2 * self._size <= self._most_bytes:
            return True
        share = self._shares.get(caller)
        return share is None or 2 * share.size * len(self._shares) <= self._most_bytes

    def put(self, caller: str, size: int, item: T) -> None:
        """Adds an item that was admitted."""
        share = self._shares[caller]
        share.due = max(self._clock, share.due) + size
        heappush(self._waiting, (share.due, next(self._numbers), caller, size, item))

    def leave(self, caller: str, size: int) -> None:
        """Gives back what an item took that was admitted, and is not put after all."""
        share = self._shares[caller]
        share.size -= size
        self._size -= size
        if not share.size:
            del self._shares[caller]

    @property
    def next_size(self) -> int:
        """The size of what `take` takes."""
        return self._waiting[0][3]

    def take(self) -> T:
        """The next item."""
        self._clock, _, caller, size, item = heappop(self._waiting)
        self.leave(caller, size)
        return item
