"""Promise 9, as far as one unbroken history goes: a log id names it."""

import uuid

import grpc

from calls import append, append_to, head_of, read, subscribed
from servers import InProcessServer
from treering.v1.event_store_service_pb2_grpc import EventStoreServiceStub


async def test_every_answer_tells_the_same_log_id(event_store):
    ids = {(await head_of(event_store)).log_id}
    ids.add((await append(event_store, append_to("a"))).log_id)
    ids.add((await read(event_store)).log_id)
    async with subscribed(event_store) as subscription:
        _, started = await subscription.next()
    ids.add(started.log_id)

    [log_id] = ids
    assert str(uuid.UUID(log_id)) == log_id


async def test_a_restart_is_no_new_incarnation(database_url):
    heads = []
    for _ in range(3):
        async with (
            InProcessServer(database_url) as server,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            event_store = EventStoreServiceStub(channel)
            await append(event_store, append_to("a"))
            heads.append(await head_of(event_store))

    assert {head.log_id for head in heads} == {heads[0].log_id}
    assert [head.head_position for head in heads] == [1, 2, 3]


async def test_two_logs_have_two_ids(event_store, tmp_path, postgres):
    other_url = f"sqlite:///{tmp_path / 'other.db'}"
    async with (
        InProcessServer(other_url) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        other = await head_of(EventStoreServiceStub(channel))

    assert other.log_id != (await head_of(event_store)).log_id
