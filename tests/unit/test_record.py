"""Records: body and envelope are one RecordedEvent, and joined records are a message."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from treering.v1.event_pb2 import Event, RecordedEvent
from treering.v1.event_store_service_pb2 import EventBatch, ReadResponse
from treering_server.core.query import Terms
from treering_server.core.record import (
    EnvelopeEncoder,
    Recorded,
    encode_body,
    join,
    parse,
    same_event,
)

ID = "0198f000-0000-7000-8000-000000000001"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
positions = st.integers(1, 2**63 - 1)
times = st.integers(0, 253_402_300_799_999_999)


@st.composite
def events(draw):
    event = Event(
        id=str(draw(st.uuids())),
        type=draw(texts),
        data=draw(st.binary(max_size=300)),
        content_type=draw(texts),
        tags=draw(st.lists(texts, max_size=4)),
        metadata=draw(st.dictionaries(texts, texts, max_size=3)),
    )
    if draw(st.booleans()):
        event.time.FromNanoseconds(draw(st.integers(0, 2**62)))
    return event


places = st.one_of(
    st.tuples(positions, texts.filter(bool), positions, times),
    st.tuples(positions, st.just(""), st.just(0), times),
)


@given(st.lists(st.tuples(events(), places), max_size=5))
def test_body_and_envelope_parse_as_the_recorded_event(recorded):
    encoder = EnvelopeEncoder()
    for event, (position, stream, version, recorded_at) in recorded:
        record = encode_body(event) + encoder.encode(position, stream, version, recorded_at)

        parsed = RecordedEvent.FromString(record)

        expected = RecordedEvent(
            id=event.id,
            type=event.type,
            data=event.data,
            content_type=event.content_type,
            tags=event.tags,
            metadata=event.metadata,
            position=position,
            stream=stream,
            version=version,
        )
        if event.HasField("time"):
            expected.time.CopyFrom(event.time)
        expected.recorded_at.FromMicroseconds(recorded_at)
        assert parsed == expected
        assert Event.FromString(encode_body(event)) == event


@given(events(), places)
def test_the_core_reads_a_record(event, place):
    position, stream, version, recorded_at = place

    record = encode_body(event) + EnvelopeEncoder().encode(*place)

    assert parse(record) == Recorded(
        id=UUID(event.id),
        terms=Terms(stream, event.type, frozenset(event.tags)),
        position=position,
        version=version,
        recorded_at=recorded_at,
    )


def test_no_stream_takes_no_bytes():
    encoder = EnvelopeEncoder()
    encoder.encode(1, "order-1", 1, 5)

    envelope = encoder.encode(2, "", 0, 5)

    assert envelope == RecordedEvent(position=2, recorded_at={"nanos": 5_000}).SerializeToString()


def test_an_envelope_has_the_fields_that_an_event_leaves_free():
    theirs = {field.number for field in Event.DESCRIPTOR.fields}
    both = {field.number: field for field in RecordedEvent.DESCRIPTOR.fields}

    envelope = RecordedEvent.FromString(EnvelopeEncoder().encode(1, "a", 1, 1))

    assert {field.number for field, _ in envelope.ListFields()} == set(both) - theirs
    for field in Event.DESCRIPTOR.fields:
        assert (both[field.number].name, both[field.number].type) == (field.name, field.type)


def an_event(**fields):
    return Event(
        **{
            "id": ID,
            "type": "T",
            "data": b"x",
            "content_type": "application/json",
            "tags": ["a", "b"],
            "metadata": {"k": "v"},
            "time": {"seconds": 1},
        }
        | fields
    )


def is_repeated_by(**fields):
    record = encode_body(an_event()) + EnvelopeEncoder().encode(1, "s", 1, 1)
    return same_event(encode_body(an_event(**fields)), record)


def test_a_repeat_has_the_same_type_content_type_data_and_set_of_tags():
    assert is_repeated_by()
    assert is_repeated_by(tags=["b", "a", "b"])
    assert not is_repeated_by(type="U")
    assert not is_repeated_by(content_type="text/plain")
    assert not is_repeated_by(data=b"y")
    assert not is_repeated_by(tags=["a"])
    assert not is_repeated_by(tags=["a", "b", "c"])


def test_metadata_and_time_may_differ_in_a_repeat():
    assert is_repeated_by(metadata={})
    assert is_repeated_by(metadata={"traceparent": "00-1"}, time={"seconds": 2})


@given(st.lists(events(), max_size=6))
def test_joined_records_are_a_response_and_a_batch(recorded):
    records = [encode_body(event) for event in recorded]
    parsed = [RecordedEvent.FromString(record) for record in records]

    joined = join(records)

    assert list(ReadResponse.FromString(joined).events) == parsed
    assert list(EventBatch.FromString(joined).events) == parsed


def test_records_of_any_length_join():
    lengths = [0, 3, 127, 128, 129, 16_383, 16_384, 16_385, 2_097_151, 2_097_152]

    for _ in range(2):  # The second time, headers are remembered.
        joined = join([_padded(length) for length in lengths])

        batch = EventBatch.FromString(joined)
        assert [event.ByteSize() for event in batch.events] == lengths
        assert joined == batch.SerializeToString()


def _padded(length: int) -> bytes:
    """A RecordedEvent that is this many bytes once encoded."""
    if length == 0:
        return b""
    for overhead in range(2, 6):
        record = RecordedEvent(data=b"x" * (length - overhead)).SerializeToString()
        if len(record) == length:
            return record
    raise AssertionError(length)
