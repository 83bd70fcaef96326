"""Each check passes what is right and sees what is broken."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from checks import (
    BrokenPromise,
    check_atomic,
    check_dense,
    check_durable,
    check_log,
    check_once,
    check_ordered,
    check_recorded_at,
    check_subscription,
    check_versions,
)
from treering.v1.event_pb2 import RecordedEvent


@dataclass(frozen=True)
class Happened:
    position: int
    stream: str = ""
    version: int = 0
    recorded_at: int = 0
    id: str = ""


def placed(*streams: str) -> list[Happened]:
    """A right history: one event in each stream, "" for none."""
    versions: dict[str, int] = {}
    history = []
    for position, stream in enumerate(streams, start=1):
        versions[stream] = versions.get(stream, 0) + 1 if stream else 0
        history.append(
            Happened(position, stream, versions[stream], 100 + position // 2, f"id-{position}")
        )
    return history


RIGHT = placed("a", "b", "a", "", "b", "", "a")


def broken(index: int, **changes: Any) -> list[Happened]:
    """The right history with one event changed."""
    history = list(RIGHT)
    history[index] = replace(history[index], **changes)
    return history


def test_a_right_history_passes():
    check_log(RIGHT)
    check_ordered(RIGHT)


def test_an_empty_log_passes():
    check_log([])


def test_messages_of_protobuf_are_taken_as_they_are():
    first = RecordedEvent(position=1, id="a", recorded_at=Timestamp(seconds=1, nanos=9))
    second = RecordedEvent(position=2, id="b", recorded_at=Timestamp(seconds=2, nanos=1))
    check_log([first, second])
    with pytest.raises(BrokenPromise, match="recorded_at fell"):
        check_recorded_at([second, first])


@pytest.mark.parametrize(
    "history",
    [RIGHT[1:], RIGHT[:2] + RIGHT[3:], RIGHT[:2] + RIGHT[1:], [RIGHT[1], RIGHT[0]]],
    ids=["first-missing", "gap", "repeated", "swapped"],
)
def test_positions_that_are_not_dense_are_seen(history):
    with pytest.raises(BrokenPromise, match="was due"):
        check_dense(history)
    with pytest.raises(BrokenPromise):
        check_log(history)


def test_gaps_are_no_disorder():
    check_ordered([RIGHT[0], RIGHT[3], RIGHT[6]])


@pytest.mark.parametrize(
    "history", [[RIGHT[1], RIGHT[0]], [RIGHT[0], RIGHT[0]]], ids=["swapped", "repeated"]
)
def test_disorder_is_seen(history):
    with pytest.raises(BrokenPromise, match="came after"):
        check_ordered(history)


@pytest.mark.parametrize(
    "history",
    [
        broken(0, version=0),
        broken(0, version=2),
        broken(2, version=1),
        broken(2, version=3),
        broken(3, version=1),
    ],
    ids=["from-0", "from-2", "repeated", "gap", "outside-of-streams"],
)
def test_wrong_versions_are_seen(history):
    with pytest.raises(BrokenPromise, match="version"):
        check_versions(history)
    with pytest.raises(BrokenPromise):
        check_log(history)


def test_a_time_that_falls_is_seen():
    history = broken(3, recorded_at=0)
    with pytest.raises(BrokenPromise, match="recorded_at fell from position 3"):
        check_recorded_at(history)
    with pytest.raises(BrokenPromise):
        check_log(history)


def test_a_repeated_id_is_seen():
    history = broken(5, id="id-2")
    with pytest.raises(BrokenPromise, match="event id-2 at positions 2 and 6"):
        check_once(history)
    with pytest.raises(BrokenPromise):
        check_log(history)


@pytest.mark.parametrize(
    "ids",
    [[], ["id-1"], ["id-2", "id-3", "id-4"], ["id-6", "id-7"], ["lost", "lost-too"]],
    ids=["empty", "one", "three", "last", "none-recorded"],
)
def test_an_append_recorded_whole_or_not_at_all_passes(ids):
    check_atomic(RIGHT, [ids])


@pytest.mark.parametrize(
    "ids",
    [["id-1", "lost"], ["lost", "id-1"], ["id-1", "id-3"], ["id-3", "id-2"], ["id-7", "lost"]],
    ids=["end-lost", "start-lost", "apart", "swapped", "cut-at-the-head"],
)
def test_an_append_recorded_in_part_is_seen(ids):
    with pytest.raises(BrokenPromise, match="was recorded as"):
        check_atomic(RIGHT, [["id-5"], ids])


def test_acknowledged_events_at_their_place_pass():
    check_durable(RIGHT, {"id-1": 1, "id-7": 7})


@pytest.mark.parametrize(
    "acknowledged", [{"id-1": 1, "lost": 8}, {"id-2": 3}], ids=["lost", "moved"]
)
def test_acknowledged_events_not_at_their_place_are_seen(acknowledged):
    with pytest.raises(BrokenPromise, match="was acknowledged at"):
        check_durable(RIGHT, acknowledged)


def in_a(event: Happened) -> bool:
    return event.stream == "a"


def test_a_subscription_that_got_all_passes():
    check_subscription(RIGHT, RIGHT)
    check_subscription([RIGHT[0], RIGHT[2], RIGHT[6]], RIGHT, in_a)
    check_subscription([RIGHT[2], RIGHT[6]], RIGHT, in_a, after=1)
    check_subscription([], RIGHT, in_a, after=7)


def test_a_subscription_that_was_cut_off_may_lack_the_last_events():
    check_subscription(RIGHT[:3], RIGHT, complete=False)
    check_subscription([], RIGHT, complete=False)
    with pytest.raises(BrokenPromise):
        check_subscription([RIGHT[0], RIGHT[2]], RIGHT, complete=False)


@pytest.mark.parametrize(
    "received",
    [
        [RIGHT[0], RIGHT[2]],
        [RIGHT[2], RIGHT[6]],
        [RIGHT[0], RIGHT[6]],
        [RIGHT[0], RIGHT[2], RIGHT[2], RIGHT[6]],
        [RIGHT[0], RIGHT[2], RIGHT[6], RIGHT[6]],
        [RIGHT[2], RIGHT[0], RIGHT[6]],
        [RIGHT[0], RIGHT[1], RIGHT[2], RIGHT[6]],
        [RIGHT[0], RIGHT[2], replace(RIGHT[6], id="other")],
    ],
    ids=[
        "last-missing",
        "first-missing",
        "hole",
        "twice",
        "last-twice",
        "swapped",
        "not-asked-for",
        "other-content",
    ],
)
def test_a_subscription_that_got_anything_else_is_seen(received):
    with pytest.raises(BrokenPromise):
        check_subscription(received, RIGHT, in_a)


def test_an_event_from_before_the_start_is_seen():
    with pytest.raises(BrokenPromise, match="where id-3 at 3 was due"):
        check_subscription([RIGHT[0], RIGHT[2], RIGHT[6]], RIGHT, in_a, after=1)
