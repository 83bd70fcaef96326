"""What the promises say of events read back, as pure checks.

Whatever made the events (a test, a fault, a benchmark), these look only at what came out,
and raise `BrokenPromise` with the first thing that is wrong. `log` is always all events of a
log without removals, read forwards from the start.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol, TypeVar


class Recorded(Protocol):
    """An event read back, by whichever client."""

    @property
    def id(self) -> Hashable: ...
    @property
    def position(self) -> int: ...
    @property
    def stream(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def recorded_at(self) -> Any: ...


Event = TypeVar("Event", bound=Recorded)


class BrokenPromise(AssertionError):
    """The events are not what was promised."""


def check_log(log: Sequence[Recorded]) -> None:
    """Checks everything that holds for any whole log."""
    check_dense(log)
    check_versions(log)
    check_recorded_at(log)
    check_once(log)


def check_ordered(events: Iterable[Recorded]) -> None:
    """Positions rise."""
    for before, after in pairwise(events):
        if after.position <= before.position:
            raise BrokenPromise(f"position {after.position} came after {before.position}")


def check_dense(log: Iterable[Recorded]) -> None:
    """Positions are dense: 1, 2, 3, and so on."""
    for expected, event in enumerate(log, start=1):
        if event.position != expected:
            raise BrokenPromise(f"position {event.position} where {expected} was due")


def check_versions(log: Iterable[Recorded]) -> None:
    """Versions are dense in each stream, and 0 outside of streams."""
    versions: dict[str, int] = defaultdict(int)
    for event in log:
        if event.stream:
            versions[event.stream] += 1
        expected = versions[event.stream] if event.stream else 0
        if event.version != expected:
            raise BrokenPromise(
                f"version {event.version} of {event.stream!r} at position {event.position}, "
                f"where {expected} was due"
            )


def check_recorded_at(events: Iterable[Recorded]) -> None:
    """Times of recording never fall."""
    for before, after in pairwise(events):
        if moment(after.recorded_at) < moment(before.recorded_at):
            raise BrokenPromise(f"recorded_at fell from position {before.position} to the next")


def check_once(events: Iterable[Recorded]) -> None:
    """No event is there twice."""
    positions: dict[Hashable, int] = {}
    for event in events:
        if event.id in positions:
            raise BrokenPromise(
                f"event {event.id} at positions {positions[event.id]} and {event.position}"
            )
        positions[event.id] = event.position


def check_atomic(log: Sequence[Recorded], appends: Iterable[Sequence[Hashable]]) -> None:
    """The events of each append, given by their ids in order of recording, are next to one
    another in this order, or none of them is there. It need not be known which."""
    positions = {event.id: event.position for event in log}
    for ids in appends:
        found = [positions.get(id) for id in ids]
        if all(position is None for position in found):
            continue
        first = found[0]
        if first is None or found != list(range(first, first + len(ids))):
            raise BrokenPromise(f"an append of {len(ids)} events was recorded as {found}")


def check_durable(log: Sequence[Recorded], acknowledged: Mapping[Any, int]) -> None:
    """Each event that was acknowledged, given by its id, is at the position told then."""
    positions = {event.id: event.position for event in log}
    for id, told in acknowledged.items():
        if positions.get(id) != told:
            raise BrokenPromise(
                f"event {id} was acknowledged at position {told} and is at {positions.get(id)}"
            )


def check_subscription(
    received: Sequence[Event],
    log: Sequence[Event],
    matches: Callable[[Event], bool] = lambda _: True,
    *,
    after: int = 0,
    complete: bool = True,
) -> None:
    """All matching events after a position were received, once, in order, as they are in the
    log; or, where the subscription was cut off, the first of them.

    Args:
        received: What one call handed out, or several that each went on where the one before
            ended.
        log: The whole log.
        matches: Whether an event is asked for.
        after: Where the subscription began.
        complete: False if it was cut off, so that the last events may be missing.
    """
    due = [event for event in log if event.position > after and matches(event)]
    for number, (came, expected) in enumerate(zip(received, due, strict=False)):
        if came != expected:
            raise BrokenPromise(
                f"event {number} received is {came.id} at position {came.position}, "
                f"where {expected.id} at {expected.position} was due"
            )
    if len(received) > len(due):
        extra = received[len(due)]
        raise BrokenPromise(f"nothing more was due, but position {extra.position} came")
    if complete and len(received) < len(due):
        raise BrokenPromise(f"position {due[len(received)].position} never came")


def moment(time: Any) -> Any:
    """A time, protobuf's or Python's, as something that can be compared."""
    return (time.seconds, time.nanos) if hasattr(time, "nanos") else time
