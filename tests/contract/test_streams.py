"""GetStream and ListStreams."""

import pytest

from calls import append, append_all, append_to, make_event, refused, to_stream
from treering.v1.stream_service_pb2 import (
    DELETION_STATE_UNSPECIFIED,
    GetStreamRequest,
    ListStreamsRequest,
    Retention,
    StreamInfo,
)


async def info(stream_service, name: str) -> StreamInfo:
    """What is known about a stream."""
    return (await stream_service.GetStream(GetStreamRequest(stream=name))).stream


async def names(stream_service, **fields) -> list[str]:
    """Names of all streams, page by page."""
    listed, token = [], ""
    while True:
        page = await stream_service.ListStreams(ListStreamsRequest(page_token=token, **fields))
        assert len(page.streams) <= (fields.get("page_size") or 100)
        listed += [stream.stream for stream in page.streams]
        token = page.next_page_token
        if not token:
            return listed


async def create(event_store, *streams: str) -> None:
    """Streams with one event each."""
    await append(event_store, append_all(*(to_stream(name, make_event()) for name in streams)))


# --- GetStream


async def test_a_stream(event_store, stream_service):
    await append(event_store, append_to("a", make_event(), make_event()), append_to("b"))
    last = await append(event_store, append_to("a"))

    stream = await info(stream_service, "a")

    assert stream.stream == "a"
    assert (stream.version, stream.first_version, stream.next_version) == (3, 1, 4)
    assert stream.deletion == DELETION_STATE_UNSPECIFIED
    assert stream.retention == Retention()
    assert stream.recorded_at == last.recorded_at


@pytest.mark.parametrize("name", ["a", "$all", "b-", "B"])
async def test_a_stream_that_was_never_written_to_is_not_found(event_store, stream_service, name):
    await append(event_store, append_to("b"))

    await refused(stream_service.GetStream(GetStreamRequest(stream=name)), "NOT_FOUND")


async def test_a_stream_that_was_only_checked_is_not_found(event_store, stream_service):
    request = append_all(to_stream("a", expected_exists=False), to_stream("b", make_event()))
    await append(event_store, request)

    await refused(stream_service.GetStream(GetStreamRequest(stream="a")), "NOT_FOUND")
    assert await names(stream_service) == ["b"]


async def test_a_stream_whose_append_was_refused_is_not_found(event_store, stream_service):
    request = append_all(to_stream("a", make_event()), to_stream("b", expected_version=7))
    await refused(event_store.Append(request), "VERSION_CONFLICT")

    await refused(stream_service.GetStream(GetStreamRequest(stream="a")), "NOT_FOUND")
    assert await names(stream_service) == []


@pytest.mark.parametrize("name", ["", "a\x00", "a\x7f", "a\x85", "x" * 256])
async def test_a_name_that_no_stream_can_have(stream_service, name):
    reason = "LIMIT_EXCEEDED" if len(name) > 255 else "INVALID_REQUEST"

    refusal = await refused(stream_service.GetStream(GetStreamRequest(stream=name)), reason)

    assert refusal.fields == ["stream"]


# --- ListStreams


async def test_streams_in_order_of_name_byte_by_byte(event_store, stream_service):
    in_order = ["B", "a", "a-", "a-1", "a-10", "a-2", "aa", "e\u0301", "z", "é", "\uffee", "😀"]
    await create(event_store, *reversed(in_order))

    assert await names(stream_service) == in_order


async def test_no_streams(stream_service):
    page = await stream_service.ListStreams(ListStreamsRequest())

    assert (list(page.streams), page.next_page_token) == ([], "")


async def test_a_listed_stream_is_what_get_stream_gives(event_store, stream_service):
    await append(event_store, append_to("a", make_event(), make_event()), append_to("b"))

    page = await stream_service.ListStreams(ListStreamsRequest())

    assert list(page.streams) == [await info(stream_service, name) for name in ("a", "b")]


@pytest.mark.parametrize("page_size", [1, 2, 3, 6, 7, 8, 1000])
async def test_pages_give_each_stream_once(event_store, stream_service, page_size):
    await create(event_store, *"gfedcba")

    assert await names(stream_service, page_size=page_size) == list("abcdefg")


@pytest.mark.parametrize(
    ("page_size", "served"), [(0, 100), (100, 100), (999, 999), (1000, 1000), (1001, 1000)]
)
async def test_the_size_of_a_page(event_store, stream_service, page_size, served):
    for part in range(2):
        await create(event_store, *(f"s-{part}-{n:04}" for n in range(600)))

    page = await stream_service.ListStreams(ListStreamsRequest(page_size=page_size))

    assert len(page.streams) == served
    assert page.next_page_token


