"""UpdateStream and DeleteStream: what they answer and refuse, and what is known of a stream
in every state. What becomes of the events is in `test_removal.py`."""

import asyncio
import itertools
import time

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from calls import (
    MAX_NUMBER,
    append,
    append_all,
    append_to,
    head_of,
    make_event,
    read,
    refused,
    to_stream,
    unpack,
    with_unknown_field,
)
from changes import (
    A_MOMENT,
    DELETED,
    HOURS,
    NOT_DELETED,
    PERMANENT,
    delete,
    info_of,
    keep,
    listed,
)
from treering.v1.event_store_service_pb2_grpc import EventStoreServiceStub
from treering.v1.stream_service_pb2 import (
    DeleteStreamRequest,
    GetStreamRequest,
    ListStreamsRequest,
    Retention,
    StreamInfo,
    UpdateStreamRequest,
)
from treering.v1.stream_service_pb2_grpc import StreamServiceStub

LONGEST = Duration(seconds=315_576_000_000)
"""As long as a duration can be."""


async def write(event_store, stream: str, count: int = 3):
    """Appends that many events to a stream; the answer."""
    return await append(event_store, append_to(stream, *(make_event() for _ in range(count))))


def updating(stream: str = "a", **parts) -> UpdateStreamRequest:
    """A change of retention."""
    return UpdateStreamRequest(stream=stream, retention=Retention(**parts))


def deleting(stream: str = "a", **fields) -> DeleteStreamRequest:
    """A deletion."""
    return DeleteStreamRequest(stream=stream, **fields)


def versions(stream: StreamInfo) -> tuple[int, int, int]:
    """Version, first version and next version of a stream."""
    return stream.version, stream.first_version, stream.next_version


async def make(event_store, stream_service, stream: str, state: str) -> None:
    """Brings a stream into a state. What has events has three from before a change."""
    if state not in ("never written", "permanent, never written"):
        await write(event_store, stream)
    match state:
        case "all removed":
            await keep(stream_service, stream, truncate_before=4)
        case "deleted":
            await delete(stream_service, stream)
        case "deleted twice":
            await delete(stream_service, stream)
            await write(event_store, stream, 2)
            await delete(stream_service, stream)
        case "live again":
            await delete(stream_service, stream)
            await write(event_store, stream, 1)
        case "permanent" | "permanent, never written":
            await delete(stream_service, stream, permanent=True)
        case "permanent after deleted":
            await delete(stream_service, stream)
            await delete(stream_service, stream, permanent=True)


STATES = {
    # version, first version, next version, deletion; None: not found
    "never written": None,
    "live": (3, 1, 4, NOT_DELETED),
    "all removed": (3, 0, 4, NOT_DELETED),
    "deleted": (0, 0, 4, DELETED),
    "deleted twice": (0, 0, 6, DELETED),
    "live again": (4, 4, 5, NOT_DELETED),
    "permanent": (0, 0, 4, PERMANENT),
    "permanent after deleted": (0, 0, 4, PERMANENT),
    "permanent, never written": (0, 0, 1, PERMANENT),
}


# --- what is known of a stream


@pytest.mark.parametrize("state", [state for state, known in STATES.items() if known])
async def test_what_is_known_of_a_stream_in_every_state(event_store, stream_service, state):
    await make(event_store, stream_service, "a", state)
    last = await head_of(event_store)
    await write(event_store, "other", 1)

    stream = await info_of(stream_service, "a")

    assert stream.stream == "a"
    assert (*versions(stream), stream.deletion) == STATES[state]
    assert stream.HasField("recorded_at") == (state != "permanent, never written")
    if stream.HasField("recorded_at"):
        assert stream.recorded_at == last.recorded_at
    truncated = Retention(truncate_before=4) if state == "all removed" else Retention()
    assert stream.retention == truncated
    assert stream.HasField("retention") == (state == "all removed")


async def test_a_listed_stream_is_what_get_stream_gives_in_every_state(event_store, stream_service):
    for number, state in enumerate(STATES):
        await make(event_store, stream_service, f"s-{number}", state)
    known = {n: state for n, (_, state) in enumerate(STATES.items()) if state}

    everything = [await info_of(stream_service, f"s-{number}") for number in known]

    assert await listed(stream_service, show_deleted=True) == everything
    assert await listed(stream_service) == [s for s in everything if s.deletion == NOT_DELETED]


