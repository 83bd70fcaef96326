"""The verdict on an append: what is accepted, what is refused, and with what first."""

from uuid import UUID, uuid4

import pytest

from plans.logs import append_of, make_event
from treering.v1.event_pb2 import RecordedEvent
from treering_server.core.conditions import Looked, not_looked
from treering_server.core.decide import BatchState, decide
from treering_server.core.errors import (
    ConditionFailed,
    ConditionTooCostly,
    EventIdConflict,
    LogDiverged,
    LogMismatch,
    PositionAheadOfLog,
    StreamDeleted,
    VersionConflict,
)
from treering_server.core.model import (
    Append,
    AppendCondition,
    ExpectedExists,
    ExpectedVersion,
    Head,
    StreamAppend,
    StreamVersion,
)
from treering_server.core.query import EVERYTHING, Query, QueryItem, Terms, events_of_stream
from treering_server.core.record import EnvelopeEncoder, Recorded, parse
from treering_server.core.removal import Rule
from treering_server.core.storage import Incarnation, LockedState, RecordedId, StreamState
from treering_server.core.tail import Tail

OLD_LOG, LOG = uuid4(), uuid4()
INCARNATIONS = [Incarnation(OLD_LOG, 1), Incarnation(LOG, 4)]


def met(position):
    """An event of no stream that a condition met."""
    return Recorded(uuid4(), Terms("", "A", frozenset()), position, 0, 0)


class Log:
    """A log as one batch sees it."""

    def __init__(self, streams=(), head=0, recorded_at=0):
        self.encoder = EnvelopeEncoder()
        locked = LockedState(Head(LOG, head, recorded_at, None, 1), dict(streams), {})
        tail = Tail(head)
        for name, stream in locked.streams.items():
            # As the writer does.
            if stream.rule.is_moving:
                tail.set_rule(name, stream.rule, stream.last_version, head)
        self.state = BatchState(locked, INCARNATIONS, tail)
        self.now = 1_000

    def append(self, append, looked=None):
        looked = not_looked(append.conditions) if looked is None else looked
        return decide(self.state, append, looked, self.now, self.encoder)

    def record(self, *placed):
        return self.append(append_of(*placed))

    def refuse(self, append, refusal, looked=None):
        """Sees that it is refused so, and that nothing is left of it."""
        before = self.snapshot()
        with pytest.raises(refusal) as raised:
            self.append(append, looked)
        assert self.snapshot() == before
        return raised.value

    def snapshot(self):
        state = self.state
        return (
            (state.head, state.recorded_at, state.tail.head),
            (dict(state.streams), dict(state.ids), list(state.records)),
        )

    @property
    def events(self):
        return [RecordedEvent.FromString(record.record) for record in self.state.records]


def to_stream(stream, *events, expected=None):
    expectation = ExpectedVersion(expected) if isinstance(expected, int) else expected
    return StreamAppend(stream, expectation, events or (make_event(),))


def check_only(stream, expected):
    return to_stream(stream, expected=expected)._replace(events=())


def append_all(*streams, events=(), conditions=(), log_id=None):
    return Append(streams, tuple(events), tuple(conditions), log_id, size=100)


def fail_if(query=EVERYTHING, after=0):
    return AppendCondition(query, after)


def tagged(tag):
    return Query((QueryItem(tags=frozenset({tag})),))


# --- what is accepted


def test_positions_and_versions_go_on_from_where_they_are():
    log = Log({"a": StreamState(version=4, last_version=4)}, head=10)
    first, second, loose = make_event(), make_event("Other", ["x"]), make_event()

    answer = log.append(append_all(to_stream("a", first), to_stream("b", second), events=[loose]))

    assert (answer.first_position, answer.last_position) == (11, 13)
    assert answer.versions == (StreamVersion("a", 5), StreamVersion("b", 1))
    assert (answer.recorded_at, answer.duplicate, answer.log_id) == (1_000, False, LOG)
    assert [(e.position, e.stream, e.version, e.id) for e in log.events] == [
        (11, "a", 5, str(UUID(bytes=first.id))),
        (12, "b", 1, str(UUID(bytes=second.id))),
        (13, "", 0, str(UUID(bytes=loose.id))),
    ]
    for record in log.state.records:
        recorded = parse(record.record)
        assert (recorded.id.bytes, recorded.terms) == (record.id, record.terms)
        assert (recorded.position, recorded.version) == (record.position, record.version)
        assert recorded.recorded_at == record.recorded_at == 1_000


