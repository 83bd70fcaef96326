"""What the promises say of events read back, as pure checks.

Whatever made the events (a test, a fault, a benchmark), these look only at what came out,
and raise `BrokenPromise` with the first thing that is wrong. `log` is always all events of a
log without removals, read forwards from the start.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any, Protocol, TypeVar

from records import (
    Append,
    Attempt,
    Change,
    History,
    Logged,
    Matching,
    Read,
    Sent,
)


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


# --- the promises, over what concurrent callers did and were told
#
# The log is what the database holds, removed events included. Since every answer carries
# positions, the order of everything is disclosed, and nothing has to be searched for.

MOVES = Matching(types=("Moved",))
"""Events that take from one stream what others of the same append give to another."""

DEFECTS = {"INTERNAL", "UNKNOWN"}

MAY_BE_REFUSED = {"VERSION_CONFLICT", "CONDITION_FAILED", "EVENT_ID_CONFLICT"}
"""What an append of such a history may be refused for; anything else is a defect."""


def check_history(history: History, log: Sequence[Logged]) -> None:
    """Checks every promise."""
    for check in PROMISES.values():
        check(history, log)


def check_history_durable(history: History, log: Sequence[Logged]) -> None:
    """What was acknowledged is in the log, at the positions and versions told, as it was sent;
    what was refused or never sent is not."""
    by_id = {event.id: event for event in log}
    # Of what was removed nobody can tell what it said.
    removable = {change.stream for change in history.changes}
    for attempt in history.attempts:
        if attempt.outcome == "done":
            _check_acknowledged(attempt, by_id, removable)
    sendings = _sendings(history)
    for event in log:
        appends = sendings.get(event.id)
        if appends is None:
            raise BrokenPromise(f"event {event.id} at position {event.position} was never sent")
        variants = [sent for each in appends for sent in each.events if sent.id == event.id]
        if not any(_is_recorded_as(sent, event) for sent in variants):
            raise BrokenPromise(f"position {event.position} is not as any {event.id} was sent")
    for append, attempts in _by_append(history).items():
        outcomes = {attempt.outcome for attempt in attempts}
        if outcomes <= {"refused", "unwritten"} and _places(append, by_id) is not None:
            raise BrokenPromise(f"append {append.ids} was never accepted, and is in the log")


def _check_acknowledged(
    attempt: Attempt, by_id: Mapping[str, Logged], removable: Container[str]
) -> None:
    due = range(attempt.first, attempt.last + 1)
    if len(due) != len(attempt.append.events):
        raise BrokenPromise(f"{len(due)} positions for {len(attempt.append.events)} events")
    versions: dict[str, int] = {}
    for position, sent in zip(due, attempt.append.events, strict=True):
        found = by_id.get(sent.id)
        if found is None or found.position != position:
            at = found and found.position
            raise BrokenPromise(
                f"event {sent.id} was acknowledged at position {position} and is at {at}"
            )
        if sent.stream not in removable and not _is_recorded_as(sent, found):
            raise BrokenPromise(f"position {position} is {found}, acknowledged was {sent}")
        if sent.stream:
            versions[sent.stream] = found.version
    if dict(attempt.versions) != versions:
        raise BrokenPromise(f"told of versions {attempt.versions}, recorded were {versions}")


def check_history_atomic(history: History, log: Sequence[Logged]) -> None:
    """The events of an append are next to one another or not there at all, also to whoever
    looks meanwhile."""
    by_id = {event.id: event for event in log}
    inside: set[int] = set()
    for append in _by_append(history):
        found = [_found(sent, by_id) for sent in append.events]
        if all(position is None for position in found):
            continue
        first = found[0]
        if first is None or found != list(range(first, first + len(found))):
            raise BrokenPromise(f"an append of {len(found)} events was recorded as {found}")
        inside.update(range(first, first + len(found) - 1))
    for read in history.reads:
        if read.head in inside:
            raise BrokenPromise(f"a read saw the log up to {read.head}, in the middle of an append")
        if read.matching != MOVES or read.after or read.limit:
            continue
        if sum(int(event.data) for event in read.events) != 0:
            raise BrokenPromise(
                f"a read up to {read.head} saw a sum that had left, but not arrived"
            )


def check_history_checked(history: History, log: Sequence[Logged]) -> None:
    """Every expectation and condition held where its append was recorded, and each refusal was
    right at some moment of its call."""
    by_id = {event.id: event for event in log}
    index = _Index(log, _sendings(history))
    bounds = _Bounds(history, log)
    # Of a stream that is deleted the version does not tell how many events it has.
    removable = {change.stream for change in history.changes}
    for append in _by_append(history):
        first = _places(append, by_id)
        if first is not None:
            _check_accepted(append, first, index, removable)
    for attempt in history.attempts:
        if attempt.reason in DEFECTS:
            raise BrokenPromise(f"an append of {attempt.caller} failed with {attempt.reason}")
        if attempt.outcome == "refused":
            low, high = bounds.at(attempt.start)[0], bounds.at(attempt.end)[1]
            _check_refused(attempt, low, high, index, removable)


def _check_accepted(append: Append, first: int, index: "_Index", removable: Container[str]) -> None:
    for stream, expected in append.expected:
        actual = index.version(stream, first - 1)
        if stream not in removable and not _is_met(expected, actual):
            raise BrokenPromise(
                f"position {first} expected {expected} of {stream!r}, which was at {actual}"
            )
    for condition in append.conditions:
        match = index.first(condition.matching, condition.after, first - 1)
        if match:
            raise BrokenPromise(
                f"position {first} was recorded although position {match} matches its condition"
            )


def _check_refused(
    attempt: Attempt, low: int, high: int, index: "_Index", removable: Container[str]
) -> None:
    if attempt.reason not in MAY_BE_REFUSED:
        raise BrokenPromise(f"an append of {attempt.caller} was refused for {attempt.reason}")
    if attempt.reason == "VERSION_CONFLICT" and attempt.stream not in removable:
        stream, actual = attempt.stream, attempt.actual
        expectations: Mapping[str, int | bool] = dict(attempt.append.expected)
        if stream not in expectations or _is_met(expectations[stream], actual):
            raise BrokenPromise(f"refused for {stream!r} at {actual}, which was not unexpected")
        lowest, highest = index.version(stream, low), index.version(stream, high)
        if not lowest <= actual <= highest:
            raise BrokenPromise(
                f"told that {stream!r} was at {actual}, when it was from {lowest} to {highest}"
            )
    if attempt.reason == "CONDITION_FAILED":
        condition = attempt.append.conditions[attempt.index]
        match = index.first(condition.matching, condition.after, high)
        if match != attempt.position:
            raise BrokenPromise(
                f"a condition failed by position {attempt.position}; the first match is {match}"
            )


def check_history_ordered(history: History, log: Sequence[Logged]) -> None:
    """Positions and versions are dense; what was over before something else began comes before
    it; and a read shows all of the log up to its head, which lies between what was known when
    it began and what there was when it ended."""
    check_log(log)
    by_id = {event.id: event for event in log}
    bounds = _Bounds(history, log)
    index = _Index(log, _sendings(history))
    removable = {change.stream for change in history.changes}
    for append, attempts in _by_append(history).items():
        first = _places(append, by_id)
        # What told that it wrote nothing did not write it.
        writing = [each.start for each in attempts if each.outcome in {"done", "unknown"}]
        low = bounds.at(min(writing))[0] if writing else 0
        if first is not None and first <= low:
            raise BrokenPromise(f"position {first} was new when {low} had been seen already")
    for read in history.reads:
        low, high = bounds.at(read.start)[0], bounds.at(read.end)[1]
        if not max(low, read.min_position) <= read.head <= high:
            raise BrokenPromise(
                f"a read of {read.caller} saw the log up to {read.head}; it was from "
                f"{max(low, read.min_position)} to {high}"
            )
        if read.matching is not None:
            _check_read(read, read.matching, index, removable)
    _check_series(history, by_id)


def check_history_delivered(history: History, log: Sequence[Logged]) -> None:
    """Each subscription yielded what matches after its start, once, in order and without a
    hole, up to where it ended."""
    index = _Index(log, _sendings(history))
    removable = {change.stream for change in history.changes}
    for number, subscription in enumerate(history.subscriptions):
        name = f"subscription {number} of {subscription.caller}"
        at = subscription.after
        for item in subscription.items:
            position = item if isinstance(item, int) else item.position
            until = position if isinstance(item, int) else position - 1
            missed = [
                event.position
                for event in index.between(subscription.matching, at, until)
                if event.stream not in removable
            ]
            if missed:
                raise BrokenPromise(f"{name} passed over position {missed[0]}")
            if isinstance(item, int):
                if item < at:
                    raise BrokenPromise(f"{name} went back from {at} to {item}")
            else:
                if position <= at:
                    raise BrokenPromise(f"{name} yielded position {position} after {at}")
                _check_shown(item, subscription.matching, index, name)
            at = position
        if at > len(log):
            raise BrokenPromise(f"{name} was told of {at}; the log ends at {len(log)}")


def check_history_idempotent(history: History, log: Sequence[Logged]) -> None:
    """No event is there twice; a repeat is answered as the first time, and is told to be one;
    an id is given to one event only."""
    check_once(log)
    by_id = {event.id: event for event in log}
    for append, attempts in _by_append(history).items():
        answers = sorted(
            (each for each in attempts if each.outcome == "done"), key=lambda each: each.start
        )
        for first, later in pairwise(answers):
            if (later.first, later.last, later.versions) != (
                first.first,
                first.last,
                first.versions,
            ):
                raise BrokenPromise(f"append {append.ids} was acknowledged in two places")
            if later.start > first.end and not later.duplicate:
                raise BrokenPromise(f"append {append.ids} was recorded as new twice")
        is_unknown = any(attempt.outcome == "unknown" for attempt in attempts)
        if answers and answers[0].duplicate and not is_unknown:
            raise BrokenPromise(f"append {append.ids} was called a repeat of what was not written")
        for attempt in attempts:
            if attempt.reason == "EVENT_ID_CONFLICT":
                clashing = [by_id[sent.id] for sent in append.events if sent.id in by_id]
                if all(
                    _is_recorded_as(sent, by_id[sent.id])
                    for sent in append.events
                    if sent.id in by_id
                ):
                    raise BrokenPromise(f"append {append.ids} clashes with nothing in the log")
                if clashing[0].position != attempt.position:
                    raise BrokenPromise(f"event {clashing[0].id} is not at {attempt.position}")
            elif answers and attempt.outcome == "refused" and attempt.start > answers[0].end:
                raise BrokenPromise(f"append {append.ids} was refused when it was recorded")


def check_history_removed(history: History, log: Sequence[Logged]) -> None:
    """From the moment that a removal is acknowledged nobody meets what it removed; and what
    nothing removed is met."""
    changes: dict[str, list[Change]] = defaultdict(list)
    for change in history.changes:
        changes[change.stream].append(change)
    for read in history.reads:
        _check_none_removed(read.events, changes, read.start, f"a read of {read.caller}")
        if read.matching is not None and not read.limit:
            for stream in changes.keys() & set(read.matching.streams):
                _check_all_kept(read, stream, changes[stream], log)
    for subscription in history.subscriptions:
        events = [item for item in subscription.items if isinstance(item, Logged)]
        name = f"a subscription of {subscription.caller}"
        _check_none_removed(events, changes, subscription.start, name)
    for event in log:
        floors = (change.floor for change in changes.get(event.stream, ()))
        if event.erased and event.version > max(floors, default=0):
            raise BrokenPromise(f"position {event.position} was erased by nobody's will")


def _check_none_removed(
    shown: Iterable[Logged], changes: Mapping[str, Sequence[Change]], start: float, name: str
) -> None:
    for event in shown:
        floor = _floor(changes.get(event.stream, ()), before=start)
        if 0 < event.version <= floor:
            raise BrokenPromise(
                f"{name} yielded version {event.version} of {event.stream!r}; it had begun after "
                f"those up to {floor} were removed"
            )


def _check_all_kept(
    read: Read, stream: str, changes: Sequence[Change], log: Sequence[Logged]
) -> None:
    floor = _possible_floor(changes, read.end)
    shown = {event.position for event in read.events}
    for event in log[read.after : read.head]:
        if event.stream == stream and event.version > floor and event.position not in shown:
            raise BrokenPromise(
                f"a read of {read.caller} lacks version {event.version} of {stream!r}; at most "
                f"those up to {floor} were removed"
            )


PROMISES: dict[str, Callable[[History, Sequence[Logged]], None]] = {
    "durable": check_history_durable,
    "atomic": check_history_atomic,
    "checked": check_history_checked,
    "ordered": check_history_ordered,
    "delivered": check_history_delivered,
    "idempotent": check_history_idempotent,
    "removed": check_history_removed,
}


class _Bounds:
    """Between which positions the head was at a moment: not before what anybody had been told
    by then, and before all that was asked for only later."""

    def __init__(self, history: History, log: Sequence[Logged]) -> None:
        by_id = {event.id: event for event in log}
        told = [(each.end, each.last) for each in history.attempts if each.outcome == "done"]
        told += [(read.end, read.head) for read in history.reads]
        told.sort()
        self._told_at = [end for end, _ in told]
        self._told = list(accumulate((position for _, position in told), max, initial=0))
        asked = []
        for append, attempts in _by_append(history).items():
            first = _places(append, by_id)
            if first is not None:
                asked.append((min(attempt.start for attempt in attempts), first))
        asked.sort(reverse=True)
        positions = (position for _, position in asked)
        lowest = list(accumulate(positions, min, initial=len(log) + 1))
        self._asked_at = [start for start, _ in reversed(asked)]
        self._lowest = lowest[::-1]

    def at(self, time: float) -> tuple[int, int]:
        """The lowest and the highest that the head can have been."""
        low = self._told[bisect_left(self._told_at, time)]
        return low, self._lowest[bisect_right(self._asked_at, time)] - 1


class _Index:
    """Which events of the log match, found without looking at all of them each time. An erased
    one matches as it was sent."""

    def __init__(self, log: Sequence[Logged], sendings: Mapping[str, Sequence[Append]]) -> None:
        self.log = log
        self.sent: list[Sent] = []
        for event in log:
            sent = event.sent
            if event.erased:
                variants = (
                    each
                    for append in sendings.get(event.id, ())
                    for each in append.events
                    if each.id == event.id
                )
                sent = next(variants, sent)
            self.sent.append(sent)
        self._found: dict[Matching, list[int]] = {}
        self._streams: dict[str, list[int]] = defaultdict(list)
        for event in log:
            self._streams[event.stream].append(event.position)

    def version(self, stream: str, head: int) -> int:
        """Version of a stream that was never deleted, when the log ended with a position."""
        return bisect_right(self._streams.get(stream, ()), head)

    def between(self, matching: Matching, after: int, until: int) -> list[Logged]:
        """Matching events after one position, up to another."""
        found = self._found.get(matching)
        if found is None:
            found = [
                event.position
                for event, sent in zip(self.log, self.sent, strict=True)
                if matching(sent)
            ]
            self._found[matching] = found
        places = found[bisect_right(found, after) : bisect_right(found, until)]
        return [self.log[position - 1] for position in places]

    def first(self, matching: Matching, after: int, until: int) -> int:
        """Position of the first of them; 0 if there is none."""
        found = self.between(matching, after, until)
        return found[0].position if found else 0


def _by_append(history: History) -> dict[Append, list[Attempt]]:
    appends: dict[Append, list[Attempt]] = defaultdict(list)
    for attempt in history.attempts:
        appends[attempt.append].append(attempt)
    return appends


def _sendings(history: History) -> dict[str, list[Append]]:
    """All appends, by the ids of their events."""
    sendings: dict[str, list[Append]] = defaultdict(list)
    for append in _by_append(history):
        for sent in append.events:
            sendings[sent.id].append(append)
    return sendings


def _is_recorded_as(sent: Sent, event: Logged) -> bool:
    if event.erased:
        return (sent.id, sent.stream) == (event.id, event.stream)
    return replace(sent, tags=tuple(sorted(sent.tags))) == event.sent


def _found(sent: Sent, by_id: Mapping[str, Logged]) -> int | None:
    """Where this event is, not another with its id."""
    event = by_id.get(sent.id)
    return event.position if event is not None and _is_recorded_as(sent, event) else None


def _places(append: Append, by_id: Mapping[str, Logged]) -> int | None:
    """Position of an append's first event that is there; None if it was not recorded."""
    found = [_found(sent, by_id) for sent in append.events]
    return min((position for position in found if position is not None), default=None)