async def test_a_stream_in_every_state_as_its_change_answers(event_store, stream_service):
    """The answers to UpdateStream and DeleteStream are what GetStream gives next."""
    await write(event_store, "a", 5)
    for parts in (
        {"max_count": 3},
        {"truncate_before": 5},
        {"max_age": HOURS},
        {"max_age": A_MOMENT, "max_count": 7},
        {},
    ):
        assert await keep(stream_service, "a", **parts) == await info_of(stream_service, "a")
    assert await delete(stream_service, "a") == await info_of(stream_service, "a")
    assert await delete(stream_service, "a", permanent=True) == await info_of(stream_service, "a")
    assert await delete(stream_service, "b", permanent=True) == await info_of(stream_service, "b")


# --- ListStreams


async def names(stream_service, **fields) -> list[str]:
    """Names of the streams listed."""
    return [stream.stream for stream in await listed(stream_service, **fields)]


@pytest.fixture
async def some_deleted(event_store, stream_service) -> None:
    """Streams "a-0" to "a-9" and "b-0" to "b-9". Of each, those at 0, 1, 4 and 9 are
    deleted, 4 for good; "a-5x" is deleted for good without ever having been written to."""
    for letter, n in itertools.product("ab", range(10)):
        await write(event_store, f"{letter}-{n}", 1)
    for letter, n in itertools.product("ab", (0, 1, 4, 9)):
        await delete(stream_service, f"{letter}-{n}", permanent=n == 4)
    await delete(stream_service, "a-5x", permanent=True)


@pytest.mark.parametrize("page_size", [1, 2, 3, 100])
@pytest.mark.parametrize("prefix", ["", "a", "a-", "a-5", "b-", "a-4", "c"])
async def test_deleted_streams_are_listed_if_asked_for(
    stream_service, some_deleted, prefix, page_size
):
    everything = [f"a-{n}" for n in range(6)] + ["a-5x"] + [f"a-{n}" for n in range(6, 10)]
    everything += [f"b-{n}" for n in range(10)]
    everything = [name for name in everything if name.startswith(prefix)]
    live = [name for name in everything if name[2:] in ("2", "3", "5", "6", "7", "8")]

    asked = {"prefix": prefix, "page_size": page_size}
    assert await names(stream_service, **asked) == live
    assert await names(stream_service, **asked, show_deleted=True) == everything


async def test_pages_are_full_whatever_was_deleted(stream_service, some_deleted):
    """What is not listed takes no room on a page, and a last page comes without a token."""
    request = ListStreamsRequest(prefix="a", page_size=3)
    first = await stream_service.ListStreams(request)
    request.page_token = first.next_page_token
    second = await stream_service.ListStreams(request)

    assert [stream.stream for stream in first.streams] == ["a-2", "a-3", "a-5"]
    assert [stream.stream for stream in second.streams] == ["a-6", "a-7", "a-8"]
    assert second.next_page_token == ""


@pytest.mark.parametrize("show_deleted", [False, True])
@pytest.mark.parametrize("permanent", [False, True])
async def test_a_page_token_outlives_the_stream_that_it_names(
    event_store, stream_service, permanent, show_deleted
):
    for name in "abcdef":
        await write(event_store, name, 1)
    request = ListStreamsRequest(page_size=2, show_deleted=show_deleted)
    first = await stream_service.ListStreams(request)
    assert [stream.stream for stream in first.streams] == ["a", "b"]
    for name in "abc":
        await delete(stream_service, name, permanent=permanent)

    rest = await names(
        stream_service, page_token=first.next_page_token, page_size=2, show_deleted=show_deleted
    )

    assert rest == list("cdef" if show_deleted else "def")


async def test_a_page_token_may_be_used_with_and_without_deleted_ones(event_store, stream_service):
    for name in "abcd":
        await write(event_store, name, 1)
    await delete(stream_service, "c")
    first = await stream_service.ListStreams(ListStreamsRequest(page_size=2))

    for show_deleted, rest in ((False, ["d"]), (True, ["c", "d"])):
        token = first.next_page_token
        assert await names(stream_service, page_token=token, show_deleted=show_deleted) == rest


async def test_a_stream_that_lives_again_is_listed_again(event_store, stream_service):
    await write(event_store, "a")
    await delete(stream_service, "a")
    assert await names(stream_service) == []

    await write(event_store, "a")

    assert await names(stream_service) == await names(stream_service, show_deleted=True) == ["a"]