def test_a_stream_named_twice_in_one_append_is_written_to_in_order():
    log = Log()
    answer = log.append(append_all(to_stream("a"), to_stream("b"), to_stream("a")))
    assert [(e.stream, e.version) for e in log.events] == [("a", 1), ("b", 1), ("a", 2)]
    assert answer.versions == (StreamVersion("a", 2), StreamVersion("b", 1))


def test_an_append_sees_what_the_batch_accepted_before_it():
    log = Log()
    log.append(append_all(to_stream("a", expected=0)))
    log.append(append_all(to_stream("a", expected=1)))
    assert log.refuse(append_all(to_stream("a", expected=1)), VersionConflict).actual_version == 2
    assert [event.position for event in log.events] == [1, 2]


def test_recorded_at_never_falls():
    log = Log(head=1, recorded_at=5_000)
    times = []
    for log.now in (4_999, 7_000, 6_000, 7_001):
        times.append(log.record(("a", make_event())).recorded_at)
    assert times == [5_000, 7_000, 7_000, 7_001]
    assert [parse(record.record).recorded_at for record in log.state.records] == times


def test_versions_go_on_after_a_deletion():
    log = Log({"a": StreamState(version=0, last_version=5)}, head=5)
    answer = log.append(append_all(to_stream("a", expected=0)))
    assert answer.versions == (StreamVersion("a", 6),)
    log.append(append_all(to_stream("a", expected=6)))


def test_a_check_records_nothing_of_its_stream():
    log = Log({"a": StreamState(4, 4)}, head=4)
    answer = log.append(append_all(check_only("a", 4), to_stream("b")))
    assert answer.versions == (StreamVersion("b", 1),)
    assert [event.stream for event in log.events] == ["b"]


@pytest.mark.parametrize(
    ("expectation", "at_0", "at_3"),
    [
        (ExpectedVersion(0), True, False),
        (ExpectedVersion(3), False, True),
        (ExpectedExists(True), False, True),
        (ExpectedExists(False), True, False),
    ],
    ids=str,
)
@pytest.mark.parametrize("part", [to_stream, check_only])
def test_expectations(part, expectation, at_0, at_3):
    for version, holds in ((0, at_0), (3, at_3)):
        log = Log({"a": StreamState(version, 3)}, head=3)
        append = append_all(part("a", expected=expectation), events=[make_event()])
        if holds:
            log.append(append)
        else:
            refusal = log.refuse(append, VersionConflict)
            assert (refusal.stream, refusal.expectation) == ("a", expectation)
            assert refusal.actual_version == version


def test_a_check_on_a_permanently_deleted_stream_is_made_against_version_0():
    log = Log({"a": StreamState(0, 5, permanently_deleted=True)}, head=5)
    log.append(append_all(check_only("a", 0), to_stream("b")))
    log.refuse(append_all(check_only("a", 5), to_stream("b")), VersionConflict)
    log.refuse(append_all(to_stream("a")), StreamDeleted)


# --- conditions


def test_what_was_found_before_the_lock_decides():
    log = Log(head=10)
    append = append_all(to_stream("a"), conditions=[fail_if(), fail_if(after=3)])
    refusal = log.refuse(append, ConditionFailed, [Looked(to=10), Looked(to=10, match=met(7))])
    assert (refusal.position, refusal.condition_index) == (7, 1)
    costly = [Looked(to=10), Looked(to=5, too_costly=True)]
    assert log.refuse(append, ConditionTooCostly, costly).condition_index == 1
    log.append(append, [Looked(to=10), Looked(to=10)])


def test_a_condition_sees_the_events_after_what_was_looked_at_and_of_its_own_batch():
    log = Log()
    log.record(("a", make_event(tags=["x"])), ("a", make_event(tags=["y"])))
    for query, after, position in (
        (tagged("x"), 0, 1),
        (tagged("x"), 1, None),
        (tagged("y"), 0, 2),
        (EVERYTHING, 1, 2),
        (EVERYTHING, 2, None),
    ):
        append = append_all(conditions=[fail_if(query, after)], events=[])
        if position is None:
            log.append(append)
        else:
            assert log.refuse(append, ConditionFailed).position == position


def test_an_append_does_not_meet_its_own_events():
    log = Log()
    for n in range(3):
        log.append(append_all(to_stream("a"), conditions=[fail_if(after=n)]))
    assert log.state.head == 3


def test_a_condition_may_look_from_where_an_earlier_append_of_the_batch_ends():
    log = Log()
    append = append_all(to_stream("a"), conditions=[fail_if(after=1)])
    refusal = log.refuse(append, PositionAheadOfLog)
    assert (refusal.field, refusal.given) == ("conditions[0].after_position", 1)
    assert refusal.state.head_position == 0
    log.record(("b", make_event()))
    log.append(append)


