"""Takes requests in: no more of them at a time than there is memory for, and large ones beside
the event loop, which must go on meanwhile."""

import asyncio
from collections.abc import Callable
from typing import TypeAlias, TypeVar

from grpc import aio

from treering_server.core.errors import InvalidRequest, Overloaded, Violation
from treering_server.core.limits import Limits
from treering_server.core.turns import Turns

Context: TypeAlias = "aio.ServicerContext[bytes, bytes]"
T = TypeVar("T")
Decode: TypeAlias = Callable[[bytes, Limits], T]
"""From a message's bytes to a value, with every check."""

RECEIVED_AT_A_TIME = 32
"""Requests whose bytes are on their way, or wait to be decoded. Until one is received, the
transport takes no more of it than its window."""
RECEIVE_SECONDS = 20.0
"""How long a request may be on its way: others wait behind it."""
LARGE_REQUEST_BYTES = 4 * 1024
"""A request from this size on is decoded in a thread: it may hold a thousand events."""
DECODED_AT_A_TIME = 2
"""Large ones. Threads take the interpreter from one another: with more nothing is won."""


class Intake:
    """What has come, but counts nowhere yet."""

    def __init__(self, limits: Limits) -> None:
        """Nothing is on its way. `limits` are what requests are held to."""
        self._limits = limits
        self._receiving = Turns(RECEIVED_AT_A_TIME)
        self._decoding = Turns(DECODED_AT_A_TIME)

    async def receive(self, context: Context, decode: Decode[T]) -> T:
        """The only request of a call.

        Raises:
            InvalidRequest: There is none, or by `decode`.
            Overloaded: It did not arrive.
        """
        async with self._receiving:
            try:
                async with asyncio.timeout(RECEIVE_SECONDS):
                    message = await context.read()
            except TimeoutError:
                waited = f"the request did not arrive within {RECEIVE_SECONDS:.0f} s"
                raise Overloaded(waited) from None
            if not isinstance(message, bytes):
                raise InvalidRequest((Violation("", "the call came without a request"),))
            return await self.decode(message, decode)

    async def decode(self, message: bytes, decode: Decode[T]) -> T:
        """A value of a message's bytes."""
        if len(message) < LARGE_REQUEST_BYTES:
            return decode(message, self._limits)
        async with self._decoding:
            return await asyncio.to_thread(decode, message, self._limits)