async def test_a_stream_whose_events_are_all_removed_by_retention_is_listed(
    event_store, stream_service
):
    for name in "ab":
        await write(event_store, name)
    await keep(stream_service, "a", truncate_before=4)
    await keep(stream_service, "b", max_age=A_MOMENT)

    assert [versions(stream) for stream in await listed(stream_service)] == [(3, 0, 4), (3, 0, 4)]


# --- DeleteStream


async def test_a_deletion(event_store, stream_service):
    last = await write(event_store, "a")
    await write(event_store, "b")

    stream = await delete(stream_service, "a")

    assert stream == StreamInfo(
        stream="a", next_version=4, deletion=DELETED, recorded_at=last.recorded_at
    )
    assert (await read(event_store, stream="a")).events == []
    assert versions(await info_of(stream_service, "b")) == (3, 1, 4)


async def test_a_permanent_deletion(event_store, stream_service):
    last = await write(event_store, "a")

    stream = await delete(stream_service, "a", permanent=True)

    assert stream == StreamInfo(
        stream="a", next_version=4, deletion=PERMANENT, recorded_at=last.recorded_at
    )


async def test_a_permanent_deletion_of_a_name_never_written_to(event_store, stream_service):
    stream = await delete(stream_service, "a", permanent=True)

    assert stream == StreamInfo(stream="a", next_version=1, deletion=PERMANENT)
    await refused(event_store.Append(append_to("a")), "STREAM_DELETED")


async def test_a_deletion_of_a_stream_never_written_to_does_nothing(event_store, stream_service):
    stream = await delete(stream_service, "a")

    assert stream == StreamInfo(stream="a", next_version=1)
    await refused(stream_service.GetStream(GetStreamRequest(stream="a")), "NOT_FOUND")
    assert await listed(stream_service, show_deleted=True) == []
    assert (await write(event_store, "a", 1)).versions[0].version == 1


@pytest.mark.parametrize("permanent", [False, True])
@pytest.mark.parametrize("state", STATES)
async def test_repeating_a_deletion_changes_nothing(event_store, stream_service, state, permanent):
    await make(event_store, stream_service, "a", state)
    first = await delete(stream_service, "a", permanent=permanent)

    for _ in range(2):
        assert await delete(stream_service, "a", permanent=permanent) == first


async def test_a_plain_deletion_leaves_a_permanent_one_permanent(event_store, stream_service):
    await write(event_store, "a")
    first = await delete(stream_service, "a", permanent=True)

    assert await delete(stream_service, "a") == first
    assert first.deletion == PERMANENT


async def test_a_deletion_can_be_made_permanent(event_store, stream_service):
    await write(event_store, "a")
    plain = await delete(stream_service, "a")

    permanent = await delete(stream_service, "a", permanent=True)

    assert (plain.deletion, permanent.deletion) == (DELETED, PERMANENT)
    plain.deletion = PERMANENT
    assert permanent == plain


async def test_deletion_ends_the_retention(event_store, stream_service):
    await write(event_store, "a")
    await keep(stream_service, "a", max_age=HOURS, max_count=1, truncate_before=2)

    stream = await delete(stream_service, "a")
    assert not stream.HasField("retention")

    await write(event_store, "a")
    stream = await info_of(stream_service, "a")
    assert not stream.HasField("retention")
    assert versions(stream) == (6, 4, 7)


EXPECTATIONS = {
    # state: expectations that are met, and the version that others conflict with
    "never written": ([{}, {"expected_version": 0}], 0),
    "live": ([{}, {"expected_version": 3}, {"expected_exists": True}], 3),
    "all removed": ([{}, {"expected_version": 3}, {"expected_exists": True}], 3),
    "deleted": (
        [{}, {"expected_version": 0}, {"expected_version": 3}, {"expected_exists": True}],
        0,
    ),
    "deleted twice": (
        [{}, {"expected_version": 0}, {"expected_version": 5}, {"expected_exists": True}],
        0,
    ),
    "live again": ([{}, {"expected_version": 4}, {"expected_exists": True}], 4),
    "permanent": (
        [{}, {"expected_version": 0}, {"expected_version": 3}, {"expected_exists": True}],
        0,
    ),
    "permanent after deleted": (
        [{}, {"expected_version": 0}, {"expected_version": 3}, {"expected_exists": True}],
        0,
    ),
    "permanent, never written": ([{}, {"expected_version": 0}], 0),
}