# --- conditions and removal


def first_match(log, query=EVERYTHING, after=0):
    """Which event a condition fails by."""
    return log.refuse(
        append_all(events=[make_event()], conditions=[fail_if(query, after)]), ConditionFailed
    ).position


def test_a_condition_does_not_meet_what_later_appends_of_its_batch_removed():
    log = Log({"a": StreamState(3, 3, rule=Rule(0, max_count=2))}, head=3)
    for _ in range(2):
        log.record(("a", make_event()), ("b", make_event()))
    assert first_match(log, after=3) == 4
    log.record(("a", make_event()))
    assert first_match(log, after=3) == 5
    assert first_match(log, events_of_stream("a"), after=3) == 6
    log.record(("a", make_event()), ("a", make_event()))
    assert first_match(log, events_of_stream("a"), after=3) == 9


def test_a_condition_is_decided_before_what_its_own_append_removes():
    log = Log({"a": StreamState(1, 1, rule=Rule(0, max_count=1))}, head=1)
    log.record(("a", make_event()))
    append = append_all(to_stream("a"), conditions=[fail_if(after=1)])
    assert log.refuse(append, ConditionFailed).position == 2
    log.append(append_all(to_stream("a"), conditions=[fail_if(after=2)]))


def test_an_append_to_one_stream_removes_nothing_of_others():
    log = Log(
        {
            "a": StreamState(0, 0, rule=Rule(0, max_count=1)),
            "b": StreamState(0, 0, rule=Rule(0, max_count=2)),
        }
    )
    log.record(("a", make_event()), ("b", make_event()), ("b", make_event()))
    assert first_match(log) == 1
    log.record(("b", make_event()))
    assert first_match(log, events_of_stream("b")) == 3
    assert first_match(log) == 1


def test_a_condition_does_not_meet_what_is_too_old_by_the_time_of_the_append():
    log = Log({"a": StreamState(0, 0, rule=Rule(0, max_age=10))})
    log.record(("a", make_event()), ("b", make_event()))
    log.now = 1_010
    assert first_match(log) == 1
    log.now = 1_011
    assert first_match(log) == 2
    log.record(("a", make_event()))
    log.now = 1_000
    assert first_match(log) == 2, "time does not go back"


def test_what_was_found_before_the_lock_decides_though_it_may_be_removed_by_now():
    log = Log({"a": StreamState(5, 5, rule=Rule(4, max_count=1))}, head=5)
    append = append_all(to_stream("b"), conditions=[fail_if()])
    assert log.refuse(append, ConditionFailed, [Looked(to=5, match=met(1))]).position == 1


def test_what_is_told_of_rules_after_a_batch():
    """Of the streams written to, those whose rule moves."""
    count, age = Rule(1, max_count=2), Rule(0, max_age=10)
    log = Log(
        {
            "count": StreamState(4, 4, rule=count),
            "age": StreamState(1, 1, rule=age),
            "untouched": StreamState(1, 1, rule=age),
            "floor": StreamState(9, 9, rule=Rule(7)),
            "plain": StreamState(9, 9),
        },
        head=30,
    )
    for stream in ("count", "age", "floor", "plain", "new", ""):
        log.record((stream, make_event()))
    log.append(append_all(check_only("untouched", 1), to_stream("new")))
    assert log.state.moving_rules() == {"count": (count, 5), "age": (age, 2)}


# --- which refusal comes first


def test_the_order_of_refusals():
    """An append that is wrong in every way; each refusal shows when those before it are gone."""
    log = Log({"gone": StreamState(0, 2, permanently_deleted=True)}, head=3)
    taken = make_event()
    log.record(("a", taken))

    def attempt(refusal, *, looked=None, condition=4, **parts):
        parts = {
            "first": to_stream("a", expected=7),
            "second": to_stream("gone", expected=7),
            "third": to_stream("b", expected=8),
            "loose": make_event(id=taken.id),
            "log_id": uuid4(),
        } | parts
        append = append_all(
            *(part for part in (parts["first"], parts["second"], parts["third"]) if part),
            events=[parts["loose"]],
            conditions=[fail_if(tagged("nothing")), fail_if(after=condition), fail_if(after=999)],
            log_id=parts["log_id"],
        )
        looked = looked or not_looked(append.conditions)
        return log.refuse(append, refusal, looked)

    assert attempt(EventIdConflict, condition=999).id.bytes == taken.id
    fixed = {"loose": make_event()}
    attempt(LogMismatch, **fixed, condition=999)
    attempt(LogDiverged, **fixed, condition=999, log_id=OLD_LOG)
    fixed["log_id"] = LOG
    assert attempt(StreamDeleted, **fixed, condition=999).stream == "gone"
    fixed["second"] = check_only("gone", 7)
    assert attempt(VersionConflict, **fixed, condition=999).stream == "a"
    fixed["first"] = to_stream("a", expected=1)
    assert attempt(VersionConflict, **fixed, condition=999).stream == "gone"
    fixed["second"] = None
    assert attempt(VersionConflict, **fixed, condition=999).stream == "b"
    fixed["third"] = None
    assert attempt(PositionAheadOfLog, **fixed, condition=998).given == 998
    refusal = attempt(ConditionFailed, **fixed, condition=3)
    assert (refusal.condition_index, refusal.position) == (1, 4)
    costly = [Looked(4), Looked(4, too_costly=True), Looked(4)]
    assert attempt(ConditionTooCostly, **fixed, looked=costly).condition_index == 1
    assert attempt(PositionAheadOfLog, **fixed).given == 999


