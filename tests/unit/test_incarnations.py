"""What a caller who knows an earlier log id may still do."""

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treering_server.core.errors import LogDiverged, LogMismatch, LogState
from treering_server.core.incarnations import check_current, check_position, last_common_position
from treering_server.core.storage import Incarnation

A, B, C, D = (UUID(int=n) for n in range(1, 5))
# B forked after position 10, C after 5, D after 20.
HISTORY = [Incarnation(A, 1), Incarnation(B, 11), Incarnation(C, 6), Incarnation(D, 21)]
NOW = LogState(D, 30)


@pytest.mark.parametrize(("known", "common"), [(A, 5), (B, 5), (C, 20), (D, None)])
def test_a_history_is_common_up_to_the_lowest_later_fork(known, common):
    assert last_common_position(known, NOW, HISTORY) == common


def test_an_id_that_the_log_never_had_is_a_mismatch():
    for check in (
        lambda: last_common_position(uuid4(), NOW, HISTORY),
        lambda: check_current(uuid4(), NOW, HISTORY),
        lambda: check_position(uuid4(), 0, NOW, HISTORY),
    ):
        with pytest.raises(LogMismatch):
            check()


def test_a_decision_under_an_earlier_id_is_refused_wherever_it_looked():
    check_current(None, NOW, HISTORY)
    check_current(D, NOW, HISTORY)
    with pytest.raises(LogDiverged) as refusal:
        check_current(C, NOW, HISTORY)
    assert refusal.value.last_common_position == 20
    assert refusal.value.state == NOW


def test_a_position_is_served_up_to_the_fork():
    check_position(None, 1000, NOW, HISTORY)
    check_position(D, 1000, NOW, HISTORY)
    check_position(B, 5, NOW, HISTORY)
    with pytest.raises(LogDiverged) as refusal:
        check_position(B, 6, NOW, HISTORY)
    assert refusal.value.last_common_position == 5


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20)), max_size=6))
def test_what_is_common_is_what_both_histories_have(forks):
    """Each incarnation loses the end of the log, then adds to it what is its own."""
    log: list[UUID] = []
    incarnations, histories = [], []
    for kept, added in [(0, 3), *forks]:
        del log[kept:]
        incarnations.append(Incarnation(uuid4(), len(log) + 1))
        log += [uuid4() for _ in range(added)]
        histories.append(list(log))
    state = LogState(incarnations[-1].log_id, len(log))

    for incarnation, history in zip(incarnations[:-1], histories[:-1], strict=True):
        common = last_common_position(incarnation.log_id, state, incarnations)
        assert common is not None
        assert history[:common] == log[:common]
        assert not history[common:] or history[common : common + 1] != log[common : common + 1]
