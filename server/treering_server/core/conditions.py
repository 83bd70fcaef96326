"""The part of an append condition that is decided before the append lock is taken.

The log only grows, so what was not found up to some head will never be found there: events
are removed, but none comes back. How long the lock is held then does not depend on how far
back a condition reaches.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from treering_server.core.errors import StorageUnavailable
from treering_server.core.model import AppendCondition
from treering_server.core.query import Query
from treering_server.core.record import Recorded, parse
from treering_server.core.storage import Storage

BUDGET_SECONDS = 2.0
"""For all conditions of an append."""
FEW_STATEMENTS = 10
"""Who is through with fewer within the budget has asked for little, of a database that is slow."""
WALKED_EVENTS = 1_000
"""Events looked at by one statement."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What is known of a condition: whether events match, up to a position."""

    to: int
    match: Recorded | None = None
    """The first event that matches. It may be removed before the condition is decided."""
    too_costly: bool = False
    """The budget ran out before the end."""


def look(
    storage: Storage, conditions: Sequence[AppendCondition], known: Sequence[Looked]
) -> list[Looked]:
    """Looks on to the head, from where each condition was looked at before.

    Raises:
        StorageUnavailable: The database is away, or too slow to say what a condition costs.
    """
    budget = _Budget()
    head = storage.head().position
    return [
        _look_on(storage, condition.fail_if_match, head, before, budget)
        for condition, before in zip(conditions, known, strict=True)
    ]


class _Budget:
    """What an append may cost before it is decided."""

    def __init__(self) -> None:
        self._deadline = time.monotonic() + BUDGET_SECONDS
        self._statements = 0

    def allows_more(self) -> bool:
        """Whether there may be another statement.

        Raises:
            StorageUnavailable: There was time for a few only: a refusal that says that repeating
                does not help would be wrong.
        """
        if time.monotonic() <= self._deadline:
            self._statements += 1
            return True
        if self._statements < FEW_STATEMENTS:
            raise StorageUnavailable("the database answers too slowly to look at conditions")
        return False


def not_looked(conditions: Sequence[AppendCondition]) -> list[Looked]:
    """Nothing is known yet: what lies up to `after_position` is allowed."""
    return [Looked(to=condition.after_position) for condition in conditions]


def _look_on(storage: Storage, query: Query, until: int, before: Looked, budget: _Budget) -> Looked:
    if before.match is not None or before.too_costly or before.to >= until:
        return before
    first: int | None = None
    for item in query.items:
        position = before.to
        # A match of a later item counts only if it comes before those found so far.
        end = until if first is None else first - 1
        while position < end:
            if not budget.allows_more():
                return Looked(before.to, too_costly=True)
            found = storage.matching(
                item, position, end, backwards=False, max_postings=WALKED_EVENTS
            )
            if found.positions:
                first = found.positions[0]
                break
            position = found.looked_to
    if first is None:
        return Looked(until)
    rows = storage.records_at([first], max_bytes=0)
    record = rows[0][2] if rows else None
    if record is None:
        # It was removed in the meantime.
        return _look_on(storage, query, until, Looked(first), budget)
    return Looked(first, match=parse(record))
