"""Changes of streams in few words: deletion, retention, and what is known of a stream then."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.duration_pb2 import Duration

from treering.v1.stream_service_pb2 import (
    DELETION_STATE_DELETED,
    DELETION_STATE_PERMANENT,
    DELETION_STATE_UNSPECIFIED,
    DeleteStreamRequest,
    GetStreamRequest,
    ListStreamsRequest,
    Retention,
    StreamInfo,
    UpdateStreamRequest,
)

NOT_DELETED = DELETION_STATE_UNSPECIFIED
DELETED = DELETION_STATE_DELETED
PERMANENT = DELETION_STATE_PERMANENT

A_MOMENT = Duration(nanos=1000)
"""An age that every event has by the time that anybody can ask for it."""

HOURS = Duration(seconds=6 * 3600)
"""An age that no event of a test reaches."""


async def delete(stream_service: Any, stream: str, **fields: Any) -> StreamInfo:
    """Deletes a stream; it as it then is."""
    request = DeleteStreamRequest(stream=stream, **fields)
    return (await stream_service.DeleteStream(request)).stream


async def keep(stream_service: Any, stream: str, **parts: Any) -> StreamInfo:
    """Sets how long a stream's events are kept; it as it then is. Without parts: for ever."""
    request = UpdateStreamRequest(stream=stream, retention=Retention(**parts))
    return (await stream_service.UpdateStream(request)).stream


async def info_of(stream_service: Any, stream: str) -> StreamInfo:
    """What is known of a stream."""
    return (await stream_service.GetStream(GetStreamRequest(stream=stream))).stream


async def listed(stream_service: Any, **fields: Any) -> list[StreamInfo]:
    """All streams, page by page."""
    streams: list[StreamInfo] = []
    request = ListStreamsRequest(**fields)
    while True:
        page = await stream_service.ListStreams(request)
        streams += page.streams
        request.page_token = page.next_page_token
        if not request.page_token:
            return streams


async def eventually(holds: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
    """Waits until something holds that comes soon, but nobody says when."""
    deadline = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.05)
