"""The verdict on an append, given what the log is like.

The state is what was read under the append lock, moved on by every append of the batch
that was accepted before. Nothing here waits or asks a database.
"""

from collections.abc import Sequence
from uuid import UUID

from treering_server.core.conditions import Looked
from treering_server.core.errors import (
    ConditionFailed,
    ConditionTooCostly,
    EventIdConflict,
    LogState,
    PositionAheadOfLog,
    StreamDeleted,
    VersionConflict,
)
from treering_server.core.incarnations import check_current
from treering_server.core.model import Append, Appended, EventId, NewEvent, StreamVersion
from treering_server.core.query import Terms
from treering_server.core.record import EnvelopeEncoder, same_event
from treering_server.core.removal import Rule
from treering_server.core.storage import (
    NO_STREAM,
    Incarnation,
    LockedState,
    NewRecord,
    RecordedId,
    StreamState,
)
from treering_server.core.tail import Tail


class LookAgain(Exception):
    """What an append condition met before the lock was taken has been removed since."""


class BatchState:
    """The log as the appends accepted so far leave it."""

    def __init__(
        self, locked: LockedState, incarnations: Sequence[Incarnation], tail: Tail
    ) -> None:
        """Begins with what was read under the lock. The tail reaches to its head, and back to
        wherever the conditions of the batch were looked at before."""
        self.log_id = locked.head.log_id
        self.head = locked.head.position
        self.recorded_at = locked.head.recorded_at
        self.has_rules = locked.head.generation > 0
        self.streams = dict(locked.streams)
        self.ids: dict[EventId, RecordedId | NewRecord] = dict(locked.ids)
        self.incarnations = incarnations
        self.tail = tail
        self.records: list[NewRecord] = []
        """What is to be inserted, in order."""

    @property
    def log_state(self) -> LogState:
        """Where the log is, for refusals."""
        return LogState(self.log_id, self.head)

    def stream(self, name: str) -> StreamState:
        """A stream, as far as an append needs to know it."""
        return self.streams.get(name, NO_STREAM)

    def removes(self, stream: str, version: int, recorded_at: int, now: int) -> bool:
        """Whether an event is removed, as far as the streams that were asked for tell."""
        state = self.streams.get(stream)
        return state is not None and state.rule.removes(
            version, recorded_at, last_version=state.last_version, now=now
        )

    def moving_rules(self) -> dict[str, tuple[Rule, int]]:
        """What of the streams that are written to is removed as they grow, and how far they
        have grown."""
        if not self.has_rules:
            return {}
        streams = {record.terms.stream for record in self.records}
        states = {name: self.stream(name) for name in streams if name}
        return {
            name: (state.rule, state.last_version)
            for name, state in states.items()
            if state.rule.is_moving
        }


def decide(
    state: BatchState,
    append: Append,
    looked: Sequence[Looked],
    now: int,
    encoder: EnvelopeEncoder,
) -> Appended:
    """Accepts an append, and moves the state on; or refuses it, and leaves the state alone.

    The order of the refusals is part of the contract.

    Args:
        state: The log.
        append: What is asked for.
        looked: What was found before the lock was taken, for each condition.
        now: Microseconds since 1970, by this server's clock.
        encoder: Encodes the envelopes.

    Raises:
        Refusal: Why it is not recorded.
        LookAgain: Its conditions must be looked at again.
    """
    recorded_at = max(now, state.recorded_at)
    placed = append.placed_events()
    repeated = _repeated(state, placed, recorded_at)
    if repeated is not None:
        return repeated
    check_current(append.expected_log_id, state.log_state, state.incarnations)
    for part in append.streams:
        if part.events and state.stream(part.stream).permanently_deleted:
            raise StreamDeleted(part.stream)
    for part in append.streams:
        version = state.stream(part.stream).version
        if part.expectation is not None and not part.expectation.holds(version):
            raise VersionConflict(part.stream, part.expectation, version)
    _check_conditions(state, append, looked, recorded_at)
    return _accept(state, placed, recorded_at, encoder)


def _repeated(
    state: BatchState, placed: Sequence[tuple[str, NewEvent]], now: int
) -> Appended | None:
    """The answer of the first time, if this append is a repeat; None if all of it is new."""
    found = [state.ids.get(event.id) for _, event in placed]
    taken = [each for each in found if each is not None]
    if not taken:
        return None
    first = taken[0]
    for index, ((stream, event), recorded) in enumerate(zip(placed, found, strict=True)):
        if (
            recorded is None
            or recorded.stream != stream
            or recorded.position != first.position + index
            or _differs(state, event, recorded, now)
        ):
            conflicting = next(
                event for (_, event), each in zip(placed, found, strict=True) if each
            )
            raise EventIdConflict(UUID(bytes=conflicting.id), first.position)
    versions = {recorded.stream: recorded.version for recorded in taken if recorded.stream}
    return Appended(
        first_position=first.position,
        last_position=taken[-1].position,
        versions=tuple(StreamVersion(*each) for each in versions.items()),
        recorded_at=taken[-1].recorded_at,
        duplicate=True,
        log_id=state.log_id,
    )


def _differs(
    state: BatchState, event: NewEvent, recorded: RecordedId | NewRecord, now: int
) -> bool:
    """Whether what an event says is not what was recorded. Of a removed one nobody can tell."""
    if recorded.record is None or state.removes(
        recorded.stream, recorded.version, recorded.recorded_at, now
    ):
        return False
    return not same_event(event.body, recorded.record)


def _check_conditions(
    state: BatchState, append: Append, looked: Sequence[Looked], now: int
) -> None:
    for index, (condition, history) in enumerate(zip(append.conditions, looked, strict=True)):
        if condition.after_position > state.head:
            raise PositionAheadOfLog(
                f"conditions[{index}].after_position", condition.after_position, state.log_state
            )
        if (met := history.match) is not None:
            if state.removes(met.terms.stream, met.version, met.recorded_at, now):
                raise LookAgain
            raise ConditionFailed(met.position, index)
        if history.too_costly:
            raise ConditionTooCostly(index)
        match = state.tail.first(condition.fail_if_match, history.to, now)
        if match is not None:
            raise ConditionFailed(match, index)


def _accept(
    state: BatchState,
    placed: Sequence[tuple[str, NewEvent]],
    recorded_at: int,
    encoder: EnvelopeEncoder,
) -> Appended:
    first = state.head + 1
    last_versions: dict[str, int] = {}
    records = []
    for position, (stream, event) in enumerate(placed, start=first):
        version = 0
        if stream:
            version = last_versions.get(stream) or state.stream(stream).last_version
            version += 1
            last_versions[stream] = version
        envelope = encoder.encode(position, stream, version, recorded_at)
        terms = Terms(stream, event.type, event.tags)
        record = NewRecord(position, recorded_at, version, event.id, terms, event.body + envelope)
        state.ids[event.id] = record
        records.append(record)
    state.records += records
    state.tail.extend([(each.terms, each.version, recorded_at) for each in records])
    for stream, version in last_versions.items():
        rule = state.stream(stream).rule
        state.streams[stream] = StreamState(version=version, last_version=version, rule=rule)
    state.head += len(placed)
    state.recorded_at = recorded_at
    return Appended(
        first_position=first,
        last_position=state.head,
        versions=tuple(StreamVersion(*each) for each in last_versions.items()),
        recorded_at=recorded_at,
        duplicate=False,
        log_id=state.log_id,
    )
