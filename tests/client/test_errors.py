import copy
import inspect
import pickle

import grpc
import pytest
from google.rpc.status_pb2 import Status

import treering
from scripted import Fail, fail, failure
from treering import errors
from treering.v1 import failure_pb2 as pb

ABORTED = grpc.StatusCode.ABORTED
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE

EXAMPLES = {
    "VERSION_CONFLICT": (
        {"version_conflict": pb.VersionConflict(stream="s", expected_version=2, actual_version=3)},
        {"stream": "s", "expected_version": 2, "expected_exists": None, "actual_version": 3},
    ),
    "CONDITION_FAILED": (
        {"condition_failed": pb.ConditionFailed(position=7, condition_index=1)},
        {"position": 7, "condition_index": 1},
    ),
    "EVENT_ID_CONFLICT": (
        {"event_id_conflict": pb.EventIdConflict(id="i", position=7)},
        {"event_id": "i", "position": 7},
    ),
    "INVALID_REQUEST": (
        {"invalid_request": pb.InvalidRequest(violations=[{"field": "f", "description": "d"}])},
        {"violations": (errors.Violation("f", "d"),)},
    ),
    "LIMIT_EXCEEDED": (
        {
            "invalid_request": pb.InvalidRequest(
                violations=[{"field": "f", "limit": 1, "actual": 2}]
            )
        },
        {"violations": (errors.Violation("f", "", 1, 2),)},
    ),
    "POSITION_AHEAD_OF_LOG": (
        {"log_state": pb.LogState(log_id="l", head_position=7)},
        {"log_id": "l", "head_position": 7},
    ),
    "MIN_POSITION_NOT_REACHED": (
        {"log_state": pb.LogState(log_id="l", head_position=7)},
        {"log_id": "l", "head_position": 7},
    ),
    "LOG_MISMATCH": (
        {"log_state": pb.LogState(log_id="l", head_position=7)},
        {"log_id": "l", "head_position": 7},
    ),
    "LOG_DIVERGED": (
        {"log_state": pb.LogState(log_id="l", head_position=7, last_common_position=5)},
        {"log_id": "l", "head_position": 7, "last_common_position": 5},
    ),
}

REASONS = [
    name.removeprefix("FAILURE_REASON_")
    for name in pb.FailureReason.keys()  # noqa: SIM118 - no dict
    if name != "FAILURE_REASON_UNSPECIFIED"
]


def test_every_reason_of_the_api_has_a_class():
    assert sorted(errors.BY_REASON) == sorted(REASONS)


def test_every_exception_is_in_the_tree_and_exported():
    classes = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value)
        and issubclass(value, errors.TreeringError)
        and not name.startswith("_")
    }
    tree = [line for line in errors.__doc__.splitlines() if "──" in line or "TreeringError" in line]
    in_tree = {
        line.replace("│", " ").replace("├──", "").replace("└──", "").split()[0] for line in tree
    }
    assert classes <= in_tree
    assert classes <= set(treering.__all__)


def test_the_tree_shows_who_descends_from_whom():
    parents = {0: errors.TreeringError}
    for line in errors.__doc__.splitlines():
        if "── " not in line:
            continue
        before, _, after = line.partition("── ")
        depth = (len(before) - 5) // 4 + 1
        child = getattr(errors, after.split()[0])
        assert issubclass(child, parents[depth - 1])
        parents[depth] = child


@pytest.mark.parametrize("reason", REASONS)
def test_a_failure_becomes_its_exception_with_its_facts(reason):
    details, facts = EXAMPLES.get(reason, ({}, {}))
    error = errors.from_failure(failure(reason, ABORTED, **details))
    assert type(error) is errors.BY_REASON[reason]
    assert (error.code, error.reason) == (ABORTED, reason)
    assert {name: getattr(error, name) for name in facts} == facts
    assert str(error).startswith(f"{reason}: because of {reason}")
    assert error.retry_after is None


