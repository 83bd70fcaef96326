"""A server that is killed at each step of an append: nothing acknowledged is lost, nothing is
half done, and a repeat settles what was unknown."""

import asyncio
import signal

import grpc
import pytest

from calls import append, append_all, append_to, fail_if, make_event, matching, read, to_stream
from checks import check_atomic, check_durable, check_log
from databases import free_port
from servers import ServerProcess
from traffic import SECONDS, Traffic, connect, ids_of, stub
from treering_server.core.failpoints import STEPS, fail_point

WRITTEN = {"after_commit"}
"""Killed there, the append is recorded; before, it is not."""


@pytest.mark.parametrize("step", STEPS)
async def test_a_server_that_is_killed_at_a_step_of_an_append(database_url, server_process, step):
    listen = f"127.0.0.1:{free_port()}"
    doomed = server_process(database_url, listen=listen, fail_point=f"{step}:3")
    async with connect(listen) as channel:
        event_store = stub(channel)
        first, killed = make_event("T", "once"), make_event("T", "twice")
        requests = [
            append_all(to_stream("a", first, expected_version=0), events=[make_event()]),
            append_all(to_stream("a", expected_exists=True), events=[make_event()]),
            append_all(
                to_stream("a", killed, expected_version=1),
                to_stream("b", make_event(), expected_version=0),
                conditions=[fail_if(matching(tags=["twice"]))],
            ),
        ]
        answers = await answered(event_store, requests)
        assert doomed.wait() == -signal.SIGKILL
        await asyncio.to_thread(server_process, database_url, listen=listen)
        await channel.channel_ready()

        log = (await read(event_store)).events
        check_log(log)
        check_atomic(log, map(ids_of, requests))
        acknowledged = {
            event_id: position
            for request, answer in zip(requests, answers, strict=False)
            for position, event_id in enumerate(ids_of(request), start=answer.first_position)
        }
        check_durable(log, acknowledged)
        is_written = killed.id in {event.id for event in log}
        assert is_written == (step in WRITTEN)

        again = await append(event_store, requests[len(answers)])
        assert again.duplicate == is_written
        for request in requests:
            await append(event_store, request)
        log = (await read(event_store)).events
        check_log(log)
        assert [event.id for event in log] == [id for each in requests for id in ids_of(each)]


@pytest.mark.parametrize("step", ["after_insert", "after_commit"])
async def test_servers_that_are_killed_at_a_step_under_load(database_url, server_process, step):
    """In the middle of a batch of many callers."""
    listen = f"127.0.0.1:{free_port()}"
    doomed = server_process(database_url, listen=listen, fail_point=f"{step}:20")
    async with connect(listen) as channel:
        async with Traffic([stub(channel)], seed=STEPS.index(step)) as traffic:
            assert await wait_for_end(doomed) == -signal.SIGKILL
            await asyncio.to_thread(server_process, database_url, listen=listen)
            await traffic.more(20)
        await traffic.check(stub(channel))
        await append(stub(channel), append_to("end"))


async def answered(event_store, requests):
    """Answers up to the first append that the server did not survive."""
    answers = []
    for request in requests:
        try:
            answers.append(await event_store.Append(request, timeout=SECONDS))
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            return answers
    raise AssertionError("the server lived on")


async def wait_for_end(process: ServerProcess) -> int:
    return await asyncio.to_thread(process.wait)


def test_a_fail_point_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no such fail point: 'in_between'"):
        fail_point("in_between")
    with pytest.raises(ValueError, match="invalid literal"):
        fail_point("after_lock:often")


def test_without_the_variable_nothing_happens():
    for step in STEPS:
        fail_point("")(step)
