"""Events as CloudEvents: there and back without loss."""

import base64
import json
import uuid
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import example, given
from hypothesis import strategies as st

from treering.cli.cloudevents import (
    ID_NAMESPACE,
    NotAnEvent,
    event_id,
    format_time,
    is_json,
    parse_time,
    read_line,
    write_line,
)
from treering.events import RecordedEvent, recorded_events
from treering.v1.event_pb2 import Event
from treering.v1.event_pb2 import RecordedEvent as Record

LOG_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
ID = "d5ba1ffd-3a2d-55f8-a700-01188f78acd3"


def line(*, without: str = "", **members: Any) -> bytes:
    """A line that can be taken, with these members, and without one."""
    least = {"specversion": "1.0", "id": ID, "source": "urn:shop", "type": "OrderPlaced"}
    least |= members
    least.pop(without, None)
    return json.dumps(least).encode()


def recorded(event: Event, stream: str, position: int = 7) -> RecordedEvent:
    """The event as a log gives it back."""
    record = Record.FromString(event.SerializeToString())
    record.position = position
    record.recorded_at.FromMicroseconds(1_700_000_000_123_456)
    if stream:
        record.stream, record.version = stream, 3
    [event_again] = recorded_events([record.SerializeToString()])
    return event_again


# ---- import


def test_every_part_goes_where_it_belongs() -> None:
    stream, event = read_line(
        line(
            subject="order-1",
            time="2026-01-31T12:00:00.123456789+02:00",
            datacontenttype="application/json; charset=utf-8",
            data={"b": 1, "a": [True, None]},
            correlationid="c",
            causationid="d",
            traceparent="00-a-b-01",
            dataschema="urn:schema",
            priority=5,
            exact=1.50,
            urgent=True,
            gone=None,
            sequence="1",
            recordedtime="whenever",
            streamversion=9,
            treeringtags='["customer:7","größe:l"]',
            treeringmetadata='{"user":"ann"}',
        ).replace(b"1.5", b"1.50")
    )
    assert stream == "order-1"
    assert event == Event(
        id=ID,
        type="OrderPlaced",
        data=b'{"b":1,"a":[true,null]}',
        content_type="application/json; charset=utf-8",
        tags=["customer:7", "größe:l"],
        metadata={
            "ce_source": "urn:shop",
            "correlation_id": "c",
            "causation_id": "d",
            "traceparent": "00-a-b-01",
            "ce_dataschema": "urn:schema",
            "ce_priority": "5",
            "ce_exact": "1.50",
            "ce_urgent": "true",
            "user": "ann",
        },
        time=Timestamp(seconds=1_769_853_600, nanos=123_456_789),
    )


def test_the_least_line() -> None:
    stream, event = read_line(line())
    assert stream == ""
    assert event == Event(
        id=ID,
        type="OrderPlaced",
        content_type="application/json",
        metadata={"ce_source": "urn:shop"},
    )
    assert not event.HasField("time")


@pytest.mark.parametrize("data", ["1.0", "1e5", "12345678901234567890123", '{"a":1,"a":2.50}'])
def test_data_stays_as_it_was_written(data: str) -> None:
    text = line(data="@").decode().replace('"@"', data)
    assert read_line(text.encode())[1].data == data.encode()


@pytest.mark.parametrize(
    ("members", "data"),
    [
        ({}, b""),
        ({"data": None}, b"null"),
        ({"data": "é"}, '"é"'.encode()),
        ({"data": "<é/>", "datacontenttype": "text/xml"}, "<é/>".encode()),
        ({"data": '"a"', "datacontenttype": "application/vnd.x+json"}, b'"\\"a\\""'),
        ({"data": {"a": 1}, "datacontenttype": "text/plain"}, b'{"a":1}'),
        ({"data": 5, "datacontenttype": "text/plain"}, b"5"),
        ({"data_base64": "AP8="}, b"\x00\xff"),
        ({"data_base64": "AP8=", "datacontenttype": "text/xml"}, b"\x00\xff"),
        ({"data_base64": ""}, b""),
        ({"data_base64": None, "data": 1}, b"1"),
    ],
)
def test_data_in_its_forms(members: dict[str, Any], data: bytes) -> None:
    assert read_line(line(**members))[1].data == data


