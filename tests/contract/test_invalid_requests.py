"""What no server takes: unknown fields, contradictions, names and numbers out of range, and
bytes that are no message. INVALID_REQUEST, and nothing is written."""

import random
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from calls import (
    ALL,
    BACKWARDS,
    MAX_NUMBER,
    WAIT_SECONDS,
    append,
    append_all,
    append_many,
    append_to,
    fail_if,
    head_of,
    make_event,
    matching,
    new_id,
    outcome,
    read,
    reason_of,
    refused,
    timestamp,
    to_stream,
    unpack,
)
from treering.v1.event_pb2 import Event, RecordedEvent
from treering.v1.event_store_service_pb2 import (
    AppendCondition,
    AppendItem,
    AppendManyRequest,
    AppendRequest,
    GetHeadRequest,
    ReadRequest,
    StreamAppend,
    SubscribeRequest,
)
from treering.v1.query_pb2 import Query, QueryItem
from treering.v1.stream_service_pb2 import GetStreamRequest, ListStreamsRequest

EVENT_STORE = "/treering.v1.EventStoreService/"
STREAMS = "/treering.v1.StreamService/"


def full_event() -> Event:
    """An event with every field."""
    return make_event(
        "T", "tag", data=b"x", content_type="text/plain", metadata={"k": "v"}, time=timestamp(1)
    )


def full_query() -> Query:
    """A query with every kind of part."""
    item = QueryItem(
        streams=["s"], stream_prefixes=["s"], types=["T"], tags=["t"], categories=["s"]
    )
    return matching(item, QueryItem(types=["U"]))


def full_requests() -> list[tuple[str, Message]]:
    """Valid requests that between them have every message and field there is."""
    append_request = append_all(
        to_stream("s", full_event(), expected_version=0),
        to_stream("t", full_event()),
        events=[full_event()],
        conditions=[fail_if(full_query()), fail_if(ALL)],
    )
    return [
        (EVENT_STORE + "Append", append_request),
        (EVENT_STORE + "Read", ReadRequest(query=full_query(), limit=1, min_position=0)),
        (EVENT_STORE + "Read", ReadRequest(query=ALL, after_time=timestamp(1))),
        (EVENT_STORE + "Read", ReadRequest(stream="s", until_time=timestamp(1))),
        (EVENT_STORE + "Subscribe", SubscribeRequest(query=full_query(), from_head=True)),
        (
            EVENT_STORE + "Subscribe",
            SubscribeRequest(
                stream="s", after_time=timestamp(1), heartbeat_interval=Duration(seconds=1)
            ),
        ),
        (EVENT_STORE + "GetHead", GetHeadRequest()),
        (STREAMS + "GetStream", GetStreamRequest(stream="s")),
        (STREAMS + "ListStreams", ListStreamsRequest(prefix="s", page_size=3, show_deleted=True)),
    ]


def messages_in(message: Message, path: str = "") -> Iterator[tuple[str, Message]]:
    """A message and all that it holds, at every depth, with their paths. Map entries aside,
    in which unknown fields can't be seen."""
    yield path, message
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        parts = [value] if isinstance(value, Message) else value
        for index, part in enumerate(parts):
            suffix = field.name if isinstance(value, Message) else f"{field.name}[{index}]"
            yield from messages_in(part, f"{path}.{suffix}".lstrip("."))


UNKNOWN_FIELDS = {
    "varint": b"\x80\x7d\x01",
    "fixed64": b"\x81\x7d" + bytes(8),
    "bytes": b"\x82\x7d\x03abc",
    "empty bytes": b"\x82\x7d\x00",
    "group": b"\x83\x7d\x84\x7d",
    "fixed32": b"\x85\x7d" + bytes(4),
    "highest number": b"\xf8\xff\xff\xff\x0f\x00",
    "of another type": b"\x0d" + bytes(4),  # field 1 is nowhere of this type
}

PLACES = [
    (number, path)
    for number, (_, request) in enumerate(full_requests())
    for path, _ in messages_in(request)
]