@pytest.mark.parametrize("permanent", [False, True])
async def test_expectations_of_a_deletion_that_are_met(
    event_store, stream_service, permanent, subtests
):
    for number, (state, (met, _)) in enumerate(EXPECTATIONS.items()):
        for expectation in met:
            with subtests.test(f"{state}, {expectation}"):
                name = f"s-{number}-{met.index(expectation)}"
                await make(event_store, stream_service, name, state)

                stream = await delete(stream_service, name, permanent=permanent, **expectation)

                assert (stream.version, stream.first_version) == (0, 0)
                if permanent or state.startswith("permanent"):
                    assert stream.deletion == PERMANENT
                elif state == "never written":
                    assert stream.deletion == NOT_DELETED
                else:
                    assert stream.deletion == DELETED


@pytest.mark.parametrize("permanent", [False, True])
async def test_expectations_of_a_deletion_that_are_not_met(
    event_store, stream_service, permanent, subtests
):
    candidates = [{"expected_version": n} for n in (*range(7), MAX_NUMBER)]
    candidates.append({"expected_exists": True})
    for number, (state, (met, actual)) in enumerate(EXPECTATIONS.items()):
        stream = f"s-{number}"
        await make(event_store, stream_service, stream, state)
        before = await listed(stream_service, show_deleted=True)
        for expectation in candidates:
            if expectation in met:
                continue
            with subtests.test(f"{state}, {expectation}"):
                request = deleting(stream, permanent=permanent, **expectation)

                refusal = await refused(stream_service.DeleteStream(request), "VERSION_CONFLICT")

                conflict = refusal.failure.version_conflict
                [name] = expectation
                assert conflict.WhichOneof("expectation") == name
                assert getattr(conflict, name) == expectation[name]
                assert (conflict.stream, conflict.actual_version) == (stream, actual)
        assert await listed(stream_service, show_deleted=True) == before


async def test_a_repeat_of_a_deletion_with_its_expectation_succeeds(event_store, stream_service):
    """The caller's retry, as it is: the first answer was lost."""
    await write(event_store, "a")
    for request in (
        deleting(expected_version=3),
        deleting(expected_exists=True),
        deleting(expected_version=3, permanent=True),
    ):
        first = await stream_service.DeleteStream(request)
        assert await stream_service.DeleteStream(request) == first


async def test_concurrent_deletions_with_an_expectation_all_succeed(event_store, stream_service):
    await write(event_store, "a")

    calls = [stream_service.DeleteStream(deleting(expected_version=3)) for _ in range(20)]
    answers = await asyncio.gather(*calls)

    assert {answer.stream.SerializeToString() for answer in answers} == {
        (await info_of(stream_service, "a")).SerializeToString()
    }


async def test_of_a_deletion_and_an_append_at_one_version_exactly_one_wins(
    event_store, stream_service
):
    for n in range(30):
        stream = f"s-{n}"
        await write(event_store, stream)
        answers = await asyncio.gather(
            event_store.Append(append_to(stream, expected_version=3)),
            stream_service.DeleteStream(deleting(stream, expected_version=3)),
            return_exceptions=True,
        )

        [lost] = [answer for answer in answers if isinstance(answer, grpc.RpcError)]
        assert unpack(lost).reason == "VERSION_CONFLICT"
        kept = (await read(event_store, stream=stream)).versions
        deletion_won = lost is answers[0]
        assert kept == ([] if deletion_won else [1, 2, 3, 4])


INVALID_NAMES = ["", "a\x00", "a\n", "a\x7f", "a\x85", "$", "$all"]


@pytest.mark.parametrize("name", [*INVALID_NAMES, "x" * 256, "é" * 128])
@pytest.mark.parametrize("method", ["UpdateStream", "DeleteStream"])
async def test_a_name_that_no_stream_can_have(stream_service, method, name):
    over_limit = len(name.encode()) > 255
    request = (updating if method == "UpdateStream" else deleting)(name)

    refusal = await refused(
        getattr(stream_service, method)(request),
        "LIMIT_EXCEEDED" if over_limit else "INVALID_REQUEST",
    )

    [violation] = refusal.violations
    assert violation.field == "stream"
    if over_limit:
        assert (violation.limit, violation.actual) == (255, 256)


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127 + "x", "a b", "-", "e\u0301", "%"])
async def test_a_name_of_any_kind(event_store, stream_service, name):
    await write(event_store, name)

    assert versions(await keep(stream_service, name, max_count=2)) == (3, 2, 4)
    assert versions(await delete(stream_service, name)) == (0, 0, 4)


