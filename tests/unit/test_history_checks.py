"""Each promise's validator passes a right history and sees every way in which it is broken."""

from dataclasses import replace

import pytest

from checks import PROMISES, BrokenPromise, check_history
from records import (
    Append,
    Attempt,
    Change,
    Condition,
    History,
    Logged,
    Matching,
    Read,
    Sent,
    Subscription,
    keep_log,
    kept,
)

ALL = Matching()
SEATS = Matching(types=("Booked",), tags=("show:1",))
MOVES = Matching(types=("Moved",))


def sent(id, stream="", type="T", data="d", *tags):
    return Sent(id, stream, type, data, tags)


OPENED = Append((sent("e1", "a"),), (("a", 0),))
MOVED = Append((sent("e2", "from", "Moved", "-5"), sent("e3", "to", "Moved", "5")))
REPEATED = Append((sent("e4", "a"),), (("a", 1),))
BOOKED = Append((sent("e5", "", "Booked", "d", "show:1"),), conditions=(Condition(SEATS),))
CHAIN_1 = Append((sent("e6", "chain"),), (("chain", 0),))
CHAIN_2 = Append((sent("e7", "chain"),), (("chain", 1),))
FLEETING = Append((sent("e8", "fleeting"), sent("e9", "fleeting")))
STALE = Append((sent("x1", "a"),), (("a", 1),))
OVERBOOKED = Append((sent("x2", "", "Booked", "d", "show:1"),), conditions=(Condition(SEATS, 4),))
STOLEN = Append((sent("e1", "a", "T", "another"),))
LOST = Append((sent("x3", "a"), sent("x4", "b")))
UNWRITTEN = Append((sent("x5", "a"),))


def attempt(append, start, outcome="done", first=0, *versions, **facts):
    last = first + len(append.events) - 1 if first else 0
    facts = {"end": start + 0.5, "first": first, "last": last, "versions": versions, **facts}
    return Attempt(append=append, start=start, outcome=outcome, **facts)


ATTEMPTS = [
    attempt(OPENED, 1, "done", 1, ("a", 1)),
    attempt(MOVED, 2, "done", 2, ("from", 1), ("to", 1)),
    attempt(REPEATED, 3, "unknown", reason="UNAVAILABLE"),
    attempt(REPEATED, 4, "done", 4, ("a", 2), duplicate=True),
    attempt(STALE, 5, "refused", reason="VERSION_CONFLICT", stream="a", actual=2),
    attempt(BOOKED, 6, "done", 5),
    attempt(OVERBOOKED, 7, "refused", reason="CONDITION_FAILED", position=5),
    attempt(STOLEN, 8, "refused", reason="EVENT_ID_CONFLICT", position=1),
    attempt(CHAIN_1, 9, "done", 6, ("chain", 1), series="s", number=1),
    attempt(CHAIN_2, 9.1, "done", 7, ("chain", 2), series="s", number=2),
    attempt(FLEETING, 11, "done", 8, ("fleeting", 2)),
    attempt(LOST, 12, "unknown", reason="DEADLINE_EXCEEDED"),
    attempt(UNWRITTEN, 13, "unwritten", reason="STORAGE_UNAVAILABLE"),
    attempt(CHAIN_1, 14, "done", 6, ("chain", 1), duplicate=True, series="s", number=1),
]

LOG = [
    Logged(position, each.id, each.stream, version, 1000, each.type, each.data, each.tags)
    for position, version, each in [
        (1, 1, OPENED.events[0]),
        (2, 1, MOVED.events[0]),
        (3, 1, MOVED.events[1]),
        (4, 2, REPEATED.events[0]),
        (5, 0, BOOKED.events[0]),
        (6, 1, CHAIN_1.events[0]),
        (7, 2, CHAIN_2.events[0]),
        (8, 1, FLEETING.events[0]),
        (9, 2, FLEETING.events[1]),
    ]
]
LOG[7] = replace(LOG[7], type="", data="", erased=True)


def at(*positions):
    return tuple(LOG[position - 1] for position in positions)