async def call_raw(channel: grpc.aio.Channel, method: str, data: bytes, timeout: float) -> Any:
    """Calls a method with these bytes, whatever they are, and gives the raw responses; the
    first one only of a subscription."""
    name = method.rpartition("/")[2]
    if name in ("Read", "Subscribe"):
        call = channel.unary_stream(method)(data, timeout=timeout)
        if name == "Subscribe":
            response = await call.read()
            if response is not grpc.aio.EOF:
                call.cancel()
            return [response]
        return [response async for response in call]
    if name == "AppendMany":

        async def messages():
            yield data

        return [r async for r in channel.stream_stream(method)(messages(), timeout=timeout)]
    return [await channel.unary_unary(method)(data, timeout=timeout)]


async def test_the_full_requests_are_valid(channel):
    for method, request in full_requests():
        try:
            await call_raw(channel, method, request.SerializeToString(), WAIT_SECONDS)
        except grpc.RpcError as error:
            assert unpack(error).reason == "NOT_FOUND"  # GetStream of a fresh log


async def test_an_unknown_field_is_refused_at_every_depth(channel, event_store, subtests):
    for number, path in PLACES:
        for name, unknown in UNKNOWN_FIELDS.items():
            method, request = full_requests()[number]
            dict(messages_in(request))[path].MergeFromString(unknown)
            with subtests.test(f"{name} at {path or 'the top'} of {method}"):
                with pytest.raises(grpc.RpcError) as error:
                    await call_raw(channel, method, request.SerializeToString(), WAIT_SECONDS)

                refusal = unpack(error.value)
                assert refusal.reason == "INVALID_REQUEST"
                assert any(field.startswith(path) for field in refusal.fields)
    assert (await head_of(event_store)).head_position == 0


async def test_an_unknown_field_inside_an_item_of_append_many(event_store, subtests):
    for path, _ in messages_in(full_requests()[0][1]):
        request = full_requests()[0][1]
        dict(messages_in(request))[path].MergeFromString(UNKNOWN_FIELDS["varint"])
        with subtests.test(path):
            result, passed = await append_many(event_store, request, append_to("a"))

            assert reason_of(result.failure) == "INVALID_REQUEST"
            assert passed.HasField("appended")


@pytest.mark.parametrize("path", ["", "items[0]"])
async def test_an_unknown_field_around_an_append_of_append_many_ends_the_call(channel, path):
    request = AppendManyRequest(items=[AppendItem(request_id=1, append=append_to("a"))])
    dict(messages_in(request))[path].MergeFromString(UNKNOWN_FIELDS["varint"])

    with pytest.raises(grpc.RpcError) as error:
        await call_raw(
            channel, EVENT_STORE + "AppendMany", request.SerializeToString(), WAIT_SECONDS
        )

    assert unpack(error.value).reason == "INVALID_REQUEST"


@pytest.mark.parametrize(
    "place",
    [
        RecordedEvent(position=7),
        RecordedEvent(stream="forged"),
        RecordedEvent(version=9),
        RecordedEvent(recorded_at=timestamp(1)),
    ],
    ids=["position", "stream", "version", "recorded_at"],
)
async def test_a_place_of_its_own_in_an_event_is_refused(event_store, place):
    """Numbers 8 to 15 of an event are RecordedEvent's: nobody may forge them."""
    event = make_event()
    event.MergeFromString(place.SerializeToString())

    await refused(event_store.Append(append_to("a", event)), "INVALID_REQUEST")
    assert (await head_of(event_store)).head_position == 0


# --- appends


def with_event(**fields: Any) -> AppendRequest:
    """An append whose only event has these fields."""
    return append_to("a", Event(**({"id": new_id(), "type": "T"} | fields)))


EVENT = "appends[0].events[0]"
CONTROL_CHARACTERS = ["\x00", "\t", "\n", "\x1f", "\x7f", "\x80", "\x85", "\x9f"]
BAD_UUIDS = {
    "no UUID": "order-1",
    "without hyphens": new_id().replace("-", ""),
    "in braces": "{" + new_id() + "}",
    "as a URN": "urn:uuid:" + new_id(),
    "too short": new_id()[:-1],
    "too long": new_id() + "0",
    "no hexadecimal": "g" + new_id()[1:],
    "hyphens elsewhere": "123456781-234-4234-8234-123456789abc",
    "one hyphen too many": "12345678-1234-4234-8234-1234-6789abc",
    "a space before": " " + new_id(),
    "a line end after": new_id() + "\n",
    "underscores": "1234567_-1234-4234-8234-123456789abc",
    "a sign": "+2345678-1234-4234-8234-123456789abc",
    "other digits": "\uff11" + new_id()[1:],
    "36 bytes": "é" + new_id()[2:],
    "a space": " ",
}

