"""How large pages are while others wait to be sent."""

from contextlib import ExitStack

from treering_server.core.outgoing import LEAST_PAGE_BYTES, MOST_BYTES, PAGE_BYTES, Outgoing


def test_pages_are_as_large_as_may_be_while_few_wait():
    outgoing = Outgoing()
    with ExitStack() as waiting:
        for _ in range(40):
            assert outgoing.page_bytes == PAGE_BYTES
            waiting.enter_context(outgoing.waiting(b"x" * PAGE_BYTES))


def test_ten_thousand_readers_who_stand_still_take_little_more_than_the_bound():
    outgoing, size, sizes = Outgoing(), 0, set()
    with ExitStack() as waiting:
        for _ in range(10_000):
            page = bytes(outgoing.page_bytes)
            size += len(page)
            sizes.add(len(page))
            waiting.enter_context(outgoing.waiting(page))
        assert size <= MOST_BYTES + 10_000 * LEAST_PAGE_BYTES
        assert min(sizes) == LEAST_PAGE_BYTES and len(sizes) < 10
    assert outgoing.page_bytes == PAGE_BYTES
