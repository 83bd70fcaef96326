"""Threads that read: so many at a time, callers one after the other, whatever becomes of them."""

import asyncio
import threading
from contextlib import contextmanager

import pytest

from callers import as_caller
from treering_server.core.read_threads import ReadThreads

SECONDS = 20.0


@contextmanager
def reading(number):
    threads = ReadThreads(number)
    try:
        yield threads
    finally:
        assert threads.close(SECONDS)


async def test_what_is_read_comes_back_to_who_asked():
    with reading(3) as threads:
        answers = await asyncio.gather(*(threads.read(pow, n, 2) for n in range(1_000)))
    assert answers == [n**2 for n in range(1_000)]


async def test_an_error_is_the_callers():
    with reading(1) as threads:
        with pytest.raises(ZeroDivisionError):
            await threads.read(divmod, 1, 0)
        assert await threads.read(divmod, 7, 2) == (3, 1)


async def test_no_more_than_so_many_at_a_time():
    inside = threading.Semaphore(3)
    meet = threading.Barrier(3)

    def work():
        assert inside.acquire(blocking=False)
        # As many are in here, or nobody gets on.
        meet.wait(SECONDS)
        inside.release()

    with reading(3) as threads:
        await asyncio.gather(*(threads.read(work) for _ in range(30)))


async def test_callers_have_their_turns_one_after_the_other():
    """One has a hundred waiting, and each of two others one: they are second and third."""
    gate, done = threading.Event(), []
    with reading(1) as threads:
        first = as_caller("greedy", threads.read(gate.wait, SECONDS))
        tasks = [as_caller("greedy", threads.read(done.append, "greedy")) for _ in range(100)]
        await asyncio.sleep(0)
        tasks += [as_caller(name, threads.read(done.append, name)) for name in ("b", "c")]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(first, *tasks)
    assert {"b", "c"} <= set(done[:3])
    assert done.count("greedy") == 100


async def test_what_nobody_waits_for_any_more_is_not_read():
    gate, done = threading.Event(), []
    with reading(1) as threads:
        first = asyncio.create_task(threads.read(gate.wait, SECONDS))
        given_up = asyncio.create_task(threads.read(done.append, "given up"))
        last = asyncio.create_task(threads.read(done.append, "last"))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(first, last)
    assert done == ["last"]


async def test_who_gives_up_while_it_is_read_harms_nobody():
    begun, gate = threading.Event(), threading.Event()

    def work():
        begun.set()
        gate.wait(SECONDS)

    with reading(1) as threads:
        given_up = asyncio.create_task(threads.read(work))
        await asyncio.to_thread(begun.wait, SECONDS)
        given_up.cancel()
        gate.set()
        assert await threads.read(pow, 2, 3) == 8
    assert given_up.cancelled()


async def test_closing_waits_no_longer_than_it_may():
    gate = threading.Event()
    threads = ReadThreads(2)
    waiting = asyncio.create_task(threads.read(gate.wait, SECONDS))
    await asyncio.sleep(0)
    assert not threads.close(0.0)
    gate.set()
    await waiting
    assert threads.close(SECONDS)


@pytest.mark.filterwarnings("error")
def test_a_loop_that_is_gone_is_no_error_in_a_thread():
    begun, gate = threading.Event(), threading.Event()
    threads = ReadThreads(1)

    def work():
        begun.set()
        gate.wait(SECONDS)

    async def give_up():
        reading = asyncio.create_task(threads.read(work))
        await asyncio.to_thread(begun.wait, SECONDS)
        assert not reading.done()

    asyncio.run(give_up())
    gate.set()
    assert threads.close(SECONDS)