INVALID_APPENDS: dict[str, tuple[AppendRequest, str]] = {
    "no stream name": (append_to(""), "appends[0].stream"),
    "no type": (with_event(type=""), EVENT + ".type"),
    "an empty tag": (with_event(tags=["a", ""]), EVENT + ".tags[1]"),
    "a reserved stream": (append_to("$all"), "appends[0].stream"),
    "the stream $": (append_to("$"), "appends[0].stream"),
    "a reserved type": (with_event(type="$Deleted"), EVENT + ".type"),
    "a reserved tag": (with_event(tags=["a", "$b"]), EVENT + ".tags[1]"),
    "a reserved metadata key": (with_event(metadata={"$k": "v"}), EVENT + ".metadata"),
    "a reserved stream that is only checked": (
        append_all(to_stream("a", make_event()), to_stream("$b", expected_version=0)),
        "appends[1].stream",
    ),
    "the nil UUID": (with_event(id="0" * 8 + "-0000-0000-0000-" + "0" * 12), EVENT + ".id"),
    "the max UUID": (with_event(id="f" * 8 + "-ffff-ffff-ffff-" + "f" * 12), EVENT + ".id"),
    "the max UUID in capitals": (
        with_event(id="F" * 8 + "-FFFF-FFFF-FFFF-" + "F" * 12),
        EVENT + ".id",
    ),
    "a condition without a query": (
        append_all(to_stream("a", make_event()), conditions=[AppendCondition(after_position=0)]),
        "conditions[0].fail_if_match",
    ),
    "an expected version over 2^63-1": (
        append_to("a", expected_version=2**63),
        "appends[0].expected_version",
    ),
    "a condition after a position over 2^63-1": (
        append_all(to_stream("a", make_event()), conditions=[fail_if(ALL, 2**63)]),
        "conditions[0].after_position",
    ),
    "the same stream twice with an expectation": (
        append_all(
            to_stream("a", make_event(), expected_version=0),
            to_stream("a", make_event(), expected_version=0),
        ),
        "appends[1]",
    ),
    "an expectation after the first part": (
        append_all(to_stream("a", make_event()), to_stream("a", expected_exists=False)),
        "appends[1]",
    ),
    "a part with neither events nor expectation": (
        append_all(to_stream("a", make_event()), StreamAppend(stream="b")),
        "appends[1]",
    ),
    "no event of no stream": (AppendRequest(events=[Event()]), "events[0].type"),
}
for _name, _time in {
    "before year 1": Timestamp(seconds=-62_135_596_801),
    "after year 9999": Timestamp(seconds=253_402_300_800),
    "negative nanos": Timestamp(nanos=-1),
    "a second of nanos": Timestamp(nanos=10**9),
    "lowest": Timestamp(seconds=-(2**63)),
    "highest": Timestamp(seconds=2**63 - 1, nanos=2**31 - 1),
}.items():
    INVALID_APPENDS[f"a time {_name}"] = (with_event(time=_time), EVENT + ".time")
for _name, _id in BAD_UUIDS.items():
    INVALID_APPENDS[f"an id: {_name}"] = (with_event(id=_id), EVENT + ".id")
    INVALID_APPENDS[f"a log id: {_name}"] = (
        append_all(to_stream("a", make_event()), expected_log_id=_id),
        "expected_log_id",
    )
for _character in CONTROL_CHARACTERS:
    _name = f"U+{ord(_character):04X} in "
    INVALID_APPENDS[_name + "a stream"] = (append_to(f"a{_character}b"), "appends[0].stream")
    INVALID_APPENDS[_name + "a type"] = (with_event(type=_character + "T"), EVENT + ".type")
    INVALID_APPENDS[_name + "a tag"] = (with_event(tags=["a" + _character]), EVENT + ".tags[0]")
    INVALID_APPENDS[_name + "a content type"] = (
        with_event(content_type="text" + _character),
        EVENT + ".content_type",
    )
    INVALID_APPENDS[_name + "a metadata key"] = (
        with_event(metadata={f"a{_character}": "v"}),
        EVENT + ".metadata",
    )