def _is_met(expected: int | bool, actual: int) -> bool:
    return (actual > 0) == expected if isinstance(expected, bool) else actual == expected


def _check_shown(shown: Logged, matching: Matching, index: _Index, name: str) -> None:
    """An event that somebody was shown is the one in the log, and was asked for."""
    if not 0 < shown.position <= len(index.log):
        raise BrokenPromise(f"{name} was shown position {shown.position}, which is not there")
    event = index.log[shown.position - 1]
    if event.erased:
        event = replace(shown, id=event.id, stream=event.stream, version=event.version)
    if shown != event:
        raise BrokenPromise(f"{name} was shown {shown}; in the log is {event}")
    if not matching(shown.sent):
        raise BrokenPromise(f"{name} was shown position {shown.position}, unasked")


def _check_read(read: Read, matching: Matching, index: _Index, removable: Collection[str]) -> None:
    name = f"a read of {read.caller}"
    due = index.between(matching, read.after, read.head)
    if read.backwards:
        due = due[::-1]
    for shown in read.events:
        _check_shown(shown, matching, index, name)
    positions = [event.position for event in read.events]
    if positions != sorted(set(positions), reverse=read.backwards):
        raise BrokenPromise(f"{name} yielded {positions}")
    # What may be removed may be missing; the rest, as far as the limit goes, may not.
    if read.limit and len(positions) >= read.limit:
        if len(positions) > read.limit:
            raise BrokenPromise(f"{name} yielded more than {read.limit}")
        ends = positions[-1]
        due = [
            each
            for each in due
            if (each.position >= ends if read.backwards else each.position <= ends)
        ]
    wanted = {event.position for event in due}
    needed = {event.position for event in due if event.stream not in removable}
    if not needed <= set(positions) <= wanted:
        wrong = min(needed - set(positions) or set(positions) - wanted)
        raise BrokenPromise(f"{name} up to {read.head} and position {wrong} do not go together")


