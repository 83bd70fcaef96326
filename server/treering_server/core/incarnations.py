"""What the log ids that the log has had mean for a caller who knows one of them."""

from collections.abc import Sequence
from uuid import UUID

from treering_server.core.errors import LogDiverged, LogMismatch, LogState
from treering_server.core.storage import Incarnation


def last_common_position(
    expected: UUID, state: LogState, incarnations: Sequence[Incarnation]
) -> int | None:
    """Up to where the history that the caller knows is still the log's; None: all of it.

    Raises:
        LogMismatch: The log never had that id.
    """
    if expected == state.log_id:
        return None
    known = [each.log_id for each in incarnations]
    if expected not in known[:-1]:
        raise LogMismatch(expected, state)
    # Each later incarnation may have forked before the one that came right after.
    later = incarnations[known.index(expected) + 1 :]
    return min(each.first_position for each in later) - 1


def check_current(
    expected: UUID | None, state: LogState, incarnations: Sequence[Incarnation]
) -> None:
    """Refuses a decision that was made under any but the current id.

    Raises:
        LogMismatch: The log never had that id.
        LogDiverged: It had, before it lost its end.
    """
    if expected is not None:
        common = last_common_position(expected, state, incarnations)
        if common is not None:
            raise LogDiverged(state, common)


def check_position(
    expected: UUID | None, position: int, state: LogState, incarnations: Sequence[Incarnation]
) -> None:
    """Refuses a position that the caller learnt in a history that was lost.

    Raises:
        LogMismatch: The log never had that id.
        LogDiverged: It had, and forked before the position.
    """
    if expected is not None:
        common = last_common_position(expected, state, incarnations)
        if common is not None and position > common:
            raise LogDiverged(state, common)