async def test_an_invalid_append(event_store, subtests):
    for name, (request, field) in INVALID_APPENDS.items():
        with subtests.test(name):
            refusal = await refused(event_store.Append(request), "INVALID_REQUEST")

            [violation] = refusal.violations
            assert violation.field.startswith(field)
    assert (await head_of(event_store)).head_position == 0


async def test_an_invalid_append_is_the_result_of_an_item(event_store, subtests):
    for name, (request, field) in INVALID_APPENDS.items():
        with subtests.test(name):
            [result] = await append_many(event_store, request)

            assert reason_of(result.failure) == "INVALID_REQUEST"
            assert result.failure.invalid_request.violations[0].field.startswith(field)
    assert (await head_of(event_store)).head_position == 0


@pytest.mark.parametrize("second", [str.lower, str.upper], ids=["same case", "other case"])
@pytest.mark.parametrize("place", ["one part", "two parts", "with and without a stream"])
async def test_the_same_id_twice_in_one_request(event_store, place, second):
    event_id = new_id()
    first, again = make_event(id=event_id), make_event(id=second(event_id))
    request = {
        "one part": append_to("a", first, make_event(), again),
        "two parts": append_all(to_stream("a", first), to_stream("b", again)),
        "with and without a stream": append_all(to_stream("a", first), events=[again]),
    }[place]

    refusal = await refused(event_store.Append(request), "INVALID_REQUEST")

    assert refusal.fields[0].endswith(".id")
    assert (await head_of(event_store)).head_position == 0


async def test_any_other_character_is_allowed(event_store, subtests):
    for text in (
        "a$",
        "a b",
        " a",
        "\u200b",
        "\u2028",
        "\ufeff",
        "\ue000",
        "\uffff",
        "\U0010ffff",
        "%_*'",
    ):
        with subtests.test(ascii(text)):
            event = make_event(text, text, content_type=text, metadata={text: "\x00\n$"})

            await append(event_store, append_to(text, event))

            [recorded] = (
                await read(event_store, query=matching(streams=[text], tags=[text]))
            ).events
            assert (recorded.stream, recorded.type, recorded.content_type) == (text, text, text)
            assert dict(recorded.metadata) == {text: "\x00\n$"}


# --- queries, wherever they are

INVALID_QUERIES: dict[str, tuple[Query, str]] = {
    "neither items nor all": (Query(), ""),
    "all is false": (Query(all=False), ""),
    "both items and all": (Query(items=[QueryItem(types=["T"])], all=True), ""),
    "an item with no part": (matching(QueryItem(types=["T"]), QueryItem()), ".items[1]"),
    **{
        f"an empty string in {part}": (matching(**{part: ["a", ""]}), f".items[0].{part}[1]")
        for part in ("streams", "stream_prefixes", "types", "tags", "categories")
    },
    **{
        f"U+{ord(character):04X} in {part}": (
            matching(**{part: ["a" + character]}),
            f".items[0].{part}[0]",
        )
        for part in ("streams", "stream_prefixes", "types", "tags", "categories")
        for character in ("\x00", "\x9f")
    },
}


async def test_an_invalid_query(event_store, subtests):
    for name, (query, path) in INVALID_QUERIES.items():
        condition = append_all(to_stream("a", make_event()), conditions=[fail_if(query)])
        for prefix, call in (
            ("query", event_store.Read(ReadRequest(query=query))),
            ("query", event_store.Subscribe(SubscribeRequest(query=query))),
            ("conditions[0].fail_if_match", event_store.Append(condition)),
        ):
            with subtests.test(f"{name}, in {prefix}"):
                refusal = await refused(call, "INVALID_REQUEST")
                assert refusal.fields[0].startswith(prefix + path)


# --- reads and subscriptions

