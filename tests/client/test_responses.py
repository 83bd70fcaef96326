"""Responses whose events are left undecoded: the same on the wire as the API's own."""

import threading

import pytest

from scripted import caught_up, events, fell_behind, heartbeat, page, recorded, started
from treering.events import recorded_events
from treering.responses import decode_read, decode_subscribe
from treering.v1 import event_store_service_pb2 as pb


def test_a_read_response_has_its_records_as_they_came():
    response = page(3, 4, head=9)

    decoded = decode_read(response.SerializeToString())

    assert list(decoded.events) == [recorded(n).SerializeToString() for n in (3, 4)]
    assert decoded.head_position == response.head_position == 9
    assert decoded.stream_version == response.stream_version == 9
    assert decoded.log_id == response.log_id


def test_a_batch_of_a_subscription_has_its_records_as_they_came():
    decoded = decode_subscribe(events(3, 4).SerializeToString())

    assert decoded.WhichOneof("content") == "events"
    assert list(decoded.events.events) == [recorded(n).SerializeToString() for n in (3, 4)]


@pytest.mark.parametrize(
    "response",
    [started(after=3), caught_up(4), heartbeat(5), fell_behind(6, log_id="another")],
    ids=lambda response: response.WhichOneof("content"),
)
def test_all_else_that_a_subscription_says_is_as_the_api_has_it(response):
    encoded = response.SerializeToString()

    decoded = decode_subscribe(encoded)

    name = response.WhichOneof("content")
    assert decoded.WhichOneof("content") == name
    assert getattr(decoded, name).SerializeToString() == getattr(response, name).SerializeToString()


def test_what_a_later_version_may_say_has_no_name():
    unknown = b"\x9a\x06\x00"  # Field 99, of no bytes.
    assert pb.SubscribeResponse.FromString(unknown).WhichOneof("content") is None
    assert decode_subscribe(unknown).WhichOneof("content") is None


def test_events_are_the_same_for_threads_that_look_at_once():
    together = threading.Barrier(8)
    found = []

    def look(some):
        together.wait()
        found.append([(event.position, event.type, event.data) for event in some])

    some = recorded_events(recorded(n).SerializeToString() for n in range(1, 2_001))
    threads = [threading.Thread(target=look, args=(some,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[(n, "Happened", b"") for n in range(1, 2_001)]] * 8
