import pytest

import treering
from scripted import LOG_ID, OTHER_LOG_ID, event_id, page
from treering.checkpoints import Checkpoint
from treering.resume import ReadProgress, SubscriptionProgress
from treering.v1 import event_store_service_pb2 as pb
from treering.v1.query_pb2 import Query

FORWARDS, BACKWARDS = pb.DIRECTION_FORWARDS, pb.DIRECTION_BACKWARDS


def read(**fields):
    return pb.ReadRequest(query=Query(all=True), **fields)


def receive(progress, response):
    progress.received(
        response,
        [treering.RecordedEvent(type="T", position=each.position) for each in response.events],
    )


def test_a_read_that_has_not_begun_begins_anew():
    request = read(after_position=3, min_position=5, limit=7)
    assert ReadProgress(request).next_request() == request


def test_a_read_goes_on_in_the_same_state():
    progress = ReadProgress(read(limit=5, min_position=4))
    receive(progress, page(2, 4, head=9))
    receive(progress, page(6, head=9))
    assert progress.next_request() == read(
        after_position=6, until_position=9, limit=2, expected_log_id=LOG_ID
    )
    assert not progress.finished


@pytest.mark.parametrize(
    "start", [{"after_version": 1}, {"after_time": {"seconds": 1}}, {"until_time": {"seconds": 9}}]
)
def test_any_start_and_end_become_positions(start):
    progress = ReadProgress(pb.ReadRequest(stream="s", **start))
    receive(progress, page(2, 4, head=9))
    assert progress.next_request() == pb.ReadRequest(
        stream="s", after_position=4, until_position=9, expected_log_id=LOG_ID
    )


def test_a_read_backwards_goes_on_below():
    progress = ReadProgress(read(direction=BACKWARDS))
    receive(progress, page(9, 7, head=9))
    assert progress.next_request() == read(
        direction=BACKWARDS, after_position=7, until_position=9, expected_log_id=LOG_ID
    )


def test_a_read_that_has_only_its_state_keeps_its_start():
    progress = ReadProgress(read(after_position=3))
    receive(progress, page(head=9))
    assert progress.next_request() == read(
        after_position=3, until_position=9, expected_log_id=LOG_ID
    )


def test_the_original_request_is_left_alone():
    request = read(limit=5)
    progress = ReadProgress(request)
    receive(progress, page(1))
    progress.next_request()
    assert request == read(limit=5)


@pytest.mark.parametrize(
    ("request_fields", "positions", "finished"),
    [
        ({}, (), False),
        ({}, (8,), False),
        ({}, (9,), True),
        ({"limit": 2}, (3,), False),
        ({"limit": 2}, (3, 4), True),
        ({"limit": 0}, (), True),
        ({"direction": BACKWARDS}, (9,), False),
        ({"direction": BACKWARDS}, (2, 1), True),
    ],
)
def test_a_read_knows_when_nothing_more_can_come(request_fields, positions, finished):
    progress = ReadProgress(read(**request_fields))
    assert not progress.finished
    receive(progress, page(*positions, head=9))
    assert progress.finished is finished


def subscribe(**fields):
    return pb.SubscribeRequest(query=Query(all=True), heartbeat_interval={"seconds": 1}, **fields)


def accepted(after, log_id=LOG_ID):
    return pb.SubscriptionStarted(log_id=log_id, after_position=after, head_position=9)


def test_a_subscription_that_was_not_accepted_begins_anew():
    request = subscribe(from_head=True)
    progress = SubscriptionProgress(request)
    assert progress.next_request() == request
    assert progress.checkpoint == Checkpoint("", 0)


@pytest.mark.parametrize("start", [{"from_head": True}, {"after_version": 3}, {}])
def test_once_accepted_its_start_is_a_position(start):
    progress = SubscriptionProgress(subscribe(**start))
    progress.accepted(accepted(9))
    assert progress.next_request() == subscribe(after_position=9, expected_log_id=LOG_ID)
    assert progress.checkpoint == Checkpoint(LOG_ID, 9)


def test_a_subscription_goes_on_after_what_it_handed_out():
    progress = SubscriptionProgress(subscribe())
    progress.accepted(accepted(0))
    progress.reached(7, event_id(7))
    expected = subscribe(after_position=7, after_event_id=event_id(7), expected_log_id=LOG_ID)
    assert progress.next_request() == expected
    progress.accepted(accepted(7))
    assert progress.next_request() == expected


def test_a_checkpoint_keeps_its_event_until_there_is_a_later_one():
    start = {"after_position": 7, "after_event_id": event_id(7), "expected_log_id": LOG_ID}
    progress = SubscriptionProgress(subscribe(**start))
    assert progress.checkpoint == Checkpoint(LOG_ID, 7, event_id(7))
    progress.accepted(accepted(7))
    assert progress.next_request() == subscribe(**start)


def test_a_log_that_forked_later_is_followed_under_its_new_id():
    start = {"after_position": 7, "after_event_id": event_id(7), "expected_log_id": LOG_ID}
    progress = SubscriptionProgress(subscribe(**start))
    progress.accepted(accepted(7, OTHER_LOG_ID))
    assert progress.checkpoint == Checkpoint(OTHER_LOG_ID, 7, event_id(7))


def test_a_log_that_forks_meanwhile_is_gone_on_with_under_its_new_id():
    progress = SubscriptionProgress(subscribe())
    progress.accepted(accepted(0))
    progress.reached(7, event_id(7))
    progress.forked(OTHER_LOG_ID)
    assert progress.checkpoint == Checkpoint(OTHER_LOG_ID, 7, event_id(7))
    assert progress.next_request() == subscribe(
        after_position=7, after_event_id=event_id(7), expected_log_id=OTHER_LOG_ID
    )
