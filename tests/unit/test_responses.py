"""Responses: the bytes that callers parse."""

from uuid import UUID

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from treering.v1.event_pb2 import RecordedEvent
from treering.v1.event_store_service_pb2 import (
    AppendManyResponse,
    AppendResponse,
    AppendResult,
    GetHeadResponse,
    ReadResponse,
    SubscribeResponse,
)
from treering.v1.stream_service_pb2 import (
    DELETION_STATE_DELETED,
    DELETION_STATE_PERMANENT,
    DELETION_STATE_UNSPECIFIED,
    DeleteStreamResponse,
    GetStreamResponse,
    ListStreamsResponse,
    Retention,
    StreamInfo,
    UpdateStreamResponse,
)
from treering_server.core import model
from treering_server.core.errors import ConditionFailed, StreamDeleted
from treering_server.core.model import FOR_EVER, Appended, Head, Stream, StreamVersion
from treering_server.core.record import batch_of, join
from treering_server.services import responses
from treering_server.services.statuses import failure_of

LOG_ID = UUID("0198f000-0000-7000-8000-00000000000A")
EVENT_ID = UUID("0198f000-0000-7000-8000-00000000000B")
EVENTS = [
    RecordedEvent(id=str(EVENT_ID), type="T", data=b"x" * size, position=n + 1)
    for n, size in enumerate((0, 100, 20_000))
]
RECORDS = join([event.SerializeToString() for event in EVENTS])
APPENDED = Appended(
    first_position=5,
    last_position=7,
    versions=(StreamVersion("b", 2), StreamVersion("a", 9)),
    recorded_at=1_700_000_000_123_456,
    duplicate=False,
    log_id=LOG_ID,
)
APPENDED_MESSAGE = AppendResponse(
    first_position=5,
    last_position=7,
    versions=[{"stream": "b", "version": 2}, {"stream": "a", "version": 9}],
    recorded_at={"seconds": 1_700_000_000, "nanos": 123_456_000},
    log_id="0198f000-0000-7000-8000-00000000000a",
)


def subscribe_response(data: bytes) -> SubscribeResponse:
    """Takes a response of a subscription apart."""
    return SubscribeResponse.FromString(data)


def test_an_append():
    assert AppendResponse.FromString(responses.appended(APPENDED)) == APPENDED_MESSAGE


def test_a_repeated_append_of_no_stream():
    repeated = Appended(1, 1, (), 0, duplicate=True, log_id=LOG_ID)

    response = AppendResponse.FromString(responses.appended(repeated))

    assert response.duplicate
    assert not response.versions
    assert response.HasField("recorded_at")


def test_many_appends():
    refusal = ConditionFailed(position=4, condition_index=0)
    results = responses.AppendResults()
    encoded = [
        results.encode(2**64 - 1, APPENDED),
        results.encode(0, refusal),
        results.encode(1, StreamDeleted("s")),
    ]

    response = AppendManyResponse.FromString(responses.append_many(encoded))

    assert [result.request_id for result in response.results] == [2**64 - 1, 0, 1]
    assert response.results[0].appended == APPENDED_MESSAGE
    assert response.results[1].failure == failure_of(refusal)
    assert response.results[2].WhichOneof("outcome") == "failure"


numbers = st.integers(0, 2**63 - 1)


stream_versions = st.builds(StreamVersion, st.sampled_from("abc"), numbers)


@given(
    st.lists(
        st.builds(
            Appended,
            first_position=numbers,
            last_position=numbers,
            versions=st.lists(stream_versions, max_size=3),
            recorded_at=st.sampled_from([0, 1, 1_800_000_000_999_999]),
            duplicate=st.booleans(),
            log_id=st.sampled_from([LOG_ID, UUID(int=7)]),
        )
    )
)
def test_no_result_has_anything_of_the_one_before(outcomes):
    results = responses.AppendResults()
    for number, outcome in enumerate(outcomes):
        result = AppendResult.FromString(results.encode(number, outcome))

        alone = AppendResponse.FromString(responses.appended(outcome))
        assert result == AppendResult(request_id=number, appended=alone)


def test_a_part_of_a_read():
    response = ReadResponse.FromString(responses.read_response(RECORDS, 9, 3, LOG_ID))

    assert response == ReadResponse(
        events=EVENTS, head_position=9, stream_version=3, log_id=str(LOG_ID)
    )


def test_a_read_of_nothing():
    response = ReadResponse.FromString(responses.read_response(b"", 0, 0, LOG_ID))

    assert response == ReadResponse(log_id=str(LOG_ID))


def test_a_batch_of_a_subscription():
    response = subscribe_response(batch_of(RECORDS))

    assert response == SubscribeResponse(events={"events": EVENTS})


