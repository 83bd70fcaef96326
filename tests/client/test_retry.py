import grpc
import pytest

from scripted import fail
from treering import errors
from treering.retry import (
    DOUBTFUL_ATTEMPTS,
    FIRST_DELAY_SECONDS,
    LONGEST_DELAY_SECONDS,
    Attempts,
    Backoff,
    may_pass,
)

Code = grpc.StatusCode


def error_of(step):
    return errors.from_status(step.code, "", step.all_trailers())


def plain(code):
    return errors.from_status(code, "", ())


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (plain(Code.UNAVAILABLE), True),
        (error_of(fail("STORAGE_UNAVAILABLE", Code.UNAVAILABLE)), True),
        (error_of(fail("SHUTTING_DOWN", Code.UNAVAILABLE)), True),
        (error_of(fail("OUTCOME_UNKNOWN", Code.UNAVAILABLE)), True),
        (error_of(fail("OVERLOADED", Code.RESOURCE_EXHAUSTED)), True),
        (error_of(fail("STORAGE_FULL", Code.RESOURCE_EXHAUSTED)), False),
        (error_of(fail("STORAGE_FULL", Code.RESOURCE_EXHAUSTED, retry_after={"seconds": 1})), True),
        (error_of(fail("MIN_POSITION_NOT_REACHED", Code.UNAVAILABLE)), False),
        (error_of(fail("VERSION_CONFLICT", Code.ABORTED)), False),
        (error_of(fail("READ_ONLY", Code.FAILED_PRECONDITION)), False),
        (plain(Code.RESOURCE_EXHAUSTED), False),
        (plain(Code.ABORTED), False),
        (plain(Code.INTERNAL), False),
        (plain(Code.UNIMPLEMENTED), False),
        (errors.ClientClosed("closed"), False),
    ],
)
def test_what_may_pass_is_known(error, passes):
    assert may_pass(error) is passes


def test_delays_grow_up_to_a_bound():
    backoff = Backoff(lambda: 1.0)
    delays = [backoff.next() for _ in range(12)]
    assert delays[:3] == [FIRST_DELAY_SECONDS, 2 * FIRST_DELAY_SECONDS, 4 * FIRST_DELAY_SECONDS]
    assert delays[-1] == LONGEST_DELAY_SECONDS
    backoff.reset()
    assert backoff.next() == FIRST_DELAY_SECONDS


def test_delays_are_jittered_and_never_zero():
    assert Backoff(lambda: 0.0).next() == FIRST_DELAY_SECONDS / 2
    assert len({Backoff().next() for _ in range(20)}) > 1


def test_the_servers_pause_is_kept_and_jittered():
    assert Backoff(lambda: 0.0).next(2.0) == 2.0 + FIRST_DELAY_SECONDS / 2


def test_attempts_end_with_the_time():
    attempts = Attempts(deadline=10.0, max_attempts=None)
    error = plain(Code.UNAVAILABLE)
    assert attempts.remaining(4.0) == 6.0
    assert attempts.remaining(11.0) == 0.0
    assert not attempts.gives_up(error, delay=1.0, now=8.9)
    assert attempts.gives_up(error, delay=1.0, now=9.0)


def test_attempts_may_have_no_end():
    attempts = Attempts(deadline=None, max_attempts=None)
    assert attempts.remaining(1e9) is None
    assert not any(attempts.gives_up(plain(Code.UNAVAILABLE), 1.0, 1e9) for _ in range(1000))


def test_attempts_are_counted():
    attempts = Attempts(deadline=None, max_attempts=2)
    error = plain(Code.UNAVAILABLE)
    assert [attempts.gives_up(error, 0.0, 0.0) for _ in range(2)] == [False, True]


@pytest.mark.parametrize("code", [Code.INTERNAL, Code.UNKNOWN, Code.CANCELLED])
def test_what_may_be_a_defect_is_tried_a_few_times(code):
    attempts = Attempts(deadline=None, max_attempts=None)
    given_up = [attempts.gives_up(plain(code), 0.0, 0.0) for _ in range(DOUBTFUL_ATTEMPTS)]
    assert given_up == [False] * (DOUBTFUL_ATTEMPTS - 1) + [True]


def test_what_is_final_is_tried_once():
    assert Attempts(None, None).gives_up(plain(Code.ABORTED), 0.0, 0.0)


def test_an_outcome_once_unknown_stays_so():
    attempts = Attempts(deadline=None, max_attempts=2)
    assert not attempts.gives_up(plain(Code.UNAVAILABLE), 0.0, 0.0)
    last = error_of(fail("STORAGE_UNAVAILABLE", Code.UNAVAILABLE))
    assert not last.outcome_unknown
    assert attempts.gives_up(last, 0.0, 0.0)
    assert last.outcome_unknown
