"""Server keepalive accepts a ping every 5 s, also without calls."""

import asyncio

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from calls import WAIT_SECONDS, append, append_to, head_of, subscribed
from servers import InProcessServer
from treering.v1.event_store_service_pb2_grpc import EventStoreServiceStub

PINGS = [
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
QUIET_SECONDS = 22.0
"""Long enough for more pings than a server that minds them lets pass."""


@pytest.mark.parametrize("with_call", [True, False], ids=["in a silent call", "without calls"])
async def test_a_ping_every_5_s_is_welcome(sqlite_file_url, with_call):
    async with (
        InProcessServer(sqlite_file_url) as server,
        grpc.aio.insecure_channel(server.address, PINGS) as channel,
    ):
        event_store = EventStoreServiceStub(channel)
        await head_of(event_store)
        assert channel.get_state() == grpc.ChannelConnectivity.READY

        if with_call:
            async with subscribed(
                event_store, heartbeat_interval=Duration(seconds=3600)
            ) as subscription:
                await subscription.until("caught_up")
                await asyncio.sleep(QUIET_SECONDS)
                await append(event_store, append_to("a"))
                await subscription.until_received(1)
        else:
            # Told to go away, the channel would leave READY.
            changed = asyncio.ensure_future(
                channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
            )
            done, _ = await asyncio.wait({changed}, timeout=QUIET_SECONDS)
            assert not done
            changed.cancel()
            async with asyncio.timeout(WAIT_SECONDS):
                await head_of(event_store)
