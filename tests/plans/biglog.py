"""The large log: what is frequent, rare, gone and never together in it, and where."""

from logs import make_event, write
from treering_server.core.model import NewEvent
from treering_server.core.storage import Storage

EVENTS = 60_000
MIDDLE = EVENTS // 2
BATCH = 1_000
"""Little enough for the append lock to be held no longer than it may, on a slow machine."""

LONG_STREAM = "order-hot"
"""A tenth of all events."""
MANY_STREAMS = "order-0"
"""A prefix that names thousands of streams, with two events each."""
SOME_STREAMS = "invoice-"
"""A prefix that names 150 streams."""
MANY_CATEGORIES = "user"
"""A prefix that names 600 streams without a dash, each a category."""
GONE = "Gone"
"""A type that every second event has up to the middle, and none after it."""
RARE, RARE_POSITIONS = "Rare", [101, MIDDLE + 2, EVENTS - 99]
LEFT, RIGHT = "left", "right"
"""Tags that half of the events have each. They meet on the last event only."""


def stream_of(position: int) -> str:
    n, kind = divmod(position, 10)
    if kind == 0:
        return LONG_STREAM
    if kind < 5:
        return f"order-{(4 * n + kind) % 12_000:05d}"
    if kind == 5:
        return f"{MANY_CATEGORIES}{n % 600}"
    if kind == 6:
        return f"{SOME_STREAMS}{n % 150}"
    return ""


def event_at(position: int) -> NewEvent:
    if position in RARE_POSITIONS:
        type = RARE
    elif position <= MIDDLE and position % 2:
        type = GONE
    else:
        type = f"Common{position % 5}"
    tags = {RIGHT if position % 2 else LEFT, f"customer:{position % 5_000}"}
    if position == EVENTS:
        tags = {LEFT, RIGHT}
    return make_event(type, tags, data=b"x" * 100)


def load(storage: Storage) -> None:
    for first in range(1, EVENTS, BATCH):
        positions = range(first, first + BATCH)
        write(storage, [(stream_of(position), event_at(position)) for position in positions])
