import copy
import pickle
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.wrappers_pb2 import StringValue

from treering import Event, RecordedEvent
from treering.events import recorded_events
from treering.v1 import event_pb2

ID = "0193b1c8-0000-7000-8000-00000000abcd"


class Pydantic:
    """What a pydantic model looks like from outside."""

    def model_dump_json(self) -> str:
        return '{"total":42}'


@pytest.mark.parametrize(
    ("data", "content_type", "expected", "expected_type"),
    [
        ({"total": 42, "items": []}, None, b'{"total":42,"items":[]}', "application/json"),
        ({"name": "Zoë"}, None, '{"name":"Zoë"}'.encode(), "application/json"),
        (["a", None], None, b'["a",null]', "application/json"),
        ("text", None, b'"text"', "application/json"),
        (0, None, b"0", "application/json"),
        (False, None, b"false", "application/json"),
        (None, None, b"", "application/json"),
        (b"null", "application/json", b"null", "application/json"),
        (b"\x00\xff", None, b"\x00\xff", "application/octet-stream"),
        (bytearray(b"ab"), None, b"ab", "application/octet-stream"),
        (b"<a/>", "application/xml", b"<a/>", "application/xml"),
        ("Zoë", "text/plain", "Zoë".encode(), "text/plain"),
        ({"a": 1}, "application/vnd.x+json", b'{"a":1}', "application/vnd.x+json"),
        ("a", "application/json; charset=utf-8", b'"a"', "application/json; charset=utf-8"),
        (Pydantic(), None, b'{"total":42}', "application/json"),
        (
            StringValue(value="a"),
            None,
            b"\n\x01a",
            "application/protobuf; type=google.protobuf.StringValue",
        ),
        (StringValue(value="a"), "application/x-protobuf", b"\n\x01a", "application/x-protobuf"),
    ],
)
def test_data_is_encoded_by_its_type(data, content_type, expected, expected_type):
    event = Event("Happened", data, content_type=content_type)
    assert (event.data, event.content_type) == (expected, expected_type)


def test_a_real_pydantic_model_is_recorded_as_its_json():
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Order", total=(int, ...), at=(datetime, ...))
    event = Event("Placed", model(total=42, at=datetime(2026, 1, 2, tzinfo=UTC)))
    assert event.data == b'{"total":42,"at":"2026-01-02T00:00:00Z"}'


@pytest.mark.parametrize("data", [float("nan"), {"a": float("inf")}])
def test_what_json_does_not_know_is_refused(data):
    with pytest.raises(ValueError, match="JSON"):
        Event("Happened", data)


def test_what_cannot_be_encoded_is_refused():
    with pytest.raises(TypeError):
        Event("Happened", object())
    with pytest.raises(ValueError, match="text/plain"):
        Event("Happened", {"a": 1}, content_type="text/plain")


def test_data_is_encoded_once():
    data = {"total": 42}
    event = Event("Happened", data)
    data["total"] = 43
    assert event.data == b'{"total":42}'


def test_an_id_is_made_once_for_each_event():
    first, second = Event("Happened"), Event("Happened")
    assert first.id.version == second.id.version == 7
    assert first.id < second.id


def test_an_id_may_be_a_string_in_any_case():
    assert Event("Happened", id=ID.upper()).id == UUID(ID) == Event("Happened", id=UUID(ID)).id
    with pytest.raises(ValueError, match="UUID"):
        Event("Happened", id="order-1042")


def test_one_tag_alone_is_one_tag():
    assert Event("Happened", tags="customer:7").tags == ("customer:7",)
    assert Event("Happened", tags=["a", "b", "a"]).tags == ("a", "b")


@pytest.mark.parametrize("wrong", [{"tags": [7]}, {"metadata": {"a": 7}}, {"metadata": {7: "a"}}])
def test_tags_and_metadata_are_strings(wrong):
    with pytest.raises(TypeError, match="strings"):
        Event("Happened", **wrong)


def test_a_type_is_a_string():
    with pytest.raises(TypeError, match="type"):
        Event({"total": 42})


def test_a_time_needs_a_time_zone():
    with pytest.raises(ValueError, match="time zone"):
        Event("Happened", time=datetime(2026, 1, 2))  # noqa: DTZ001


def test_events_are_frozen_hashable_and_replaceable():
    metadata = {"a": "b"}
    event = Event("Happened", {"a": 1}, id=ID, tags=["t"], metadata=metadata)
    metadata["a"] = "c"
    assert event.metadata == {"a": "b"}
    with pytest.raises(FrozenInstanceError):
        event.type = "Other"
    with pytest.raises(TypeError):
        event.metadata["a"] = "c"
    assert {event, Event("Happened", {"a": 1}, id=ID, tags=["t"], metadata={"a": "b"})} == {event}
    changed = replace(event, type="Other")
    assert (changed.type, changed.data, changed.id) == ("Other", event.data, event.id)


def test_an_event_survives_pickling():
    event = Event("Happened", {"a": 1}, metadata={"a": "b"}, time=datetime.now(UTC))
    assert pickle.loads(pickle.dumps(event)) == copy.deepcopy(event) == event