async def test_names_are_compared_byte_by_byte(event_store, stream_service):
    others = ["A", "a ", "a-", "aa", "á", "a\u0301"]
    for name in ("a", *others):
        await write(event_store, name)

    await keep(stream_service, "a", truncate_before=3)
    await delete(stream_service, "a")

    for name in others:
        assert (await read(event_store, stream=name)).versions == [1, 2, 3]


@pytest.mark.parametrize("log", ["x", "default", " ", "$"])
async def test_any_other_log_is_not_found(event_store, stream_service, log):
    await write(event_store, "a")

    for call in (
        stream_service.UpdateStream(UpdateStreamRequest(stream="a", log=log)),
        stream_service.DeleteStream(deleting(log=log)),
        stream_service.DeleteStream(deleting(log=log, permanent=True)),
    ):
        await refused(call, "NOT_FOUND")
    assert versions(await info_of(stream_service, "a")) == (3, 1, 4)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"expected_exists": False}, "expected_exists"),
        ({"expected_version": 2**63}, "expected_version"),
        ({"expected_version": 2**64 - 1}, "expected_version"),
    ],
)
async def test_an_invalid_deletion(event_store, stream_service, fields, field):
    await write(event_store, "a")
    for permanent in (False, True):
        refusal = await refused(
            stream_service.DeleteStream(deleting(permanent=permanent, **fields)), "INVALID_REQUEST"
        )
        assert refusal.fields == [field]
    refusal = await refused(
        stream_service.DeleteStream(deleting("never", **fields)), "INVALID_REQUEST"
    )
    assert refusal.fields == [field]
    assert versions(await info_of(stream_service, "a")) == (3, 1, 4)


async def test_an_unknown_field_of_a_deletion_is_refused(event_store, stream_service):
    await write(event_store, "a")

    await refused(stream_service.DeleteStream(with_unknown_field(deleting())), "INVALID_REQUEST")

    assert versions(await info_of(stream_service, "a")) == (3, 1, 4)


# --- UpdateStream


@pytest.mark.parametrize(
    ("parts", "first_version"),
    [
        ({}, 1),
        ({"max_count": 1}, 5),
        ({"max_count": 2}, 4),
        ({"max_count": 5}, 1),
        ({"max_count": 6}, 1),
        ({"max_count": MAX_NUMBER}, 1),
        ({"truncate_before": 1}, 1),
        ({"truncate_before": 2}, 2),
        ({"truncate_before": 5}, 5),
        ({"truncate_before": 6}, 0),
        ({"max_age": HOURS}, 1),
        ({"max_age": LONGEST}, 1),
        ({"max_age": Duration(seconds=86_400, nanos=123_456_000)}, 1),
        ({"max_age": A_MOMENT}, 0),
        ({"max_age": HOURS, "max_count": 3, "truncate_before": 2}, 3),
        ({"max_age": HOURS, "max_count": 3, "truncate_before": 4}, 4),
        ({"max_age": A_MOMENT, "max_count": 3, "truncate_before": 4}, 0),
    ],
    ids=str,
)
async def test_a_retention(event_store, stream_service, parts, first_version):
    last = await write(event_store, "a", 5)

    stream = await keep(stream_service, "a", **parts)

    assert stream.stream == "a"
    assert versions(stream) == (5, first_version, 6)
    assert stream.retention == Retention(**parts)
    assert stream.HasField("retention") == bool(parts)
    assert stream.deletion == NOT_DELETED
    assert stream.recorded_at == last.recorded_at
    kept = range(first_version, 6) if first_version else []
    answer = await read(event_store, stream="a")
    assert (answer.versions, answer.stream_version) == (list(kept), 5)


async def test_a_retention_of_0_versions_to_truncate_is_none(event_store, stream_service):
    await write(event_store, "a")

    stream = await keep(stream_service, "a", truncate_before=0)

    assert not stream.HasField("retention")


@pytest.mark.parametrize("retention", [None, Retention()], ids=["unset", "empty"])
async def test_no_retention_is_for_ever(event_store, stream_service, retention):
    await write(event_store, "a")
    await keep(stream_service, "a", max_age=HOURS, max_count=2)

    request = UpdateStreamRequest(stream="a", retention=retention)
    stream = (await stream_service.UpdateStream(request)).stream

    assert not stream.HasField("retention")
    await write(event_store, "a", 20)
    assert versions(await info_of(stream_service, "a")) == (23, 2, 24)