def test_of_one_condition_the_position_comes_before_the_match():
    log = Log(head=3)
    append = append_all(to_stream("a"), conditions=[fail_if(after=9)])
    log.refuse(append, PositionAheadOfLog, [Looked(to=9, match=met(2))])


def test_a_repeat_comes_before_all_that_would_refuse_it():
    log = Log()
    event = make_event()
    first = log.append(append_all(to_stream("a", event, expected=0)))
    log.state.streams["a"] = StreamState(0, 1, permanently_deleted=True)

    again = append_all(
        to_stream("a", event, expected=0), conditions=[fail_if(), fail_if(after=99)], log_id=uuid4()
    )

    assert log.append(again) == first._replace(duplicate=True)
    assert len(log.events) == 1


# --- repeats

A, B, C, D, E = (make_event("T", [f"tag:{n}"], data=b"%d" % n) for n in range(5))


@pytest.fixture
def log():
    """Two appends next to one another: A, B, C and D, E."""
    log = Log()
    log.record(("a", A), ("b", B), ("a", C))
    log.now += 1
    log.record(("a", D), ("", E))
    return log


@pytest.mark.parametrize(
    ("placed", "first", "last", "versions", "recorded_at"),
    [
        ([("a", A), ("b", B), ("a", C)], 1, 3, [("a", 2), ("b", 1)], 1_000),
        ([("a", D), ("", E)], 4, 5, [("a", 3)], 1_001),
        ([("a", A)], 1, 1, [("a", 1)], 1_000),
        ([("b", B), ("a", C)], 2, 3, [("b", 1), ("a", 2)], 1_000),
        ([("a", C), ("a", D)], 3, 4, [("a", 3)], 1_001),
        ([("", E)], 5, 5, [], 1_001),
    ],
    ids=["first", "second", "start of one", "end of one", "end and start", "of no stream"],
)
def test_a_run_of_what_is_recorded_is_a_repeat(log, placed, first, last, versions, recorded_at):
    before = log.snapshot()
    answer = log.record(*placed)
    assert (answer.first_position, answer.last_position) == (first, last)
    assert answer.versions == tuple(StreamVersion(*each) for each in versions)
    assert (answer.recorded_at, answer.duplicate, answer.log_id) == (recorded_at, True, LOG)
    assert log.snapshot() == before


def changed(event, **fields):
    return make_event(
        **{"type": event.type, "tags": event.tags, "id": event.id, "data": b"0"} | fields
    )


@pytest.mark.parametrize(
    ("placed", "named", "position"),
    [
        ([("b", B), ("a", A)], B, 2),
        ([("a", A), ("a", C)], A, 1),
        ([("a", A), ("b", B), ("a", C), ("b", make_event())], A, 1),
        ([("b", make_event()), ("a", A)], A, 1),
        ([("b", make_event()), ("a", C), ("a", A)], C, 3),
        ([("b", A)], A, 1),
        ([("", A)], A, 1),
        ([("a", changed(A, type="U"))], A, 1),
        ([("a", changed(A, data=b"!"))], A, 1),
        ([("a", changed(A, tags=["tag:0", "more"]))], A, 1),
        ([("a", changed(A, tags=[]))], A, 1),
        ([("a", A), ("b", changed(B, data=b"!"))], A, 1),
    ],
    ids=[
        "another order",
        "a hole",
        "and more behind",
        "something new before",
        "the first taken one of the request",
        "another stream",
        "no stream",
        "another type",
        "other data",
        "one more tag",
        "no tags",
        "the second one differs",
    ],
)
def test_anything_else_with_a_known_id_is_a_conflict(log, placed, named, position):
    refusal = log.refuse(append_of(*placed), EventIdConflict)
    assert (refusal.id.bytes, refusal.position) == (named.id, position)