def test_an_event_travels_whole():
    zone = timezone(timedelta(hours=2))
    time = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=zone)
    message = event_pb2.Event()
    Event("T", {"a": 1}, id=ID, tags=["x", "y"], metadata={"k": "v"}, time=time).write_to(message)
    assert message == event_pb2.Event(
        id=ID,
        type="T",
        data=b'{"a":1}',
        content_type="application/json",
        tags=["x", "y"],
        metadata={"k": "v"},
        time=Timestamp(seconds=1767315845, nanos=678901000),
    )


def message(**changes):
    whole = {
        "id": ID,
        "type": "Placed",
        "data": b'{"total":42}',
        "content_type": "application/json",
        "tags": ["a"],
        "metadata": {"k": "v"},
        "time": Timestamp(seconds=1, nanos=123456789),
        "position": 7,
        "stream": "order-1042",
        "version": 3,
        "recorded_at": Timestamp(seconds=2, nanos=5000),
    }
    return event_pb2.RecordedEvent(**(whole | changes))


def received(message):
    (event,) = recorded_events([message.SerializeToString()])
    return event


def test_a_recorded_event_has_all_of_the_message():
    event = received(message())
    assert event.id == UUID(ID)
    assert event.type == "Placed"
    assert event.data == b'{"total":42}'
    assert event.content_type == "application/json"
    assert event.tags == ("a",)
    assert event.metadata == {"k": "v"}
    assert event.position == 7
    assert event.stream == "order-1042"
    assert event.category == "order"
    assert event.version == 3
    assert event.recorded_at == datetime(1970, 1, 1, 0, 0, 2, 5, tzinfo=UTC)
    assert event.json() == {"total": 42}


def test_a_time_finer_than_a_datetime_is_kept():
    event = received(message())
    assert event.time == datetime(1970, 1, 1, 0, 0, 1, 123456, tzinfo=UTC)
    assert event.time_ns == 1_123_456_789


@pytest.mark.parametrize("seconds", [-62_135_596_800, -1, 253_402_300_799])
def test_every_timestamp_is_a_datetime(seconds):
    event = received(message(time=Timestamp(seconds=seconds, nanos=999_999_999)))
    assert event.time is not None
    assert event.time.microsecond == 999_999
    assert event.time_ns == seconds * 10**9 + 999_999_999


def test_what_is_not_known_is_none():
    event = received(message(time=None, stream="", version=0, tags=[], metadata={}))
    assert (event.time, event.time_ns) == (None, None)
    assert (event.stream, event.category, event.version) == ("", "", 0)
    assert (event.tags, event.metadata) == ((), {})


@pytest.mark.parametrize(
    ("stream", "category"), [("order-1-2", "order"), ("order", "order"), ("-1", "")]
)
def test_the_category_is_the_name_before_the_first_hyphen(stream, category):
    assert RecordedEvent(type="T", position=1, stream=stream).category == category


def test_a_recorded_event_can_be_made_in_a_test():
    event = RecordedEvent(
        type="Placed",
        data=b'{"total":42}',
        position=7,
        stream="order-1042",
        version=3,
        id=ID,
        tags=["a"],
        metadata={"k": "v"},
        time=datetime(1970, 1, 1, 0, 0, 1, 123456, tzinfo=UTC),
        recorded_at=datetime(1970, 1, 1, 0, 0, 2, 5, tzinfo=UTC),
    )
    same = received(message(time=Timestamp(seconds=1, nanos=123456000)))
    assert event == same
    assert {event: 1}[same] == 1
    assert event != RecordedEvent(type="Placed", position=7)
    assert RecordedEvent(type="Placed", position=7).id.version == 7


def test_a_recorded_event_is_frozen():
    event = RecordedEvent(type="T", position=1)
    with pytest.raises(FrozenInstanceError):
        event.type = "Other"
    with pytest.raises(FrozenInstanceError):
        event.more = 1
    with pytest.raises(FrozenInstanceError):
        del event.type
    with pytest.raises(TypeError):
        event.metadata["a"] = "b"


def test_a_recorded_event_survives_pickling_and_shows_itself():
    event = received(message())
    assert pickle.loads(pickle.dumps(event)) == copy.deepcopy(event) == event
    assert "position=7, stream='order-1042', version=3, type='Placed'" in repr(event)


def test_no_data_is_none_as_json():
    assert RecordedEvent(type="T", position=1).json() is None
    assert RecordedEvent(type="T", position=1, data=b"null").json() is None
    with pytest.raises(ValueError, match="Expecting"):
        RecordedEvent(type="T", position=1, data=b"{").json()


def test_data_is_read_as_a_message():
    sent = Event("T", StringValue(value="a"))
    event = RecordedEvent(type="T", position=1, data=sent.data, content_type=sent.content_type)
    assert event.message(StringValue) == StringValue(value="a")
    with pytest.raises(ValueError, match=r"holds a google\.protobuf\.StringValue"):
        event.message(Timestamp)
    with pytest.raises(ValueError, match=r"no google\.protobuf\.StringValue"):
        RecordedEvent(type="T", position=1, data=b"\xff").message(StringValue)