def _check_series(history: History, by_id: Mapping[str, Logged]) -> None:
    """Nothing of a series overtook what was sent before it: what was recorded is, final
    refusals aside, a prefix of what was sent, in its order."""
    series: dict[str, dict[int, list[Attempt]]] = defaultdict(lambda: defaultdict(list))
    for attempt in history.attempts:
        if attempt.series:
            series[attempt.series][attempt.number].append(attempt)
    for name, numbers in series.items():
        before, lost = 0, -1
        for number in sorted(numbers):
            attempts = numbers[number]
            position = _places(attempts[0].append, by_id)
            if position is None:
                # What expects something may have been refused, unheard.
                expects = attempts[0].append.expected or attempts[0].append.conditions
                if not expects and all(attempt.outcome != "refused" for attempt in attempts):
                    lost = number
                continue
            if position <= before:
                raise BrokenPromise(
                    f"{number} of {name} is at {position}, one before it at {before}"
                )
            if lost >= 0:
                raise BrokenPromise(f"{number} of {name} was recorded, and {lost} was not")
            before = position


def _floor(changes: Iterable[Change], before: float) -> int:
    """The versions of a stream that were removed for sure."""
    done = (each.floor for each in changes if each.outcome == "done" and each.end < before)
    return max(done, default=0)


def _possible_floor(changes: Iterable[Change], until: float) -> int:
    """The versions of a stream that may have been removed."""
    return max((each.floor for each in changes if each.start < until), default=0)
