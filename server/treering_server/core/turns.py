"""Fairness among callers: whoever asks for much waits longer than who asks for little."""

import asyncio
from collections import deque
from contextvars import ContextVar

caller: ContextVar[str] = ContextVar("caller", default="")
"""Whose call this is: one connection is one caller. Set where a call begins."""


class Turns:
    """So many may do something at a time. When more want to, callers have their turns one after
    the other, however much each of them has waiting. Use as `async with turns`, on the loop.
    """

    def __init__(self, at_a_time: int) -> None:
        """All are free."""
        self._free = at_a_time
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}
        self._order: deque[str] = deque()

    async def __aenter__(self) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        who = caller.get()
        line = self._lines.get(who)
        if line is None:
            line = self._lines[who] = deque()
            self._order.append(who)
        line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        while self._order:
            who = self._order.popleft()
            line = self._lines[who]
            turn = line.popleft()
            if line:
                self._order.append(who)
            else:
                del self._lines[who]
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
