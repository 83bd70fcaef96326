"""The ids of a log that backups are put in the place of, again and again: whoever knows one of
them is told of no more in common than there is."""

from dataclasses import dataclass
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treering_server.core import storage
from treering_server.core.errors import LogMismatch, LogState
from treering_server.core.incarnations import last_common_position
from treering_server.storage.copies import Incarnation, with_lost


@dataclass
class Log:
    """A log: its events, each an object of its own, and what it has gone through."""

    events: list[object]
    incarnations: list[Incarnation]

    def copy(self):
        return Log([*self.events], [*self.incarnations])

    def common_with(self, log_id):
        """The position that a caller who knows an id is told."""
        seen = [storage.Incarnation(each.log_id, each.first_position) for each in self.incarnations]
        state = LogState(seen[-1].log_id, len(self.events))
        try:
            common = last_common_position(log_id, state, seen)
        except LogMismatch:
            return None
        return len(self.events) if common is None else common


class Operator:
    """Who makes backups and restores them."""

    def __init__(self):
        self.histories = {}
        """What there was under each id, at last."""
        self.backups = []
        self.log = Log([], [])
        self.begin()

    def begin(self):
        log_id = UUID(int=len(self.histories) + 1)
        first = len(self.log.events) + 1
        self.log.incarnations.append(Incarnation(log_id, first, 0, ""))
        self.histories[log_id] = [*self.log.events]

    def append(self, count):
        self.log.events += [object() for _ in range(count)]
        self.histories[self.log.incarnations[-1].log_id] = [*self.log.events]

    def restore(self, number):
        replaced, self.log = self.log, self.backups[number % len(self.backups)].copy()
        self.log.incarnations = [
            *with_lost(self.log.incarnations, replaced.incarnations, len(self.log.events))
        ]
        self.begin()

    def check(self):
        """Gives how many of the ids are not known any more."""
        unknown = 0
        for log_id, history in self.histories.items():
            common = self.log.common_with(log_id)
            if common is None:
                unknown += 1
            else:
                assert history[:common] == self.log.events[: len(history[:common])]
        assert self.log.common_with(self.log.incarnations[-1].log_id) == len(self.log.events)
        return unknown


steps = st.tuples(st.sampled_from(["append", "back up", "restore", "fork"]), st.integers(0, 5))


@given(st.lists(steps, min_size=8, max_size=30))
def test_nobody_is_told_of_more_than_is_common(done):
    operator = Operator()
    operator.append(3)
    operator.backups.append(operator.log.copy())
    for step, number in done:
        match step:
            case "append" | "fork":
                if step == "fork":
                    operator.begin()
                operator.append(number)
            case "back up":
                operator.backups.append(operator.log.copy())
            case "restore":
                operator.restore(number)
        operator.check()


@pytest.mark.parametrize("times", [1, 2, 5])
def test_all_is_known_after_the_same_backup_again_and_again(times):
    operator = Operator()
    operator.append(10)
    operator.backups.append(operator.log.copy())
    for _ in range(times):
        operator.append(3)
        operator.restore(0)
    assert operator.check() == 0
    assert {operator.log.common_with(log_id) for log_id in operator.histories} == {10}


def test_all_is_known_after_ever_older_backups():
    operator = Operator()
    for _ in range(5):
        operator.append(10)
        operator.begin()
        operator.backups.append(operator.log.copy())
    for number in (4, 3, 2, 1, 0):
        operator.append(3)
        operator.restore(number)
    assert operator.check() == 0


def test_another_log_is_another_log():
    mine = [Incarnation(UUID(int=1), 1, 0, ""), Incarnation(UUID(int=2), 5, 0, "")]
    others = [Incarnation(UUID(int=3), 1, 0, ""), Incarnation(UUID(int=4), 9, 0, "")]
    assert with_lost(mine, others, 8) == mine
    assert with_lost(mine, [], 8) == mine