async def test_a_retention_replaces_the_one_before(event_store, stream_service):
    await write(event_store, "a", 10)
    await keep(stream_service, "a", max_age=HOURS, max_count=9)

    stream = await keep(stream_service, "a", max_count=8)
    assert stream.retention == Retention(max_count=8)
    stream = await keep(stream_service, "a", max_age=HOURS)
    assert stream.retention == Retention(max_age=HOURS)
    stream = await keep(stream_service, "a", truncate_before=4)
    assert stream.retention == Retention(truncate_before=4)


async def test_truncate_before_never_goes_down(event_store, stream_service):
    await write(event_store, "a", 10)
    await keep(stream_service, "a", truncate_before=5)

    for parts in ({}, {"truncate_before": 1}, {"truncate_before": 4}, {"truncate_before": 5}):
        stream = await keep(stream_service, "a", **parts)
        assert stream.retention == Retention(truncate_before=5)
        assert stream.first_version == 5
    stream = await keep(stream_service, "a", max_count=100)
    assert stream.retention == Retention(truncate_before=5, max_count=100)
    stream = await keep(stream_service, "a", truncate_before=6)
    assert stream.retention == Retention(truncate_before=6)
    assert stream.first_version == 6


async def test_truncate_before_may_be_the_next_version_and_no_more(event_store, stream_service):
    await write(event_store, "a")

    for too_much in (5, 6, MAX_NUMBER):
        refusal = await refused(
            stream_service.UpdateStream(updating(truncate_before=too_much, max_count=1)),
            "INVALID_REQUEST",
        )
        assert refusal.fields == ["retention.truncate_before"]
    assert versions(await info_of(stream_service, "a")) == (3, 1, 4)
    assert versions(await keep(stream_service, "a", truncate_before=4)) == (3, 0, 4)
    await refused(stream_service.UpdateStream(updating(truncate_before=5)), "INVALID_REQUEST")
    await write(event_store, "a", 1)
    assert versions(await keep(stream_service, "a", truncate_before=5)) == (4, 0, 5)


async def test_truncate_before_in_a_new_life_counts_all_versions(event_store, stream_service):
    await write(event_store, "a", 3)
    await delete(stream_service, "a")
    await write(event_store, "a", 3)

    stream = await keep(stream_service, "a", truncate_before=5)
    assert (versions(stream), stream.retention.truncate_before) == ((6, 5, 7), 5)
    await refused(stream_service.UpdateStream(updating(truncate_before=8)), "INVALID_REQUEST")
    assert versions(await keep(stream_service, "a", truncate_before=7)) == (6, 0, 7)


async def test_repeating_a_retention_changes_nothing(event_store, stream_service):
    await write(event_store, "a", 5)
    for parts in (
        {"max_count": 2},
        {"truncate_before": 6},
        {"max_age": HOURS},
        {"max_age": A_MOMENT, "max_count": 3, "truncate_before": 2},
        {},
    ):
        first = await keep(stream_service, "a", **parts)
        for _ in range(2):
            assert await keep(stream_service, "a", **parts) == first


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("never written", "NOT_FOUND"),
        ("deleted", "NOT_FOUND"),
        ("deleted twice", "NOT_FOUND"),
        ("permanent", "STREAM_DELETED"),
        ("permanent after deleted", "STREAM_DELETED"),
        ("permanent, never written", "STREAM_DELETED"),
    ],
)
async def test_a_retention_of_a_stream_that_is_not_there(
    event_store, stream_service, state, reason
):
    await make(event_store, stream_service, "a", state)
    before = await listed(stream_service, show_deleted=True)

    for parts in ({}, {"max_count": 1}, {"truncate_before": 1}, {"truncate_before": 99}):
        await refused(stream_service.UpdateStream(updating(**parts)), reason)

    assert await listed(stream_service, show_deleted=True) == before


async def test_a_retention_of_a_stream_that_was_only_checked(event_store, stream_service):
    request = append_all(to_stream("a", expected_exists=False), to_stream("b", make_event()))
    await append(event_store, request)

    await refused(stream_service.UpdateStream(updating(max_count=1)), "NOT_FOUND")


@pytest.mark.parametrize("state", ["all removed", "live again"])
async def test_a_retention_of_a_stream_without_its_first_events(event_store, stream_service, state):
    await make(event_store, stream_service, "a", state)
    await write(event_store, "a", 3)
    last = 7 if state == "live again" else 6

    stream = await keep(stream_service, "a", max_count=2)

    assert versions(stream) == (last, last - 1, last + 1)


