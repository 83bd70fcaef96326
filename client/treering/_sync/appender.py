"""Appends, one call each: threads that append at the same time need nothing from one another."""

import threading

from treering import errors
from treering._sync.connection import Connection
from treering.v1 import event_store_service_pb2 as pb


class Appender:
    """Takes a client's appends to the server. Any thread may call it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._under_way = 0
        self._closing = False
        self._condition = threading.Condition()

    def append(self, request: pb.AppendRequest, timeout: float | None) -> pb.AppendResponse:
        """Sends an append and waits for its result.

        Raises:
            TreeringError: It was refused, or its time was up.
        """
        with self._condition:
            if self._closing:
                raise errors.ClientClosed("the client is closed")
            self._under_way += 1
        try:
            method = self._connection.channel().event_store.Append
            return self._connection.unary(method, request, timeout)
        finally:
            with self._condition:
                self._under_way -= 1
                self._condition.notify_all()

    def close(self, grace: float) -> None:
        """Takes no more appends, and waits so many seconds for those under way."""
        with self._condition:
            self._closing = True
            self._condition.wait_for(lambda: not self._under_way, timeout=grace)
