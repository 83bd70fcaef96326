"""Statuses: what a refusal looks like to callers, and that it always gets through to them."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes
from uuid import UUID

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from treering.v1.failure_pb2 import Failure, FailureReason
from treering_server.core import errors
from treering_server.core.errors import InvalidRequest, LogState, Refusal, Violation
from treering_server.core.model import ExpectedExists, ExpectedVersion
from treering_server.services.statuses import CODES, failure_of, status_of

FAILURE_PROTO = Path(__file__).parents[2] / "protos/treering/v1/failure.proto"
MAX = 2**63 - 1
ID = UUID("0198f000-0000-7000-8000-000000000001")
LOG_ID = UUID("0198f000-0000-7000-8000-000000000002")
STATE = LogState(LOG_ID, 8)
LOG_FACTS = {"log_id": str(LOG_ID), "head_position": "8"}
LOG_DETAIL = {"log_state": {"log_id": str(LOG_ID), "head_position": 8}}

# A refusal of each kind: its reason, what `Failure.detail` holds, and `ErrorInfo.metadata`.
REFUSALS: list[tuple[Refusal, str, dict[str, Any], dict[str, str]]] = [
    (
        errors.VersionConflict("s", ExpectedVersion(0), 3),
        "VERSION_CONFLICT",
        {"version_conflict": {"stream": "s", "expected_version": 0, "actual_version": 3}},
        {"stream": "s", "expected_version": "0", "actual_version": "3"},
    ),
    (
        errors.VersionConflict("s", ExpectedExists(exists=False), 3),
        "VERSION_CONFLICT",
        {"version_conflict": {"stream": "s", "expected_exists": False, "actual_version": 3}},
        {"stream": "s", "expected_exists": "false", "actual_version": "3"},
    ),
    (
        errors.ConditionFailed(position=4, condition_index=0),
        "CONDITION_FAILED",
        {"condition_failed": {"position": 4, "condition_index": 0}},
        {"position": "4", "condition_index": "0"},
    ),
    (
        errors.EventIdConflict(ID, 4),
        "EVENT_ID_CONFLICT",
        {"event_id_conflict": {"id": str(ID), "position": 4}},
        {"id": str(ID), "position": "4"},
    ),
    (errors.StreamDeleted("s"), "STREAM_DELETED", {}, {"stream": "s"}),
    (
        InvalidRequest((Violation("a.b", "must not"), Violation("c", "over", 5, 6))),
        "INVALID_REQUEST",
        {
            "invalid_request": {
                "violations": [
                    {"field": "a.b", "description": "must not"},
                    {"field": "c", "description": "over", "limit": 5, "actual": 6},
                ]
            }
        },
        {"field": "a.b"},
    ),
    (
        InvalidRequest((Violation("", "over", 5, 6), Violation("c", "over", 7, 8))),
        "LIMIT_EXCEEDED",
        {
            "invalid_request": {
                "violations": [
                    {"field": "", "description": "over", "limit": 5, "actual": 6},
                    {"field": "c", "description": "over", "limit": 7, "actual": 8},
                ]
            }
        },
        {"field": "", "limit": "5", "actual": "6"},
    ),
    (
        errors.PositionAheadOfLog("after_version", 9, STATE, last=2),
        "POSITION_AHEAD_OF_LOG",
        LOG_DETAIL,
        LOG_FACTS | {"field": "after_version", "given": "9", "last": "2"},
    ),
    (
        errors.PositionAheadOfLog("after_position", 9, STATE),
        "POSITION_AHEAD_OF_LOG",
        LOG_DETAIL,
        LOG_FACTS | {"field": "after_position", "given": "9"},
    ),
    (
        errors.MinPositionNotReached(9, STATE),
        "MIN_POSITION_NOT_REACHED",
        LOG_DETAIL,
        LOG_FACTS | {"min_position": "9"},
    ),
    (
        errors.LogMismatch(ID, STATE),
        "LOG_MISMATCH",
        LOG_DETAIL,
        LOG_FACTS | {"expected_log_id": str(ID)},
    ),
    (
        errors.LogDiverged(STATE, 5),
        "LOG_DIVERGED",
        {"log_state": LOG_DETAIL["log_state"] | {"last_common_position": 5}},
        LOG_FACTS | {"last_common_position": "5"},
    ),
    (errors.Overloaded("too much"), "OVERLOADED", {}, {"what": "too much"}),
    (errors.StorageUnavailable("refused"), "STORAGE_UNAVAILABLE", {}, {"what": "refused"}),
    (errors.StorageFull(), "STORAGE_FULL", {}, {}),
    (errors.ReadOnly(), "READ_ONLY", {}, {}),
    (errors.OutcomeUnknown(), "OUTCOME_UNKNOWN", {}, {}),
    (errors.ShuttingDown(), "SHUTTING_DOWN", {}, {}),
    (errors.NotFound("stream", "s"), "NOT_FOUND", {}, {"stream": "s"}),
    (errors.ConditionTooCostly(1), "CONDITION_TOO_COSTLY", {}, {"condition_index": "1"}),
]


def unpack(refusal: Refusal) -> tuple[grpc.StatusCode, Status, ErrorInfo, Failure, dict[str, Any]]:
    """What a call that is refused ends with, taken apart, its form checked."""
    code, message, trailing_metadata = status_of(refusal)
    trailers = dict(trailing_metadata)
    assert len(trailers) == len(trailing_metadata)
    status = Status.FromString(trailers["grpc-status-details-bin"])
    assert (status.code, status.message) == (code.value[0], message)
    info, failure = ErrorInfo(), Failure()
    packed_info, packed_failure = status.details
    assert packed_info.Unpack(info)
    assert packed_failure.Unpack(failure)
    return code, status, info, failure, trailers


@pytest.mark.parametrize(("refusal", "reason", "detail", "facts"), REFUSALS)
def test_a_refusal(refusal, reason, detail, facts):
    code, status, info, failure, _ = unpack(refusal)

    assert code == CODES[reason]
    assert (info.domain, info.reason, dict(info.metadata)) == ("treering", reason, facts)
    expected = Failure(
        code=code.value[0],
        reason=f"FAILURE_REASON_{reason}",
        message=refusal.message,
        **detail,
    )
    if refusal.retry_after_seconds is not None:
        expected.retry_after.FromNanoseconds(round(refusal.retry_after_seconds * 10**9))
    assert failure == expected
    assert failure.WhichOneof("detail") == next(iter(detail), None)
    assert failure_of(refusal) == failure
    assert status.message == failure.message


@pytest.mark.parametrize("refusal", [refusal for refusal, *_ in REFUSALS])
def test_only_what_can_be_repeated_says_when(refusal):
    code, _, _, failure, trailers = unpack(refusal)

    repeatable = refusal.retry_after_seconds is not None
    assert failure.HasField("retry_after") == repeatable
    assert ("grpc-retry-pushback-ms" in trailers) == repeatable
    if repeatable:
        milliseconds = int(trailers["grpc-retry-pushback-ms"])
        assert milliseconds == failure.retry_after.ToMilliseconds() > 0
    assert repeatable == (code.name in {"UNAVAILABLE", "RESOURCE_EXHAUSTED"})


def codes_in_the_proto() -> dict[str, grpc.StatusCode]:
    """The code that the comment of each reason begins with."""
    found = re.findall(
        r"// ([A-Z_]+): [^\n]*\n(?:\s*//[^\n]*\n)*\s*FAILURE_REASON_([A-Z_]+) = ",
        FAILURE_PROTO.read_text(),
    )
    return {reason: grpc.StatusCode[code] for code, reason in found}


def test_codes_are_those_that_the_proto_tells():
    in_proto = codes_in_the_proto()

    assert set(in_proto) == {
        name.removeprefix("FAILURE_REASON_") for name in FailureReason.DESCRIPTOR.values_by_name
    } - {"UNSPECIFIED"}
    assert {
        reason: code for reason, code in in_proto.items() if reason != "ALREADY_EXISTS"
    } == CODES


def test_every_reason_has_a_refusal_and_every_refusal_is_tested():
    classes = set(Refusal.__subclasses__())

    assert {kind.reason for kind in classes} == set(CODES) - {"LIMIT_EXCEEDED"}
    assert {type(refusal) for refusal, *_ in REFUSALS} == classes


# --- sizes


def bytes_on_the_wire(message: str, trailers: dict[str, Any]) -> int:
    """Of all trailers: names and values as gRPC writes them, and what HTTP/2 counts for each."""
    written = {":status": "200", "content-type": "application/grpc", "grpc-status": "13"}
    written["grpc-message"] = quote_from_bytes(
        message.encode(), safe=bytes(b for b in range(0x20, 0x7F) if b != ord("%"))
    )
    for name, value in trailers.items():
        written[name] = value if isinstance(value, str) else "x" * (-(-len(value) // 3) * 4)
    return sum(len(name) + len(value) + 32 for name, value in written.items())


def check_sizes(refusal: Refusal) -> Failure:
    """Checks that a refusal gets through, and gives its `Failure`."""
    _, status, _, failure, trailers = unpack(refusal)
    assert len(failure.message.encode()) <= 1024
    assert sum(detail.ByteSize() for detail in status.details) <= 4096
    assert bytes_on_the_wire(failure.message, trailers) <= 7 * 1024
    assert len(failure.invalid_request.violations) <= 16
    for violation in failure.invalid_request.violations:
        assert len(violation.description.encode()) <= 128
    return failure


WIDE_NAMES = {
    "four-byte": "😀" * 63,
    "percent": "%" * 255,
    "private use": "\U000f0000" * 63,
    "quotes": "'\"" * 127,
    "backslashes": "\\" * 255,
    "three-byte": "€" * 85,
}


@pytest.mark.parametrize("name", WIDE_NAMES)
def test_facts_of_the_widest_names_are_whole(name):
    stream = WIDE_NAMES[name]

    conflict = check_sizes(errors.VersionConflict(stream, ExpectedVersion(MAX), MAX))

    assert conflict.version_conflict.stream == stream
    assert conflict.version_conflict.expected_version == MAX
    for refusal in (errors.StreamDeleted(stream), errors.NotFound("stream", stream)):
        check_sizes(refusal)
        assert unpack(refusal)[2].metadata["stream"] == stream
        assert repr(stream) in unpack(refusal)[3].message


LONGEST_PATH = "conditions[127].fail_if_match.items[127].stream_prefixes[1023]"


@pytest.mark.parametrize("character", "x%€😀")
def test_as_many_violations_as_fit_are_told(character):
    violation = Violation(LONGEST_PATH, character * 128, limit=MAX, actual=MAX)

    failure = check_sizes(InvalidRequest((violation,) * 20))

    assert failure.reason == FailureReason.FAILURE_REASON_LIMIT_EXCEEDED
    assert len(failure.invalid_request.violations) >= 10
    assert {v.field for v in failure.invalid_request.violations} == {LONGEST_PATH}


@pytest.mark.parametrize("length", range(64, 256, 8))
def test_violations_of_any_size_fit(length):
    violation = Violation("x" * length, "x" * 128, limit=MAX, actual=MAX)

    check_sizes(InvalidRequest((violation,) * 16))


def test_16_violations_of_the_usual_size_are_told():
    violation = Violation(LONGEST_PATH, "x" * 60, limit=2**30, actual=2**30)

    failure = check_sizes(InvalidRequest((violation,) * 16))

    assert len(failure.invalid_request.violations) == 16


def test_what_is_told_decides_the_reason():
    over, wrong = Violation("a", "over", 1, 2), Violation("b", "wrong")

    assert unpack(InvalidRequest((over,) * 16 + (wrong,)))[2].reason == "LIMIT_EXCEEDED"
    assert unpack(InvalidRequest((over,) * 15 + (wrong,)))[2].reason == "INVALID_REQUEST"


@pytest.mark.parametrize("character", ["x", "%", "€", "😀", "\x00", "\udc80"], ids=ascii)
def test_long_messages_are_cut_between_characters(character):
    failure = check_sizes(errors.Overloaded(character * 100_000))

    assert len(failure.message.encode()) > 500
    assert set(failure.message) == {character if character != "\udc80" else "?"}


def test_a_path_without_end_is_cut():
    failure = check_sizes(InvalidRequest((Violation("x" * 100_000, "€" * 100_000),) * 16))

    assert failure.invalid_request.violations


@given(
    st.sampled_from([refusal for refusal, *_ in REFUSALS]),
    st.text(st.sampled_from("x%€😀\\\n"), max_size=1_100),
)
def test_any_refusal_gets_through(refusal, text):
    check_sizes(refusal)
    for made in (
        errors.StorageUnavailable(text),
        errors.NotFound("log", text),
        errors.VersionConflict(text[:255], ExpectedExists(exists=True), 0),
        InvalidRequest(tuple(Violation(text[n:], text[n:]) for n in range(16))),
    ):
        check_sizes(made)


WORST = [
    *(errors.VersionConflict(name, ExpectedVersion(MAX), MAX) for name in WIDE_NAMES.values()),
    InvalidRequest((Violation(LONGEST_PATH, "😀" * 32, MAX, MAX),) * 16),
    InvalidRequest((Violation("%" * 255, "%" * 128),) * 16),
    errors.Overloaded("%" * 10_000),
    errors.StorageUnavailable("😀" * 10_000),
]


async def test_the_largest_refusals_reach_a_caller():
    """Over a real connection, whose limits are gRPC's defaults."""

    async def refuse(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await context.abort(*status_of(WORST[request[0]]))
        return b""

    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler(
        "test.Service", {"Refuse": grpc.unary_unary_rpc_method_handler(refuse)}
    )
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/test.Service/Refuse")
            for number, refusal in enumerate(WORST):
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await call(bytes([number]))

                code, message, trailers = status_of(refusal)
                assert (error.value.code(), error.value.details()) == (code, message)
                received = dict(error.value.trailing_metadata())
                assert received["grpc-status-details-bin"] == trailers[0][1]
    finally:
        await server.stop(None)