READS = [
    Read(2.6, 2.7, 3, matching=ALL, events=at(1, 2, 3)),
    Read(2.8, 2.9, 3, matching=MOVES, events=at(2, 3)),
    Read(4.6, 4.7, 4, matching=Matching(streams=("a",)), after=1, events=at(4), min_position=4),
    Read(8.6, 8.7, 5, matching=ALL, backwards=True, limit=2, events=at(5, 4)),
    Read(10.6, 10.7, 7),
    Read(15.0, 15.1, 9, matching=Matching(streams=("fleeting",)), events=at(9)),
    Read(15.2, 15.3, 9, matching=ALL, after=3, limit=3, events=at(4, 5, 6)),
]
SUBSCRIPTIONS = [
    Subscription(0, 20, ALL, "one", items=(*at(1, 2, 3), 3, *at(4, 5, 6, 7, 9), 9)),
    Subscription(0, 20, Matching(streams=("a",)), "two", after=1, items=(3, *at(4), 8, 9)),
]
CHANGES = [Change(13.5, 13.6, "fleeting", 1)]


def history(attempts=ATTEMPTS, reads=READS, subscriptions=SUBSCRIPTIONS, changes=CHANGES):
    return History(list(attempts), list(reads), list(subscriptions), list(changes))


def with_attempt(index, **changes):
    attempts = list(ATTEMPTS)
    attempts[index] = replace(attempts[index], **changes)
    return history(attempts), LOG


def with_more(*attempts):
    return history([*ATTEMPTS, *attempts]), LOG


def with_read(index, **changes):
    reads = list(READS)
    reads[index] = replace(reads[index], **changes)
    return history(reads=reads), LOG


def with_items(index, *items):
    subscriptions = list(SUBSCRIPTIONS)
    subscriptions[index] = replace(subscriptions[index], items=items)
    return history(subscriptions=subscriptions), LOG


def with_logged(index, **changes):
    log = list(LOG)
    log[index] = replace(log[index], **changes)
    return history(), log


def log_of(*appends):
    """A log of these events alone, versions and all."""
    log, versions = [], {}
    for position, each in enumerate(appends, start=1):
        if each.stream:
            versions[each.stream] = versions.get(each.stream, 0) + 1
        version = versions.get(each.stream, 0)
        log.append(
            Logged(position, each.id, each.stream, version, 1, each.type, each.data, each.tags)
        )
    return log


def unknown_only(log_events, *appends, start=1, **facts):
    """What was recorded though nobody knows."""
    attempts = [
        attempt(append, start, "unknown", number=number, **facts)
        for number, append in enumerate(appends)
    ]
    return history(attempts, [], [], []), log_of(*log_events)


HIDDEN = Logged(8, "e8", "fleeting", 1, 1000, "T", "d")


def test_a_right_history_passes():
    check_history(history(), LOG)
    check_history(History(), [])


def test_what_is_unknown_may_be_there_or_not():
    check_history(*unknown_only((), LOST))
    check_history(*unknown_only(LOST.events, LOST))


def test_one_that_may_have_been_refused_unheard_was_not_overtaken():
    check_history(*unknown_only(UNWRITTEN.events, STALE, UNWRITTEN, series="s"))