@pytest.mark.parametrize(
    ("last_common_position", "said"),
    [
        (5, "undo what was made of events after position 5, or rebuild it all"),
        (0, "rebuild what was made of events"),
    ],
)
def test_a_log_that_diverged_says_what_a_consumer_has_to_do(last_common_position, said):
    state = pb.LogState(log_id="l", head_position=7, last_common_position=last_common_position)
    step = fail("LOG_DIVERGED", grpc.StatusCode.FAILED_PRECONDITION, log_state=state)
    error = errors.from_status(step.code, "", step.all_trailers())
    go_on = treering.Checkpoint(error.log_id, error.last_common_position)
    assert go_on == treering.Checkpoint("l", last_common_position)
    assert str(error) == (
        f"LOG_DIVERGED: because of LOG_DIVERGED. Consumers: {said}; "
        f"then go on after Checkpoint('l', {last_common_position})."
    )


def test_what_was_expected_may_be_existence():
    conflict = pb.VersionConflict(stream="s", expected_exists=False, actual_version=3)
    error = errors.from_failure(failure("VERSION_CONFLICT", ABORTED, version_conflict=conflict))
    assert (error.expected_version, error.expected_exists) == (None, False)


def test_the_pause_asked_for_is_in_seconds():
    message = failure("OVERLOADED", grpc.StatusCode.RESOURCE_EXHAUSTED)
    message.retry_after.nanos = 250_000_000
    assert errors.from_failure(message).retry_after == 0.25


def test_the_failure_is_found_in_the_trailers():
    step = fail("STREAM_DELETED", grpc.StatusCode.FAILED_PRECONDITION)
    error = errors.from_status(step.code, "the details", step.all_trailers())
    assert type(error) is errors.StreamDeleted


def test_a_reason_of_a_later_version_falls_back_on_its_code():
    later = pb.Failure(code=ABORTED.value[0], reason=99, message="new")
    error = errors.from_failure(later)
    assert type(error) is errors.Conflict
    assert (error.reason, error.message) == ("REASON_99", "new")


def test_details_of_others_are_passed_over():
    details = Status(code=9)
    details.details.add(type_url="type.googleapis.com/other.Detail", value=b"\xff")
    for trailers in (
        [("grpc-status-details-bin", details.SerializeToString())],
        [("grpc-status-details-bin", b"\xff\xff")],
        [("other", "text")],
        [],
        None,
    ):
        error = errors.from_status(grpc.StatusCode.FAILED_PRECONDITION, "why", trailers)
        assert type(error) is errors.FailedPrecondition
        assert (error.message, error.reason) == ("why", "")
        assert str(error) == "FAILED_PRECONDITION: why"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (UNAVAILABLE, errors.Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (grpc.StatusCode.INTERNAL, errors.ServerDefect),
        (grpc.StatusCode.PERMISSION_DENIED, errors.TreeringError),
    ],
)
def test_without_a_failure_the_code_decides(code, expected):
    assert type(errors.from_status(code, None, None)) is expected


def test_the_pushback_of_a_proxy_is_a_pause():
    def pause(text):
        trailers = [("grpc-retry-pushback-ms", text)]
        return errors.from_status(UNAVAILABLE, "", trailers).retry_after

    assert [pause("1500"), pause("-1"), pause("soon")] == [1.5, None, None]


@pytest.mark.parametrize(
    ("step", "unknown"),
    [
        (Fail(UNAVAILABLE), True),
        (Fail(grpc.StatusCode.INTERNAL), True),
        (Fail(grpc.StatusCode.CANCELLED), True),
        (fail("OUTCOME_UNKNOWN", UNAVAILABLE), True),
        (fail("STORAGE_UNAVAILABLE", UNAVAILABLE), False),
        (fail("SHUTTING_DOWN", UNAVAILABLE), False),
        (fail("OVERLOADED", grpc.StatusCode.RESOURCE_EXHAUSTED), False),
        (fail("VERSION_CONFLICT", ABORTED), False),
    ],
)
def test_an_error_says_whether_the_append_may_have_been_recorded(step, unknown):
    error = errors.from_status(step.code, "", step.all_trailers())
    assert error.outcome_unknown is unknown


@pytest.mark.parametrize("reason", REASONS)
def test_exceptions_survive_pickling(reason):
    details, _ = EXAMPLES.get(reason, ({}, {}))
    error = errors.from_failure(failure(reason, ABORTED, **details))
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)


def test_an_exception_has_only_its_own_facts():
    with pytest.raises(TypeError, match="NotFound has no attribute position"):
        errors.NotFound("", position=7)