def test_an_id_that_is_a_uuid_stays() -> None:
    event = read_line(line(id=ID.upper()))[1]
    assert event.id == ID
    assert "ce_id" not in event.metadata


@pytest.mark.parametrize(
    "id", ["1", "Ä", ID[:-1], f"{{{ID}}}", ID.replace("-", ""), str(uuid.UUID(int=0)), "f" * 8]
)
def test_any_other_id_becomes_a_uuid_of_source_and_id(id: str) -> None:
    event = read_line(line(id=id))[1]
    assert event.metadata["ce_id"] == id
    assert event.id == str(uuid.uuid5(ID_NAMESPACE, "urn:shop\0" + id)) == event_id("urn:shop", id)
    assert event.id != read_line(line(id=id, source="urn:shops"))[1].id


def test_the_made_ids_never_change() -> None:
    # Another id for the same line would record it a second time when an import is repeated.
    assert str(ID_NAMESPACE) == "ff32c5ca-5c7d-524b-b269-8c1f11b20028"
    assert event_id("urn:shop", "1") == "be637857-757a-5fe7-ae5c-f4ae7a97f0c2"


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"id":"\xff"}', "not UTF-8: byte 8"),
        (line(without="specversion"), "no specversion"),
        (line(without="id"), "no id"),
        (line(without="source"), "no source"),
        (line(without="type"), "no type"),
        (line(id=None), "no id"),
        (line(specversion="0.3"), 'specversion is "0.3"'),
        (line(specversion=1.0), "specversion is a number"),
        (line(id=5), "id is a number"),
        (line(id=""), "id is empty"),
        (line(id="a\0b"), "id has a control character"),
        (line(source="a\nb"), "source has a control character"),
        (line(type=["a"]), "type is an array"),
        (line(subject=""), "subject is empty: give it a value or leave it out"),
        (line(subject=5), "subject is a number"),
        (line(subject="\ud800"), "surrogate"),
        (line(type="\ud800"), "surrogate"),
        (line(id="\ud800"), "surrogate"),
        (line(extension="\ud800"), "surrogate"),
        (line(datacontenttype=True), "datacontenttype is a boolean"),
        (line(extension={}), "extension is an object"),
        (line(extension=[]), "extension is an array"),
        (line(data=1, data_base64="AA=="), "both data and data_base64"),
        (line(data_base64=1), "data_base64 is a number"),
        (line(data_base64="A"), "not base64"),
        (line(data_base64="AA==\n"), "not base64"),
        (line(data_base64="ä"), "not base64"),
        (line(treeringtags=["a"]), "treeringtags is an array"),
        (line(treeringtags="a"), "treeringtags: expected"),
        (line(treeringtags='{"a":1}'), "treeringtags: expected"),
        (line(treeringtags="[1]"), "treeringtags: expected"),
        (line(treeringmetadata='{"a":1}'), "treeringmetadata: expected"),
        (line(treeringmetadata="[" * 100_000), "treeringmetadata: expected"),
        (line(treeringmetadata='{"ce_x":"1"}', x="2"), "'ce_x' is there as an attribute"),
        (line(time="yesterday"), 'time is "yesterday"'),
        (b'{"id":"a","id":"b"}', "'id' is there twice"),
    ],
)
def test_why_a_line_can_not_be_taken(bad: bytes, why: str) -> None:
    with pytest.raises(NotAnEvent) as caught:
        read_line(bad)
    assert why in str(caught.value)


def test_data_is_json_by_its_type() -> None:
    for content_type in ("application/json", "TEXT/JSON", "a/b+json", "application/json ;x=y"):
        assert is_json(content_type)
    for content_type in ("", "json", "text/plain", "application/jsonl", "a/json+xml"):
        assert not is_json(content_type)


# ---- times