BROKEN = {
    "an acknowledged event is lost": ("durable", (history(), LOG[:-1])),
    "an acknowledged event is elsewhere": ("durable", with_attempt(5, first=4, last=4)),
    "an event says something else": ("durable", with_logged(0, data="other")),
    "an event is in another stream": ("durable", with_logged(4, stream="b")),
    "an event lost its tags": ("durable", with_logged(4, tags=())),
    "another version was told": ("durable", with_attempt(3, versions=(("a", 3),))),
    "too few positions were told": ("durable", with_attempt(1, last=2)),
    "nobody sent it": ("durable", with_logged(6, id="nobody's")),
    "what was refused is there": (
        "durable",
        (history([attempt(STALE, 1, "refused")], [], [], []), log_of(*STALE.events)),
    ),
    "what was not written is there": (
        "durable",
        (history([attempt(UNWRITTEN, 1, "unwritten")], [], [], []), log_of(*UNWRITTEN.events)),
    ),
    "half of an append is there": ("atomic", unknown_only(LOST.events[:1], LOST)),
    "the other half is there": ("atomic", unknown_only(LOST.events[1:], LOST)),
    "something is in between": (
        "atomic",
        unknown_only((LOST.events[0], *UNWRITTEN.events, LOST.events[1]), LOST, UNWRITTEN),
    ),
    "another order within": ("atomic", unknown_only(LOST.events[::-1], LOST)),
    "a read in the middle of an append": ("atomic", with_read(0, head=2, events=at(1, 2))),
    "a sum that is on its way": ("atomic", with_read(1, events=at(2))),
    "a wrong version was accepted": ("checked", unknown_only(STALE.events, STALE)),
    "a stream that exists was accepted as new": (
        "checked",
        unknown_only(
            (*UNWRITTEN.events, sent("y", "a")),
            UNWRITTEN,
            Append((sent("y", "a"),), (("a", False),)),
        ),
    ),
    "a stream that does not exist was accepted": (
        "checked",
        unknown_only((sent("y", "a"),), Append((sent("y", "a"),), (("a", True),))),
    ),
    "both of two conflicting appends": (
        "checked",
        unknown_only((*OPENED.events, *REPEATED.events, *STALE.events), OPENED, REPEATED, STALE),
    ),
    "a seat was booked twice": (
        "checked",
        unknown_only(
            (*BOOKED.events, *OVERBOOKED.events),
            BOOKED,
            replace(OVERBOOKED, conditions=(Condition(SEATS),)),
        ),
    ),
    "refused though the version was right": ("checked", with_attempt(4, actual=1)),
    "refused for a version of the past": (
        "checked",
        with_more(
            attempt(
                replace(STALE, expected=(("a", 0),)),
                16,
                "refused",
                reason="VERSION_CONFLICT",
                stream="a",
                actual=1,
            )
        ),
    ),
    "refused for a version to come": (
        "checked",
        with_attempt(4, start=2.6, end=2.9),
    ),
    "refused for a stream that it did not expect": ("checked", with_attempt(4, stream="b")),
    "refused for an event that does not match": ("checked", with_attempt(6, position=4)),
    "refused for an event to come": ("checked", with_attempt(6, start=2.6, end=2.9)),
    "refused for no reason of its own": ("checked", with_attempt(4, reason="STREAM_DELETED")),
    "a defect of the server's": ("checked", with_attempt(2, reason="INTERNAL")),
    "a gap": ("ordered", (history(), [*LOG[:6], *LOG[7:]])),
    "time goes back": ("ordered", with_logged(8, recorded_at=999)),
    "a version twice": ("ordered", with_logged(3, version=1)),
    "recorded below what was acknowledged": ("ordered", with_attempt(0, start=3.1, end=3.2)),
    "recorded below what was read": (
        "ordered",
        (history(reads=[*READS, Read(0.1, 0.2, 1)]), LOG),
    ),
    "written by an attempt that was told to have written nothing": (
        "ordered",
        (
            history(
                [
                    *ATTEMPTS[:2],
                    replace(ATTEMPTS[2], outcome="unwritten", reason="STORAGE_UNAVAILABLE"),
                    *ATTEMPTS[4:],
                    attempt(REPEATED, 15, "unknown", reason="UNAVAILABLE"),
                    attempt(REPEATED, 16, "done", 4, ("a", 2), duplicate=True),
                ]
            ),
            LOG,
        ),
    ),
    "a read that lacks what was acknowledged": ("ordered", with_read(4, head=5)),
    "a read from the future": ("ordered", with_read(0, head=4, events=at(1, 2, 3, 4))),
    "a read below its own minimum": ("ordered", with_read(2, min_position=5)),
    "a read with a hole": ("ordered", with_read(0, events=at(1, 3))),
    "a read beyond its head": ("ordered", with_read(0, events=at(1, 2, 3, 4))),
    "a read of what does not match": ("ordered", with_read(2, events=at(3, 4))),
    "a read in another order": ("ordered", with_read(3, events=at(4, 5))),
    "a read that yields twice": ("ordered", with_read(0, events=at(1, 1, 2, 3))),
    "a read cut short of its limit": ("ordered", with_read(6, events=at(4, 5))),
    "a read over its limit": ("ordered", with_read(6, events=at(4, 5, 6, 7))),
    "a read of another content": (
        "ordered",
        with_read(2, events=(replace(LOG[3], data="other"),)),
    ),
    "overtaken": (
        "ordered",
        unknown_only((*CHAIN_2.events, *CHAIN_1.events), CHAIN_1, CHAIN_2, series="s"),
    ),
    "recorded when the one before was not": (
        "ordered",
        unknown_only(CHAIN_2.events, UNWRITTEN, CHAIN_2, series="s"),
    ),
    "a hole at the seam": ("delivered", with_items(0, *at(1, 2, 3), 3, *at(5, 6, 7, 9))),
    "the start is missing": ("delivered", with_items(0, *at(2, 3, 4))),
    "a checkpoint beyond what was sent": ("delivered", with_items(0, *at(1, 2, 3), 5)),
    "a checkpoint that goes back": ("delivered", with_items(1, 3, *at(4), 3)),
    "a checkpoint beyond the end": ("delivered", with_items(0, *at(1, 2, 3, 4, 5, 6, 7), 10)),
    "sent twice": ("delivered", with_items(0, *at(1, 2, 2, 3))),
    "sent again after the seam": ("delivered", with_items(0, *at(1, 2, 3), 3, *at(3, 4))),
    "sent in another order": ("delivered", with_items(0, *at(2, 1, 3))),
    "sent unasked": ("delivered", with_items(1, *at(2, 4))),
    "sent with another content": (
        "delivered",
        with_items(1, 3, replace(LOG[3], data="other")),
    ),
    "sent what is not there": (
        "delivered",
        with_items(0, *at(1, 2, 3, 4, 5, 6, 7, 9), replace(LOG[8], position=10)),
    ),
    "recorded twice": (
        "idempotent",
        (history(), [*LOG, replace(LOG[5], position=10, version=3)]),
    ),
    "a repeat that was told of another place": (
        "idempotent",
        with_attempt(13, first=7, last=7),
    ),
    "a repeat that was told to be new": ("idempotent", with_attempt(13, duplicate=False)),
    "a first time that was told to be a repeat": ("idempotent", with_attempt(1, duplicate=True)),
    "a repeat of what was told not to be written": (
        "idempotent",
        with_attempt(2, outcome="unwritten", reason="STORAGE_UNAVAILABLE"),
    ),
    "a repeat that was refused": (
        "idempotent",
        with_more(attempt(OPENED, 16, "refused", reason="VERSION_CONFLICT", stream="a", actual=2)),
    ),
    "an id that clashes with itself": (
        "idempotent",
        with_more(attempt(OPENED, 16, "refused", reason="EVENT_ID_CONFLICT", position=1)),
    ),
    "an id that clashes with nothing": (
        "idempotent",
        with_more(attempt(LOST, 16, "refused", reason="EVENT_ID_CONFLICT", position=1)),
    ),
    "an id that clashes elsewhere": ("idempotent", with_attempt(7, position=2)),
    "a stolen id was acknowledged": (
        "durable",
        with_attempt(7, outcome="done", first=1, last=1, versions=(("a", 1),), duplicate=True),
    ),
    "a removed event is read": ("removed", with_read(5, events=(HIDDEN, *at(9)))),
    "a removed event is sent": (
        "removed",
        (history(subscriptions=[Subscription(14, 20, ALL, after=7, items=(HIDDEN,))]), LOG),
    ),
    "an event that nobody removed is not read": ("removed", with_read(5, events=())),
    "an event that nobody removed is erased": (
        "removed",
        with_logged(6, erased=True, type="", data=""),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_history_is_seen(name):
    promise, (happened, log) = BROKEN[name]
    with pytest.raises(BrokenPromise):
        PROMISES[promise](happened, log)


def test_every_promise_was_seen_broken():
    assert {promise for promise, _ in BROKEN.values()} == PROMISES.keys()


def test_what_is_kept_is_the_same_again(tmp_path):
    happened = history()
    happened.faults.append((1.5, "kill"))
    happened.keep(tmp_path / "history.jsonl")
    keep_log(LOG, tmp_path / "log.jsonl")
    assert kept(tmp_path) == (happened, LOG)