INVALID_RETENTIONS = {
    "max_count 0": ({"max_count": 0}, ["retention.max_count"]),
    "max_count over 2^63-1": ({"max_count": 2**63}, ["retention.max_count"]),
    "highest max_count": ({"max_count": 2**64 - 1}, ["retention.max_count"]),
    "truncate_before over 2^63-1": ({"truncate_before": 2**63}, ["retention.truncate_before"]),
    "highest truncate_before": ({"truncate_before": 2**64 - 1}, ["retention.truncate_before"]),
    "max_age 0": ({"max_age": Duration()}, ["retention.max_age"]),
    "max_age below 0": ({"max_age": Duration(seconds=-1)}, ["retention.max_age"]),
    "max_age just below 0": ({"max_age": Duration(nanos=-1)}, ["retention.max_age"]),
    "lowest max_age": ({"max_age": Duration(seconds=-(2**63))}, ["retention.max_age"]),
    "max_age beyond durations": (
        {"max_age": Duration(seconds=LONGEST.seconds + 1)},
        ["retention.max_age"],
    ),
    "highest max_age": (
        {"max_age": Duration(seconds=MAX_NUMBER, nanos=999_999_999)},
        ["retention.max_age"],
    ),
    "max_age with two signs": ({"max_age": Duration(seconds=1, nanos=-1)}, ["retention.max_age"]),
    "max_age with a second of nanos": (
        {"max_age": Duration(seconds=1, nanos=10**9)},
        ["retention.max_age"],
    ),
    "all of it": (
        {"max_age": Duration(), "max_count": 0, "truncate_before": 2**63},
        ["retention.max_age", "retention.max_count", "retention.truncate_before"],
    ),
}


async def test_an_invalid_retention(event_store, stream_service, subtests):
    """Whatever state the stream is in: what is malformed is refused before anything is looked
    for."""
    for number, state in enumerate(STATES):
        await make(event_store, stream_service, f"s-{number}", state)
    before = await listed(stream_service, show_deleted=True)

    for name, (parts, fields) in INVALID_RETENTIONS.items():
        with subtests.test(name):
            for number in range(len(STATES)):
                refusal = await refused(
                    stream_service.UpdateStream(updating(f"s-{number}", **parts)),
                    "INVALID_REQUEST",
                )
                assert refusal.fields == fields
    assert await listed(stream_service, show_deleted=True) == before


async def test_an_invalid_part_spoils_the_whole_retention(event_store, stream_service):
    await write(event_store, "a")
    await keep(stream_service, "a", max_count=10)

    request = updating(max_age=HOURS, truncate_before=2, max_count=0)
    await refused(stream_service.UpdateStream(request), "INVALID_REQUEST")

    stream = await info_of(stream_service, "a")
    assert (stream.retention, stream.first_version) == (Retention(max_count=10), 1)


@pytest.mark.parametrize("place", ["", "retention", "retention.max_age"])
async def test_an_unknown_field_of_a_retention_is_refused_at_every_depth(
    event_store, stream_service, place
):
    await write(event_store, "a")
    request = updating(max_age=HOURS, max_count=1)
    message = request
    for part in place.split(".") if place else []:
        message = getattr(message, part)
    with_unknown_field(message)

    refusal = await refused(stream_service.UpdateStream(request), "INVALID_REQUEST")

    assert any(field.startswith(place) for field in refusal.fields)
    assert versions(await info_of(stream_service, "a")) == (3, 1, 4)


# --- which refusal first


async def test_which_refusal_of_a_deletion_comes_first(event_store, stream_service):
    await write(event_store, "a")
    order = {
        "INVALID_REQUEST": {"stream": "a\n"},
        "LIMIT_EXCEEDED": {"stream": "x" * 256},
        "NOT_FOUND": {"log": "other"},
        "VERSION_CONFLICT": {"expected_version": 7},
    }
    for first, second in itertools.combinations(order, 2):
        fields = {"stream": "a"} | order[second] | order[first]
        await refused(stream_service.DeleteStream(DeleteStreamRequest(**fields)), first)
    both = deleting("x" * 256, expected_exists=False)
    refusal = await refused(stream_service.DeleteStream(both), "INVALID_REQUEST")
    assert refusal.fields == ["stream", "expected_exists"]