INVALID_READS: dict[str, tuple[ReadRequest, str]] = {
    "no source": (ReadRequest(), ""),
    "an empty stream": (ReadRequest(stream=""), "stream"),
    "a control character": (ReadRequest(stream="a\n"), "stream"),
    "an unknown direction": (ReadRequest(query=ALL, direction=3), "direction"),
    "a negative direction": (ReadRequest(query=ALL, direction=-1), "direction"),
    "after a version of a query": (ReadRequest(query=ALL, after_version=1), "after_version"),
    "after version 0 of a query": (ReadRequest(query=ALL, after_version=0), "after_version"),
    "after a position over 2^63-1": (
        ReadRequest(query=ALL, after_position=2**63),
        "after_position",
    ),
    "after a version over 2^63-1": (ReadRequest(stream="a", after_version=2**63), "after_version"),
    "after a version over 2^63-1, backwards": (
        ReadRequest(stream="a", after_version=2**63, direction=BACKWARDS),
        "after_version",
    ),
    "until a position over 2^63-1": (
        ReadRequest(query=ALL, until_position=2**63),
        "until_position",
    ),
    "min_position over 2^63-1": (ReadRequest(query=ALL, min_position=2**64 - 1), "min_position"),
    "after no time": (ReadRequest(query=ALL, after_time=Timestamp(nanos=-1)), "after_time"),
    "after a time out of range": (
        ReadRequest(query=ALL, after_time=Timestamp(seconds=253_402_300_800)),
        "after_time",
    ),
    "until no time": (ReadRequest(query=ALL, until_time=Timestamp(nanos=10**9)), "until_time"),
    "until a time out of range": (
        ReadRequest(query=ALL, until_time=Timestamp(seconds=-62_135_596_801)),
        "until_time",
    ),
    **{
        f"a log id: {name}": (ReadRequest(query=ALL, expected_log_id=value), "expected_log_id")
        for name, value in BAD_UUIDS.items()
    },
}


async def test_an_invalid_read(event_store, subtests):
    for name, (request, field) in INVALID_READS.items():
        with subtests.test(name):
            refusal = await refused(event_store.Read(request), "INVALID_REQUEST")

            assert refusal.fields[0].startswith(field)


INVALID_SUBSCRIPTIONS: dict[str, tuple[SubscribeRequest, str]] = {
    "no source": (SubscribeRequest(), ""),
    "an empty stream": (SubscribeRequest(stream=""), "stream"),
    "a control character": (SubscribeRequest(stream="a\x85"), "stream"),
    "after a position over 2^63-1": (
        SubscribeRequest(query=ALL, after_position=2**63),
        "after_position",
    ),
    "after a version over 2^63-1": (
        SubscribeRequest(stream="a", after_version=2**63),
        "after_version",
    ),
    "after a version of a query": (SubscribeRequest(query=ALL, after_version=0), "after_version"),
    "not from the head": (SubscribeRequest(query=ALL, from_head=False), "from_head"),
    "after no time": (SubscribeRequest(query=ALL, after_time=Timestamp(nanos=-1)), "after_time"),
    **{
        f"an event id: {name}": (
            SubscribeRequest(query=ALL, after_position=MAX_NUMBER, after_event_id=value),
            "after_event_id",
        )
        for name, value in BAD_UUIDS.items()
    },
    **{
        f"a log id: {name}": (
            SubscribeRequest(query=ALL, expected_log_id=value),
            "expected_log_id",
        )
        for name, value in BAD_UUIDS.items()
    },
}


async def test_an_invalid_subscription(event_store, subtests):
    for name, (request, field) in INVALID_SUBSCRIPTIONS.items():
        with subtests.test(name):
            refusal = await refused(event_store.Subscribe(request), "INVALID_REQUEST")

            assert refusal.fields[0].startswith(field)


# --- bytes

