"""Calls of methods that are not there, whatever their name is made of.

grpcio (1.85) decodes the name of such a method in the loop that takes up all calls. A name that is
no UTF-8, of a few bytes sent by anyone, ends that loop, and with it the server. It needs no name
for methods that were registered; so here all of ours are, and the rest is answered beside that
loop, without a look at the name. There is no public way to do so. Once grpcio takes any name,
this file can go: `tests/hostile/test_headers.py` tells.
"""

import asyncio
from typing import Any, cast

from grpc import aio
from grpc._cython import cygrpc
from grpc.aio import _server


class _Acceptor(cygrpc.AioServer):  # type: ignore[misc]
    """What takes up calls, for `grpc.aio.Server`."""

    def _make_request_call_future(self, method: bytes | None) -> "asyncio.Future[Any]":
        """The next call of a registered method; for all others, nothing until the end."""
        if method is None:
            return asyncio.create_task(self._refuse_all())
        future: asyncio.Future[Any] = super()._make_request_call_future(method)
        return future

    async def _refuse_all(self) -> None:
        """Answers UNIMPLEMENTED, again and again.

        Raises:
            cygrpc._RequestCallError: The server stops.
        """
        loop = asyncio.get_running_loop()
        nothing = cygrpc._MethodResolver([], {})
        refusals: set[asyncio.Task[None]] = set()
        while True:
            try:
                call = await self._request_call()
            except cygrpc._RequestCallError:
                if not self.is_running():
                    raise
                continue
            refuse = cygrpc._handle_rpc("", nothing, (), call, loop, False)
            refusal = loop.create_task(cygrpc._schedule_rpc_coro(refuse, call, loop, ""))
            refusals.add(refusal)
            refusal.add_done_callback(refusals.discard)


class _Server(_server.Server):
    def __init__(self, options: "tuple[tuple[str, int], ...]") -> None:
        self._loop = cygrpc.get_working_loop()
        self._server = _Acceptor(self._loop, None, (), (), options, None)


def make_server(options: "tuple[tuple[str, int], ...]") -> aio.Server:
    """A server that answers for methods that are not there. Register those that are."""
    return cast("aio.Server", _Server(options))
