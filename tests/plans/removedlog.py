"""A large log of which most is removed: where, and what is left between it."""

from typing import Any

import sqlalchemy as sa

from logs import delete, keep, make_event, write
from treering_server.core.model import NewEvent
from treering_server.storage.schema import removals, streams

GONE_STREAM = "gone-1"
GONE = "Gone"
"""The type of its events, and of no others. Its other names are its category and a tag."""
GONE_EVENTS = 50_000
RULED_STREAM = "ruled-1"
RULED = "Ruled"
KEPT = 20
"""Events that are kept of this one, of many. It gets no more."""
KEPT_STREAM = "kept-1"
AGING_STREAMS = 1_000
"""Streams of one event each, of which much will be removed once it is old."""
SHARED = "shared"
"""A tag of all events."""

BEFORE = 4_000
"""Positions up to here are, by turns, of the ruled stream, of the one that is kept, and of one
that grows old; what follows is gone, but for one event in a thousand, and none of the last few."""
EVERY = 1_000
END = 5_000
EVENTS = BEFORE + GONE_EVENTS
BATCH = 1_000


def is_kept_between(position: int) -> bool:
    return BEFORE < position <= EVENTS - END and position % EVERY == 0


def placed_at(position: int) -> tuple[str, NewEvent]:
    if position > BEFORE and not is_kept_between(position):
        return GONE_STREAM, make_event(GONE, [SHARED, "gone"], data=b"x" * 100)
    if position <= BEFORE and position % 4 == 0:
        return RULED_STREAM, make_event(RULED, [SHARED, "ruled"], data=b"x" * 100)
    stream = KEPT_STREAM if position % 2 else ""
    if position < BEFORE and position % 4 == 2:
        stream = f"aging-{position // 4}"
    return stream, make_event("Kept", [SHARED, "kept"], data=b"x" * 100)


RULED_POSITIONS = list(range(4, BEFORE + 1, 4))[-KEPT:]
"""What is left of the ruled stream."""
BETWEEN = [position for position in range(1, EVENTS + 1) if is_kept_between(position)]
LAST = BETWEEN[-1]
"""The last event that is not removed."""


def load(storage: Any) -> None:
    for first in range(1, EVENTS + 1, BATCH):
        positions = range(first, min(first + BATCH, EVENTS + 1))
        write(storage, [placed_at(position) for position in positions])
    keep(storage, RULED_STREAM, max_count=KEPT)
    delete(storage, GONE_STREAM)
    # One by one that would take long.
    with getattr(storage, "_writing", storage._engine).connect() as connection:
        aging = sa.select(streams.c.id).where(streams.c.name.like("aging-%"))
        connection.execute(
            sa.update(streams).where(streams.c.id.in_(aging)).values(max_age_us=10**15)
        )
        connection.execute(sa.insert(removals).from_select(["stream_id"], aging))