async def test_a_negative_page_size_is_invalid(stream_service):
    refusal = await refused(
        stream_service.ListStreams(ListStreamsRequest(page_size=-1)), "INVALID_REQUEST"
    )

    assert refusal.fields == ["page_size"]


PREFIXES = {
    "": ["-", "A-1", "a", "a%", "a-1", "a-10", "a_b", "ab", "a\U0010ffff", "b", "é"],
    "a": ["a", "a%", "a-1", "a-10", "a_b", "ab", "a\U0010ffff"],
    "a-": ["a-1", "a-10"],
    "a-1": ["a-1", "a-10"],
    "a%": ["a%"],
    "a_": ["a_b"],
    "a\U0010ffff": ["a\U0010ffff"],
    "A": ["A-1"],
    "-": ["-"],
    "é": ["é"],
    "e": [],
    "%": [],
    "zz": [],
    "$": [],
    "\U0010ffff": [],
}


@pytest.mark.parametrize("page_size", [1, 3, 100])
async def test_only_names_that_begin_with_the_prefix(
    event_store, stream_service, page_size, subtests
):
    await create(event_store, *PREFIXES[""])

    for prefix, streams in PREFIXES.items():
        with subtests.test(repr(prefix)):
            assert await names(stream_service, prefix=prefix, page_size=page_size) == streams


async def test_a_page_token_of_another_prefix_is_invalid(event_store, stream_service):
    await create(event_store, "a-1", "a-2", "a-3")
    page = await stream_service.ListStreams(ListStreamsRequest(prefix="a", page_size=1))

    for prefix in ("", "a-", "b"):
        request = ListStreamsRequest(prefix=prefix, page_token=page.next_page_token)
        refusal = await refused(stream_service.ListStreams(request), "INVALID_REQUEST")
        assert refusal.fields == ["page_token"]


@pytest.mark.parametrize("token", ["x", "a-1", "!", "AAAA", "💥", "=" * 2000])
async def test_a_page_token_that_is_none_is_invalid(event_store, stream_service, token):
    await create(event_store, "a-1")

    request = ListStreamsRequest(page_token=token)

    refusal = await refused(stream_service.ListStreams(request), "INVALID_REQUEST")
    assert refusal.fields == ["page_token"]


async def test_a_page_token_may_be_used_with_another_page_size(event_store, stream_service):
    await create(event_store, *"abcde")
    page = await stream_service.ListStreams(ListStreamsRequest(page_size=2))

    request = ListStreamsRequest(page_size=10, page_token=page.next_page_token)
    rest = await stream_service.ListStreams(request)

    assert [stream.stream for stream in rest.streams] == ["c", "d", "e"]
    assert rest.next_page_token == ""


async def test_a_page_token_goes_on_after_the_last_name_given(event_store, stream_service):
    await create(event_store, *"bdf")
    page = await stream_service.ListStreams(ListStreamsRequest(page_size=2))
    await create(event_store, *"aceg")

    request = ListStreamsRequest(page_token=page.next_page_token)
    rest = await stream_service.ListStreams(request)

    assert [stream.stream for stream in rest.streams] == ["e", "f", "g"]


async def test_the_longest_names_page_too(event_store, stream_service):
    longest = [character * (255 // len(character.encode())) for character in "aé€😀"]
    await create(event_store, *longest)

    assert await names(stream_service, page_size=1) == longest


async def test_prefixes_obey_the_rules_of_names(stream_service):
    for prefix, reason in (("a\n", "INVALID_REQUEST"), ("x" * 256, "LIMIT_EXCEEDED")):
        request = ListStreamsRequest(prefix=prefix)
        refusal = await refused(stream_service.ListStreams(request), reason)
        assert refusal.fields == ["prefix"]


async def test_deleted_ones_too_of_which_there_are_none(event_store, stream_service):
    await create(event_store, "a", "b")

    assert await names(stream_service, show_deleted=True) == ["a", "b"]


async def test_any_other_log_is_not_found(stream_service):
    await refused(stream_service.GetStream(GetStreamRequest(stream="a", log="x")), "NOT_FOUND")
    await refused(stream_service.ListStreams(ListStreamsRequest(log="x")), "NOT_FOUND")
