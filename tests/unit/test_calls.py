"""How calls end."""

import asyncio

import pytest
from grpc import aio
from structlog.testing import capture_logs

from treering_server.core.limits import Limits
from treering_server.services.calls import Calls
from treering_server.services.intake import Intake


class Gone:
    """The context of a caller who is gone: what is told fails, as gRPC has it fail."""

    def peer(self):
        return "nowhere"

    async def write(self, *_told):
        raise aio.InternalError("execute_batch failed")

    abort = write


async def test_a_caller_who_is_gone_is_no_defect():
    async def method(_requests, context):
        await context.write(b"")

    calls = Calls(asyncio.get_running_loop().create_future(), Intake(Limits()))
    with capture_logs() as logs, pytest.raises(aio.InternalError):
        await calls.both_stream("AppendMany", method).stream_stream(None, Gone())

    [log] = logs
    assert (log["event"], log["code"]) == ("call", "CANCELLED")
