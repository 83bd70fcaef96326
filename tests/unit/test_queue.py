"""The writer's queue: fair, in order for each caller, and bounded."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from treering_server.core.queue import FairQueue

MOST = 1_000


def filled(*items, most=MOST):
    """A queue with these items (caller, size), all admitted; their numbers are the items."""
    queue = FairQueue(most)
    for number, (caller, size) in enumerate(items):
        assert queue.admit(caller, size)
        queue.put(caller, size, number)
    return queue


def taken(queue):
    found = []
    while queue:
        found.append(queue.take())
    return found


def test_a_caller_that_has_little_is_served_before_the_rest_of_one_that_has_much():
    queue = filled(*[("greedy", 100)] * 8, ("b", 10), ("b", 10), ("c", 10))
    assert taken(queue)[:4] == [8, 10, 9, 0]


def test_a_late_caller_has_no_claim_on_time_gone_by():
    """Otherwise one that was silent for long could shut out all others."""
    queue = filled(*[("a", 10)] * 5)
    assert [queue.take() for _ in range(4)] == [0, 1, 2, 3]
    for number in range(5, 10):
        for caller in ("late", "a"):
            assert queue.admit(caller, 10)
            queue.put(caller, 10, (caller, number))
    order = [item if item == 4 else item[0] for item in taken(queue)]
    assert order[:6] == [4, "late", "a", "late", "a", "late"]


def test_one_item_of_any_size_is_admitted_where_nothing_else_is():
    queue = filled(("a", 10 * MOST))
    assert not queue.admit("a", 1)
    assert (queue.next_size, queue.take()) == (10 * MOST, 0)
    assert queue.admit("a", 1)


def test_one_that_has_taken_all_leaves_the_share_of_others():
    queue = filled(*[("greedy", 100)] * 10)
    assert not queue.admit("greedy", 100)
    assert queue.admit("b", 500)
    assert not queue.admit("b", 1)
    assert queue.admit("c", 333)


def test_what_leaves_or_is_taken_gives_back_its_room():
    queue = filled(("a", MOST))
    assert queue.admit("b", 100)
    queue.leave("b", 100)
    queue.take()
    assert queue.admit("a", MOST)


def test_who_can_slow_down_is_told_when_half_is_taken():
    queue = filled(("a", 400))
    assert queue.has_room("a")
    assert queue.admit("a", 200)
    assert not queue.has_room("a") and queue.has_room("b")
    assert queue.admit("b", 200)
    assert queue.has_room("b")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 400))))
def test_callers_keep_their_order_and_all_together_the_bound(items):
    queue, admitted = FairQueue(MOST), defaultdict(list)
    size = 0
    for number, (caller, item_size) in enumerate(items):
        if queue.admit(caller, item_size):
            queue.put(caller, item_size, (caller, number))
            admitted[caller].append(number)
            size += item_size
    assert size <= 2 * MOST
    found = defaultdict(list)
    for caller, number in taken(queue):
        found[caller].append(number)
    assert found == admitted
    assert queue.admit("a", 5 * MOST), "all was given back"
