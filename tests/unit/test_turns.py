"""Turns: so many at a time, and callers one after the other."""

import asyncio

import pytest

from callers import as_caller
from treering_server.core.turns import Turns


@pytest.fixture
async def turns():
    return Turns(1)


async def settle():
    """Lets everybody go as far as they can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_no_more_than_so_many_at_a_time():
    turns, inside, most = Turns(3), 0, 0

    async def work():
        nonlocal inside, most
        async with turns:
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(work() for _ in range(20)))
    assert most == 3


async def test_callers_have_their_turns_one_after_the_other(turns):
    """One has a hundred waiting, and each of two others one: they are second and third."""
    done = []

    async def work(what):
        async with turns:
            done.append(what)

    async with turns:
        tasks = [as_caller("greedy", work("greedy")) for _ in range(100)]
        await settle()
        tasks += [as_caller(name, work(name)) for name in ("b", "c")]
        await settle()
    await asyncio.gather(*tasks)
    assert done[:4] == ["greedy", "b", "c", "greedy"]


async def test_who_gives_up_while_waiting_loses_no_turn_for_others(turns):
    async with turns:
        waiting = [as_caller(name, turns.__aenter__()) for name in ("a", "b", "c")]
        await settle()
        waiting[0].cancel()
        await settle()
    await waiting[1]
    # Just when it was given the turn.
    await turns.__aexit__(None, None, None)
    waiting[2].cancel()
    await settle()
    async with asyncio.timeout(5), turns:
        pass


async def test_a_turn_ends_with_an_error_too(turns):
    with pytest.raises(ValueError, match="x"):
        async with turns:
            raise ValueError("x")
    async with asyncio.timeout(5), turns:
        pass
