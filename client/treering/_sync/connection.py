# Made by tools/sync_client.py from client/treering/_async/connection.py.
# Change that one, and run `python tools/sync_client.py`.

"""The way to one server: the channel, and how calls over it are repeated."""

import logging
import math
import time
from typing import Protocol, TypeVar
from weakref import WeakSet

import grpc

from treering import errors
from treering._sync import io
from treering.channels import DEAD_AFTER_SECONDS, Options
from treering.retry import Attempts, Backoff

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

log = logging.getLogger("treering")


class Closeable(Protocol):
    """What has to be closed with the client."""

    def end(self) -> None: ...


class Connection:
    """Shared by a client and all that it has handed out."""

    def __init__(
        self,
        address: str,
        *,
        credentials: grpc.ChannelCredentials | None,
        timeout: float | None,
        max_attempts: int | None,
        options: Options,
    ) -> None:
        self.address = address
        self._credentials = credentials
        self._timeout = timeout
        self._max_attempts = max_attempts
        self._options = options
        self._channel: io.Channel | None = None
        self._lock = io.Lock()
        self._closed = io.Flag()
        self._open: WeakSet[Closeable] = WeakSet()

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def channel(self) -> io.Channel:
        """The channel, opened at first use.

        Raises:
            ClientClosed: The client is closed.
        """
        with self._lock:
            if self._closed.is_set():
                raise errors.ClientClosed("the client is closed")
            if self._channel is None:
                self._channel = io.Channel(self.address, self._credentials, self._options)
            else:
                self._channel.check_use()
            return self._channel

    def attempts(self, timeout: float | None) -> Attempts:
        """For one call that begins now; None stands for the client's timeout."""
        seconds = self.seconds(timeout)
        deadline = None if seconds is None else time.monotonic() + seconds
        return Attempts(deadline, self._max_attempts)

    def seconds(self, timeout: float | None) -> float | None:
        """How long a call may take. None: as long as it likes."""
        if timeout is None:
            timeout = self._timeout
        return None if timeout == math.inf else timeout

    def leave(self, channel: io.Channel) -> None:
        """Opens another channel for the next call, since this one seems dead: gRPC would make
        a new call over the same connection. What is still under way there goes on, or fails,
        on its own; with the last of it the channel is gone."""
        with self._lock:
            if self._channel is channel:
                self._channel = None

    def unary(
        self,
        method: "io.UnaryMethod[RequestT, ResponseT]",
        request: RequestT,
        timeout: float | None,
    ) -> ResponseT:
        """Calls until there is an answer that repeating would not change.

        Raises:
            TreeringError: The last attempt's failure.
        """
        attempts = self.attempts(timeout)
        backoff = Backoff()
        channel = self.channel()
        while True:
            begun = time.monotonic()
            remaining = attempts.remaining(begun)
            try:
                return io.call_unary(method, request, remaining)
            except errors.TreeringError as error:
                is_silent = isinstance(error, errors.DeadlineExceeded)
                if is_silent and time.monotonic() - begun >= DEAD_AFTER_SECONDS:
                    self.leave(channel)
                delay = backoff.next(error.retry_after)
                if attempts.gives_up(error, delay, time.monotonic()):
                    raise
                log.debug("%s; trying again in %.2f s", error, delay)
            if self._closed.wait(delay):
                raise errors.ClientClosed("the client was closed", outcome_unknown=True)

    def keep(self, each: Closeable) -> None:
        """Notes what has to be closed with the client."""
        with self._lock:
            if self._closed.is_set():
                raise errors.ClientClosed("the client is closed")
            self._open.add(each)

    def close(self) -> None:
        """Ends all calls. Repeating it does nothing."""
        with self._lock:
            self._closed.set()
            still_open = list(self._open)
            channel, self._channel = self._channel, None
        for each in still_open:
            each.end()
        if channel is not None:
            channel.close()