@pytest.mark.parametrize("last", ["NOT_FOUND", "STREAM_DELETED", "INVALID_REQUEST"])
async def test_which_refusal_of_a_retention_comes_first(event_store, stream_service, last):
    """Of what the stream's state alone refuses nothing is said before the request is well
    formed and the log is the right one."""
    await write(event_store, "live")
    await delete(stream_service, "gone", permanent=True)
    stream = {"NOT_FOUND": "never", "STREAM_DELETED": "gone", "INVALID_REQUEST": "live"}[last]

    request = updating(stream, truncate_before=99)
    refusal = await refused(stream_service.UpdateStream(request), last)
    if last == "INVALID_REQUEST":
        assert refusal.fields == ["retention.truncate_before"]

    request.log = "other"
    refusal = await refused(stream_service.UpdateStream(request), "NOT_FOUND")
    assert "log" in refusal.message

    request.retention.max_count = 0
    refusal = await refused(stream_service.UpdateStream(request), "INVALID_REQUEST")
    assert refusal.fields == ["retention.max_count"]

    request.retention.ClearField("max_count")
    request.stream = "x" * 256
    refusal = await refused(stream_service.UpdateStream(request), "LIMIT_EXCEEDED")
    assert refusal.fields == ["stream"]


# --- what stays


@pytest.mark.timeout(300)
async def test_changes_survive_kill_9(database_url, server_process):
    process = server_process(database_url)
    async with grpc.aio.insecure_channel(process.address) as channel:
        event_store, stream_service = EventStoreServiceStub(channel), StreamServiceStub(channel)
        for number, state in enumerate(STATES):
            await make(event_store, stream_service, f"s-{number}", state)
        for name, parts in {
            "count": {"max_count": 2},
            "age": {"max_age": HOURS},
            "truncated": {"truncate_before": 3, "max_count": 7},
        }.items():
            await write(event_store, name)
            await keep(stream_service, name, **parts)
        await asyncio.to_thread(process.kill)

    process = server_process(database_url)
    async with grpc.aio.insecure_channel(process.address) as channel:
        event_store, stream_service = EventStoreServiceStub(channel), StreamServiceStub(channel)
        everything = await listed(stream_service, show_deleted=True)
        by_name = {stream.stream: stream for stream in everything}
        for number, known in enumerate(STATES.values()):
            if known:
                stream = by_name.pop(f"s-{number}")
                assert (*versions(stream), stream.deletion) == known
        assert {name: (versions(s), s.retention) for name, s in by_name.items()} == {
            "count": ((3, 2, 4), Retention(max_count=2)),
            "age": ((3, 1, 4), Retention(max_age=HOURS)),
            "truncated": ((3, 3, 4), Retention(truncate_before=3, max_count=7)),
        }
        await write(event_store, "count", 2)
        assert (await read(event_store, stream="count")).versions == [4, 5]
        permanent = [
            n for n, known in enumerate(STATES.values()) if known and known[3] == PERMANENT
        ]
        for number in permanent:
            await refused(event_store.Append(append_to(f"s-{number}")), "STREAM_DELETED")


async def test_changes_of_many_streams_at_once(event_store, stream_service):
    """Each is decided by itself; appends to other streams go on meanwhile."""
    for n in range(60):
        await write(event_store, f"s-{n:02}")

    async def change(n: int) -> None:
        if n % 3 == 0:
            await delete(stream_service, f"s-{n:02}", expected_version=3)
        else:
            await keep(stream_service, f"s-{n:02}", max_count=n % 3)

    await asyncio.gather(
        *(change(n) for n in range(60)), *(write(event_store, f"t-{n}") for n in range(60))
    )

    live = await listed(stream_service, prefix="s-")
    assert [(s.stream, s.first_version) for s in live] == [
        (f"s-{n:02}", 4 - n % 3) for n in range(60) if n % 3
    ]
    assert len(await listed(stream_service, prefix="t-")) == 60
    assert (await head_of(event_store)).head_position == 360


async def test_a_flood_of_changes_holds_up_no_reads(event_store, stream_service):
    """Far more at once than the server can make: they take their time, nobody else does."""
    await append(event_store, append_all(*(to_stream(f"s-{n}", make_event()) for n in range(600))))
    flood = asyncio.gather(
        *(keep(stream_service, f"s-{n}", max_count=5) for n in range(600)), return_exceptions=True
    )
    slowest = 0.0
    while not flood.done():
        began = time.monotonic()
        assert len((await read(event_store, limit=1)).events) == 1
        slowest = max(slowest, time.monotonic() - began)

    for answer in await flood:
        assert isinstance(answer, StreamInfo) or unpack(answer).reason == "OVERLOADED"
    assert slowest < 1