@pytest.mark.parametrize(
    ("text", "seconds", "nanos"),
    [
        ("1970-01-01T00:00:00Z", 0, 0),
        ("1969-12-31T23:59:59.5Z", -1, 500_000_000),
        ("2026-01-31t12:00:00.000000001z", 1_769_860_800, 1),
        ("2026-01-31 12:00:00-01:30", 1_769_866_200, 0),
        ("2026-01-31T12:00:00.1234567890000+00:00", 1_769_860_800, 123_456_789),
        ("0001-01-01T00:00:00Z", -62_135_596_800, 0),
        ("9999-12-31T23:59:59.999999999Z", 253_402_300_799, 999_999_999),
    ],
)
def test_times_as_rfc_3339_writes_them(text: str, seconds: int, nanos: int) -> None:
    assert parse_time(text) == (seconds, nanos)


@pytest.mark.parametrize(
    "text",
    [
        *("2026-01-31", "2026-01-31T12:00Z", "2026-01-31T12:00:00", "2026-02-30T12:00:00Z"),
        *("2026-01-31T24:00:00Z", "2026-01-31T12:00:60Z", "2026-01-31T12:00:00.Z"),
        *("2026-01-31T12:00:00+0100", "2026-01-31T12:00:00+24:00", "0000-01-01T00:00:00Z"),
        *("0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "٢026-01-31T12:00:00Z"),
        *("2026-01-31T12:00:00.1234567891Z", "20260131T120000Z", "2026-01-31T12:00:00Z\n"),
    ],
)
def test_what_is_no_such_time(text: str) -> None:
    with pytest.raises(NotAnEvent, match=r"^time is "):
        parse_time(text)


# ---- there and back

names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
metadata_keys = (
    names
    | st.sampled_from(
        [
            *("correlation_id", "causation_id", "traceparent", "ce_source", "ce_id", "ce_type"),
            *("ce_time", "ce_data", "ce_data_base64", "ce_sequence", "ce_correlationid", "ce_"),
            *("ce_treeringmetadata", "ce_dataschema", "ce_Upper", "ce_correlation_id"),
            *("source", "id"),
        ]
    )
    | st.from_regex("ce_[a-z0-9]{1,5}", fullmatch=True)
)
data_of_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
).map(lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False))
events = st.builds(
    Event,
    id=st.uuids().map(str),
    type=names,
    data=st.binary(max_size=40)
    | data_of_json.map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.sampled_from([b"null", b" 1", b"1.00", b'{"a":1,"a":2}', b'"\\u0041"', b"\xef\xbb\xbf1"]),
    content_type=st.sampled_from(["application/json", "text/plain", "a/b+json"]) | names,
    tags=st.lists(names, max_size=4),
    metadata=st.dictionaries(metadata_keys, texts, max_size=6),
    time=st.none()
    | st.builds(
        Timestamp,
        seconds=st.integers(-62_135_596_800, 253_402_300_799),
        nanos=st.integers(0, 999_999_999),
    ),
)


IMPORTED = {"ce_id": "1", "ce_source": "s"}


@given(events, st.just("") | names)
@example(Event(id=ID, type="a", content_type="a/b", metadata={"ce_source": ""}), "")
@example(Event(id=ID, type="a", content_type="a/b", metadata={"ce_id": ID.upper()}), "")
@example(
    Event(id=event_id("s", "1"), type="a", content_type="a", metadata=IMPORTED),
    "",
)
@example(Event(id=ID, type="a", content_type="a", metadata=IMPORTED), "")
@example(Event(id=ID, type="a", content_type="a", metadata={"user": "\x7f\x80\x00\uffff"}), "")
def test_there_and_back(event: Event, stream: str) -> None:
    first = write_line(recorded(event, stream), LOG_ID)

    again_stream, again = read_line(first.encode())
    event.metadata.setdefault("ce_source", f"urn:treering:{LOG_ID}")
    assert again_stream == stream
    assert again == event

    # In another log it has another place, and is the same line but for that. (A ce_source that
    # can't be a source is kept, but then each log stands in for it with its own name.)
    source = json.loads(first)["source"]
    other_log_id = str(uuid.uuid4()) if again.metadata["ce_source"] == source else LOG_ID
    second = write_line(recorded(again, stream, position=9), other_log_id)
    assert second == first.replace("0000000000000000007", "0000000000000000009")