NO_MESSAGES = {
    "no tag": b"\xff",
    "field number 0": b"\x00\x01",
    "cut off in a tag": b"\x80",
    "cut off in a number": b"\x78\x80",
    "cut off in a string": b"\x7a\x05ab",
    "wire type 6": b"\x7e",
    "wire type 7": b"\x7f",
    "a group without an end": b"\x83\x7d",
    "the end of no group": b"\x84\x7d",
    "a number of 11 bytes": b"\x78" + b"\xff" * 10 + b"\x01",
    "a length over all": b"\x7a\xff\xff\xff\xff\x07",
    "a log that is no UTF-8": b"\x7a\x02\xc3\x28",
    "a log with half a surrogate pair": b"\x7a\x03\xed\xa0\x80",
    "too deep": b"\x83\x7d" * 1000 + b"\x84\x7d" * 1000,
}
UNARY_METHODS = sorted({method for method, _ in full_requests()})
METHODS = [*UNARY_METHODS, EVENT_STORE + "AppendMany"]


@pytest.mark.parametrize("method", METHODS)
async def test_bytes_that_are_no_message(channel, event_store, method, subtests):
    for name, data in NO_MESSAGES.items():
        with subtests.test(name):
            with pytest.raises(grpc.RpcError) as error:
                await call_raw(channel, method, data, WAIT_SECONDS)

            assert unpack(error.value).reason == "INVALID_REQUEST"
    assert (await head_of(event_store)).head_position == 0


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("stream", b"\x0a\x04\x0a\x02\xff\xfe"),
        ("event type", b"\x0a\x09\x0a\x01a\x22\x04\x12\x02\xff\xfe"),
        ("metadata key", b"\x12\x08\x32\x06\x0a\x02\xff\xfe\x12\x00"),
        ("metadata value", b"\x12\x08\x32\x06\x0a\x00\x12\x02\xff\xfe"),
    ],
)
async def test_strings_that_are_no_utf8(channel, path, data):
    with pytest.raises(grpc.RpcError) as error:
        await call_raw(channel, EVENT_STORE + "Append", data, WAIT_SECONDS)

    assert unpack(error.value).reason == "INVALID_REQUEST"


async def answers_or_refuses(channel: grpc.aio.Channel, method: str, data: bytes) -> None:
    """Whatever the bytes, a call is answered or refused by the book, never with INTERNAL."""
    try:
        await call_raw(channel, method, data, timeout=2)
    except grpc.RpcError as error:
        unpack(error)


@pytest.mark.parametrize("method", METHODS)
async def test_random_bytes_on_every_method(channel, event_store, method):
    rng = random.Random(method)
    for _ in range(150):
        await answers_or_refuses(channel, method, rng.randbytes(rng.randrange(60)))

    assert (await append(event_store, append_to("after"))).last_position


def mutated(rng: random.Random, data: bytes) -> bytes:
    """The same bytes with a few of them changed, cut, doubled or added."""
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(5):
            case 0 if changed:
                changed[at - 1] ^= 1 << rng.randrange(8)
            case 1:
                changed[at:at] = rng.randbytes(rng.randrange(1, 4))
            case 2:
                del changed[at : at + rng.randrange(1, 8)]
            case 3:
                changed[at:at] = changed[at : at + 12]
            case _ if changed:
                changed[at - 1] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
    return bytes(changed)


@pytest.mark.parametrize("number", range(len(full_requests())))
async def test_damaged_requests(channel, event_store, number):
    rng = random.Random(number)
    for _ in range(150):
        method, request = full_requests()[number]
        await answers_or_refuses(channel, method, mutated(rng, request.SerializeToString()))

    assert (await append(event_store, append_to("after"))).last_position


async def test_damaged_messages_of_append_many(channel, event_store):
    rng = random.Random(1)
    for _ in range(150):
        request = AppendManyRequest(
            items=[AppendItem(request_id=n, append=full_requests()[0][1]) for n in range(2)]
        )
        data = mutated(rng, request.SerializeToString())
        await answers_or_refuses(channel, EVENT_STORE + "AppendMany", data)

    assert (await append(event_store, append_to("after"))).last_position


async def test_requests_are_refused_while_good_ones_go_on(channel, event_store):
    """A flood of refusals on the same connection harms no append."""
    rng = random.Random(2)
    for n in range(100):
        await answers_or_refuses(channel, EVENT_STORE + "Append", rng.randbytes(20))
        response = await outcome(event_store.Append(append_to("a", expected_version=n)))
        assert response.versions[0].version == n + 1
