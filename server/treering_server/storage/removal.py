"""Which events are removed, as SQL: the rule of `core.removal`, for what is read.

A removed event's row stays; its record reads as NULL, also before it is erased. Only events
of the streams in `removals` need be looked at: of all others, what has a record is there.
"""

import time

# Of a row of `events`, at the time `{now}` in microseconds. NULL bounds bind nothing.
_IS_REMOVED = """EXISTS (
  SELECT 1 FROM removals JOIN streams AS s ON s.id = removals.stream_id
  WHERE removals.stream_id = events.stream_id AND (
    events.version <= s.floor_version
    OR events.version <= (SELECT max(version) FROM events AS e WHERE e.stream_id = s.id)
      - s.max_count
    OR events.recorded_at < {now} - s.max_age_us))"""

IS_ANY_REMOVED = "EXISTS (SELECT 1 FROM removals)"
"""Whether any event may be removed that is not erased. Asked once a statement: most logs
remove nothing, and pay nothing."""

RECORD = f"CASE WHEN {IS_ANY_REMOVED} AND {_IS_REMOVED} THEN NULL ELSE record END"
"""The record of a row of `events`; NULL if it is removed."""

IS_THERE = f"(events.record IS NOT NULL AND NOT ({IS_ANY_REMOVED} AND {_IS_REMOVED}))"
"""Whether a row of `events` is not removed."""

_latest = 0


def now() -> int:
    """Microseconds since 1970, but never before what was recorded last, whatever this server's
    clock says. Never falls while the process lives: what was removed by its age does not come
    back."""
    note_recorded(time.time_ns() // 1000)
    return _latest


def note_recorded(recorded_at: int) -> None:
    """Takes note of when the last event was recorded, perhaps by a server whose clock is ahead:
    appends judge age by that."""
    global _latest  # noqa: PLW0603
    _latest = max(_latest, recorded_at)