@given(events, st.just("") | names)
def test_what_comes_out_is_a_cloudevent(event: Event, stream: str) -> None:
    text = write_line(recorded(event, stream), LOG_ID)
    assert "\n" not in text
    members = json.loads(text)
    for required in ("specversion", "id", "source", "type", "datacontenttype"):
        assert members[required]
    assert ("data" in members) + ("data_base64" in members) == bool(event.data)
    for name, value in members.items():
        if name in ("data", "data_base64", "streamversion"):
            continue
        assert name.isascii() and name.isalnum() and name == name.lower()
        assert isinstance(value, str) and value
        if name not in ("type", "subject", "datacontenttype"):  # as their callers named them
            assert not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in value)


foreign = st.fixed_dictionaries(
    {"specversion": st.just("1.0"), "id": names, "source": names, "type": names},
    optional={
        "subject": names,
        "data": st.none() | st.text() | st.lists(st.integers() | st.floats(allow_nan=False)),
        "datacontenttype": st.sampled_from(["application/json", "text/plain"]),
        "extension": names | st.booleans() | st.integers(),
        "correlationid": texts,
    },
)


@given(foreign)
def test_what_others_wrote_comes_out_again(members: dict[str, Any]) -> None:
    try:
        stream, event = read_line(json.dumps(members).encode())
    except NotAnEvent:
        return
    out = json.loads(write_line(recorded(event, stream), LOG_ID))
    id = members["id"]
    assert out["id"] == (id if event.metadata.get("ce_id") else id.lower())
    for name in ("source", "type"):
        assert out[name] == members[name]
    assert out.get("subject") == members.get("subject")
    assert read_line(json.dumps(out).encode()) == (stream, event)


def test_how_a_line_looks() -> None:
    event = Event(
        id=ID,
        type="OrderPlaced",
        data=b'{"total":12.50}',
        content_type="application/json",
        tags=["customer:7"],
        metadata={"correlation_id": "c", "user": "ann", "ce_dataschema": "urn:x"},
        time=Timestamp(seconds=0, nanos=1_000_000),
    )
    assert write_line(recorded(event, "order-1"), LOG_ID) == (
        '{"specversion":"1.0","id":"d5ba1ffd-3a2d-55f8-a700-01188f78acd3",'
        '"source":"urn:treering:01890a5d-ac96-774b-bcce-b302099a8057","type":"OrderPlaced",'
        '"subject":"order-1","time":"1970-01-01T00:00:00.001000Z",'
        '"datacontenttype":"application/json","correlationid":"c","dataschema":"urn:x",'
        '"treeringmetadata":"{\\"user\\":\\"ann\\"}","treeringtags":"[\\"customer:7\\"]",'
        '"recordedtime":"2023-11-14T22:13:20.123456Z","sequence":"00000000000000000007",'
        '"streamversion":3,"data":{"total":12.50}}'
    )


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (b'{"a": 1}', "application/json"),
        (b'"\\u0041"', "application/json"),
        (b"NaN", "application/json"),
        (b"\xff", "application/json"),
        (b"<a/>", "text/xml"),
        (b"1", "text/plain"),
    ],
)
def test_data_that_would_change_goes_in_base64(data: bytes, content_type: str) -> None:
    event = Event(id=ID, type="a", data=data, content_type=content_type)
    members = json.loads(write_line(recorded(event, ""), LOG_ID))
    assert "data" not in members
    assert base64.b64decode(members["data_base64"]) == data


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_000_000, "1970-01-01T00:00:00.001000Z"),
        (1_000, "1970-01-01T00:00:00.000001Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
    ],
)
def test_times_have_as_many_digits_as_it_takes(nanos: int, text: str) -> None:
    assert format_time(nanos) == text
