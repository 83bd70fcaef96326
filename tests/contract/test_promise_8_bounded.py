"""Promise 8: slow readers, huge or costly requests and floods cost the caller an error, not
the server its memory or its writer.

Sizes of requests are in `test_limits.py`, slow subscribers in `test_promise_5_delivered.py`.
"""

import asyncio
import gc
from contextlib import suppress
from types import FrameType

import grpc

from calls import (
    ALL,
    MEGABYTE,
    WAIT_SECONDS,
    append,
    append_many,
    append_to,
    head_of,
    make_event,
    next_response,
    read,
    refused,
    rest_of,
    subscribed,
    unpack,
    whole,
)
from checks import check_log
from servers import InProcessServer
from treering.v1.event_pb2 import Event
from treering.v1.event_store_service_pb2 import (
    AppendItem,
    AppendManyRequest,
    ReadRequest,
    SubscribeRequest,
)
from treering.v1.event_store_service_pb2_grpc import EventStoreServiceStub

QUEUE_BYTES = 200_000
PAYLOAD = b"x" * 20_000


async def test_a_flood_is_refused_with_overloaded_and_nothing_of_it_written(database_url):
    """Far more at once than may wait: refused, by the book, with when to come again."""
    requests = [append_to(f"s-{n % 7}") for n in range(300)]
    async with (
        InProcessServer(database_url, queue_bytes=500) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        event_store = EventStoreServiceStub(channel)
        answers = await asyncio.gather(*map(event_store.Append, requests), return_exceptions=True)
        recorded = {event.id for event in (await read(event_store)).events}
        for answer, request in zip(answers, requests, strict=True):
            event_id = request.appends[0].events[0].id
            if isinstance(answer, grpc.RpcError):
                assert unpack(answer).reason == "OVERLOADED"
                assert event_id not in recorded
            else:
                assert event_id in recorded

        assert any(isinstance(answer, grpc.RpcError) for answer in answers)
        assert recorded
        for request in requests:
            await append(event_store, request)
        log = (await read(event_store)).events
        check_log(log)
        assert len(log) == len(requests)


async def test_a_pipeline_under_pressure_records_a_prefix_and_can_go_on(database_url):
    """Whether the server reads more slowly or ends the call with OVERLOADED: a later append
    never overtakes an earlier one, and sending the unanswered ones again, in order, works."""
    requests = [append_to("a", make_event(data=PAYLOAD), expected_version=n) for n in range(200)]
    async with (
        InProcessServer(database_url, queue_bytes=QUEUE_BYTES) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        event_store = EventStoreServiceStub(channel)
        unanswered = list(requests)
        async with asyncio.timeout(60):
            while unanswered:

                async def messages(now):
                    for n, request in enumerate(now):
                        item = AppendItem(request_id=n, append=request)
                        yield AppendManyRequest(items=[item])

                try:
                    async for response in event_store.AppendMany(messages(list(unanswered))):
                        for result in response.results:
                            assert result.HasField("appended")
                        del unanswered[: len(response.results)]
                except grpc.RpcError as error:
                    assert unpack(error).reason == "OVERLOADED"

        recorded = (await read(event_store)).ids
    assert recorded == [request.appends[0].events[0].id for request in requests]


async def test_one_subscription_too_many_is_refused(database_url):
    """The refusal names the limit. When another one ends there is room again."""
    async with (
        InProcessServer(database_url, max_subscriptions=3) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        event_store = EventStoreServiceStub(channel)
        async with (
            subscribed(event_store) as one,
            subscribed(event_store, stream="a") as two,
        ):
            async with subscribed(event_store) as three:
                for subscription in (one, two, three):
                    await subscription.until("caught_up")

                refusal = await refused(
                    event_store.Subscribe(SubscribeRequest(query=ALL)), "OVERLOADED"
                )
                assert "3" in refusal.message
                await append(event_store, append_to("a"))
                for subscription in (one, two, three):
                    await subscription.until_received(1)

            async with asyncio.timeout(WAIT_SECONDS):
                while True:
                    with suppress(grpc.RpcError):
                        async with subscribed(event_store) as again:
                            await again.until("caught_up")
                            break


async def test_readers_that_do_not_read_hold_up_nobody(event_store):
    """More open reads of a large log, none of them read, than the server has readers."""
    for _ in range(12):
        await append(event_store, append_to("large", make_event(data=MEGABYTE)))
    calls = [event_store.Read(ReadRequest(query=ALL)) for _ in range(40)]
    firsts = [await next_response(call) for call in calls]

    async with asyncio.timeout(WAIT_SECONDS):
        for version in range(20):
            await append(event_store, append_to("a", expected_version=version))
            assert (await read(event_store, stream="a")).stream_version == version + 1
        assert (await head_of(event_store)).head_position == 32

    for call, first in zip(calls, firsts, strict=True):
        answer = whole([first, *await rest_of(call)])
        assert answer.positions == list(range(1, 13))


async def test_calls_that_are_cancelled_leave_nothing_behind(event_store):
    """Reads, subscriptions and pipelines that are broken off; then all goes on as before."""
    for n in range(30):
        await append(event_store, append_to("a", make_event(data=PAYLOAD)))
        read_call = event_store.Read(ReadRequest(query=ALL))
        many_call = event_store.AppendMany()
        item = AppendItem(request_id=n, append=append_to("b"))
        await many_call.write(AppendManyRequest(items=[item]))
        for call in (read_call, many_call, event_store.Subscribe(SubscribeRequest(query=ALL))):
            call.cancel()

    check_log((await read(event_store)).events)
    assert (await read(event_store, stream="a")).stream_version == 30


async def test_what_was_refused_is_not_kept(database_url):
    """Garbage is looked for rarely: a request must not wait for that, however it was refused."""
    refusals = {
        "INVALID_REQUEST": [append_to("a", Event()), append_to("a", Event(data=b"x" * 5_000))],
        "VERSION_CONFLICT": [append_to("a", expected_version=9)],
    }
    async with (
        InProcessServer(database_url) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        event_store = EventStoreServiceStub(channel)
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for reason, requests in refusals.items():
                for request in requests:
                    await refused(event_store.Append(request), reason)
                    (result,) = await append_many(event_store, request)
                    assert result.HasField("failure")
            gc.collect()
            frames = [each for each in gc.garbage if isinstance(each, FrameType)]
            held = {each.f_code.co_filename for each in frames}
            assert not {file for file in held if file.endswith(("requests.py", "decide.py"))}
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