def test_order_and_number_of_tags_metadata_and_time_are_not_compared():
    log = Log()
    event = make_event("T", ["x", "y"])
    log.record(("a", event))
    message = RecordedEvent.FromString(event.body)
    del message.tags[:]
    message.tags.extend(["y", "x", "y"])
    message.metadata["traceparent"] = "another"
    message.time.seconds = 1
    again = event._replace(body=message.SerializeToString())
    assert log.record(("a", again)).duplicate


def test_of_a_removed_event_only_id_stream_and_order_are_compared():
    log = Log(head=3)
    log.state.ids[A.id] = RecordedId(1, "a", 1, 500, None)
    log.state.ids[B.id] = RecordedId(2, "a", 2, 500, None)
    log.state.ids[C.id] = RecordedId(3, "a", 3, 600, C.body)
    assert log.record(("a", changed(A, data=b"gone")), ("a", B), ("a", C)).duplicate
    log.refuse(append_of(("b", A)), EventIdConflict)
    log.refuse(append_of(("a", B), ("a", A)), EventIdConflict)
    log.refuse(append_of(("a", B), ("a", changed(C, data=b"!"))), EventIdConflict)


@pytest.mark.parametrize(
    ("rule", "now"),
    [
        (Rule(2), 1_000),
        (Rule(0, max_count=1), 1_000),
        (Rule(0, max_age=450), 1_000),
        (Rule(1, max_count=2, max_age=450), 1_000),
    ],
    ids=str,
)
def test_of_an_event_that_is_removed_but_not_erased_no_more_is_compared(rule, now):
    """Whether its content is still there must not show."""
    log = Log({"a": StreamState(3, 3, rule=rule)}, head=3)
    log.now = now
    log.state.ids[A.id] = RecordedId(1, "a", 1, 500, A.body)
    log.state.ids[B.id] = RecordedId(2, "a", 2, 500, B.body)
    log.state.ids[C.id] = RecordedId(3, "a", 3, 600, C.body)
    assert log.record(("a", changed(A, data=b"!")), ("a", changed(B, type="U")), ("a", C)).duplicate
    log.refuse(append_of(("b", A)), EventIdConflict)
    log.refuse(append_of(("a", B), ("a", A)), EventIdConflict)
    log.refuse(append_of(("a", changed(C, data=b"!"))), EventIdConflict)


def test_of_what_the_same_batch_removed_no_more_is_compared():
    log = Log({"a": StreamState(0, 0, rule=Rule(0, max_count=1))})
    first = log.record(("a", A))
    log.refuse(append_of(("a", changed(A, data=b"!"))), EventIdConflict)
    log.record(("a", B))
    assert log.record(("a", changed(A, data=b"!"))) == first._replace(duplicate=True)
    log.refuse(append_of(("a", changed(B, data=b"!"))), EventIdConflict)


def test_a_repeat_of_what_was_deleted_is_a_repeat_still():
    log = Log({"a": StreamState(0, 2, rule=Rule(2)), "b": StreamState(1, 1)}, head=3)
    log.state.ids[A.id] = RecordedId(1, "a", 1, 500, A.body)
    log.state.ids[B.id] = RecordedId(2, "a", 2, 500, None)
    log.state.ids[C.id] = RecordedId(3, "b", 1, 500, C.body)
    again = append_all(to_stream("a", A, B, expected=7), to_stream("b", C))
    answer = log.append(again)
    assert answer.duplicate
    assert answer.versions == (StreamVersion("a", 2), StreamVersion("b", 1))
    assert not log.events


def test_an_event_of_no_stream_is_never_removed():
    log = Log({"a": StreamState(1, 1, rule=Rule(0, max_age=1))}, head=2)
    log.state.ids[A.id] = RecordedId(1, "", 0, 1, A.body)
    log.refuse(append_of(("", changed(A, data=b"!"))), EventIdConflict)


def test_what_a_refused_append_would_have_recorded_is_not_known():
    log = Log()
    event = make_event()
    log.refuse(append_all(to_stream("a", event, expected=1)), VersionConflict)
    assert not log.append(append_all(to_stream("a", event, expected=0))).duplicate


def test_a_repeat_in_the_same_batch():
    log = Log()
    append = append_all(to_stream("a", A, B, expected=0), events=[C])
    first = log.append(append)
    assert log.append(append) == first._replace(duplicate=True)
    assert [UUID(event.id).bytes for event in log.events] == [A.id, B.id, C.id]