def test_what_else_a_subscription_says():
    assert subscribe_response(responses.started(LOG_ID, 3, 5)) == SubscribeResponse(
        started={"log_id": str(LOG_ID), "after_position": 3, "head_position": 5}
    )
    assert subscribe_response(responses.caught_up(5, EVENT_ID)) == SubscribeResponse(
        caught_up={"position": 5, "event_id": str(EVENT_ID)}
    )
    assert subscribe_response(responses.heartbeat(5, EVENT_ID)) == SubscribeResponse(
        heartbeat={"position": 5, "event_id": str(EVENT_ID)}
    )
    assert subscribe_response(responses.fell_behind(5, None)) == SubscribeResponse(
        fell_behind={"position": 5}
    )
    assert subscribe_response(responses.fell_behind(5, LOG_ID)) == SubscribeResponse(
        fell_behind={"position": 5, "log_id": str(LOG_ID)}
    )


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (responses.started(LOG_ID, 0, 0), "started"),
        (responses.caught_up(0, None), "caught_up"),
        (responses.heartbeat(0, None), "heartbeat"),
        (responses.fell_behind(0, None), "fell_behind"),
    ],
)
def test_there_is_content_at_position_0_too(data, content):
    response = subscribe_response(data)

    assert response.WhichOneof("content") == content
    assert getattr(getattr(response, content), "event_id", "") == ""


def test_the_head():
    head = Head(LOG_ID, 5, 1_700_000_000_000_001, EVENT_ID)

    assert GetHeadResponse.FromString(responses.head(head)) == GetHeadResponse(
        head_position=5,
        log_id=str(LOG_ID),
        recorded_at={"seconds": 1_700_000_000, "nanos": 1_000},
    )


def test_the_head_of_an_empty_log():
    response = GetHeadResponse.FromString(responses.head(Head(LOG_ID, 0, 0, None)))

    assert response == GetHeadResponse(log_id=str(LOG_ID))


@pytest.mark.parametrize(
    "microseconds", [0, 1, 999_999, 1_000_000, 1_700_000_000_123_457, 253_402_300_799_999_999]
)
def test_times_are_exact(microseconds):
    head = Head(LOG_ID, 1, microseconds, EVENT_ID)

    time: Timestamp = GetHeadResponse.FromString(responses.head(head)).recorded_at

    assert time.ToMicroseconds() == microseconds
    assert time.nanos % 1_000 == 0


def a_stream(name="s", **fields) -> Stream:
    """A stream that lives and is kept for ever, but for what is given."""
    return Stream(
        **{
            "name": name,
            "version": 4,
            "first_version": 2,
            "next_version": 5,
            "recorded_at": 1_000_001,
            "deletion": "live",
            "retention": FOR_EVER,
            "deleted_version": 0,
        }
        | fields
    )


def stream_info(stream: Stream) -> StreamInfo:
    """What GetStream answers of it."""
    return GetStreamResponse.FromString(responses.stream(stream)).stream


def test_a_stream():
    assert stream_info(a_stream()) == StreamInfo(
        stream="s",
        version=4,
        first_version=2,
        next_version=5,
        recorded_at={"seconds": 1, "nanos": 1_000},
    )


@pytest.mark.parametrize(
    ("retention", "expected"),
    [
        (
            model.Retention(max_age=90_500_000),
            Retention(max_age={"seconds": 90, "nanos": 500_000_000}),
        ),
        (model.Retention(max_count=7), Retention(max_count=7)),
        (model.Retention(truncate_before=3), Retention(truncate_before=3)),
        (
            model.Retention(1, 1, 1),
            Retention(max_age={"nanos": 1_000}, max_count=1, truncate_before=1),
        ),
        (
            model.Retention(315_576_000_000_000_000, model.MAX_POSITION),
            Retention(max_age={"seconds": 315_576_000_000}, max_count=2**63 - 1),
        ),
    ],
    ids=str,
)
def test_how_long_a_stream_is_kept(retention, expected):
    assert stream_info(a_stream(retention=retention)).retention == expected


def test_a_stream_that_is_kept_for_ever_has_no_retention():
    assert not stream_info(a_stream()).HasField("retention")


def test_a_stream_that_never_had_an_event_was_recorded_at_no_time():
    never = a_stream(version=0, first_version=0, next_version=1, recorded_at=0)

    assert stream_info(never) == StreamInfo(stream="s", next_version=1)


def test_what_a_deletion_removed_is_not_told():
    assert stream_info(a_stream(deleted_version=3)) == stream_info(a_stream())


def test_a_change_is_answered_with_the_stream():
    changed = a_stream(retention=model.Retention(max_count=3))
    deleted = a_stream(version=0, first_version=0, deletion="permanent", deleted_version=4)

    updated = UpdateStreamResponse.FromString(responses.updated_stream(changed))
    gone = DeleteStreamResponse.FromString(responses.deleted_stream(deleted))

    assert updated.stream == stream_info(changed)
    assert gone.stream == stream_info(deleted)


@pytest.mark.parametrize(
    ("deletion", "expected"),
    [
        ("live", DELETION_STATE_UNSPECIFIED),
        ("deleted", DELETION_STATE_DELETED),
        ("permanent", DELETION_STATE_PERMANENT),
    ],
)
def test_whether_a_stream_is_deleted(deletion, expected):
    assert stream_info(a_stream(deletion=deletion)).deletion == expected


def test_a_page_of_streams():
    page = [a_stream("a"), a_stream("b", retention=model.Retention(max_count=1))]

    response = ListStreamsResponse.FromString(responses.streams(page, "token"))

    assert list(response.streams) == [stream_info(stream) for stream in page]
    assert response.next_page_token == "token"


def test_the_last_page_of_streams():
    assert responses.streams([], "") == b""
