# Made by tools/sync_client.py from client/treering/_async/reading.py.
# Change that one, and run `python tools/sync_client.py`.

"""A read: one state of the log, in as many responses as it takes, over as many calls as it
takes."""

import logging
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from treering import errors
from treering._sync import io
from treering._sync.connection import Connection
from treering.events import RecordedEvent, recorded_events
from treering.reads import ReadState
from treering.responses import ReadResponse
from treering.resume import ReadProgress
from treering.retry import Backoff
from treering.v1 import event_store_service_pb2 as pb

log = logging.getLogger("treering")


class Reading:
    """The events of a read, in the order asked for: an iterator, to be used once.

    ```python
    reading = client.read("order-1042")
    for event in reading:
        ...
    reading.stream_version  # what to expect when appending
    ```

    All events are of one state of the log, also if the connection breaks in between: the read
    then goes on by itself after the last event handed out. Nothing is asked of the server
    before the first step. Leaving the loop early ends the call; so do `close()` and
    `with`.
    """

    def __init__(
        self, connection: Connection, request: pb.ReadRequest, timeout: float | None
    ) -> None:
        self._connection = connection
        self._timeout = timeout
        self._progress = ReadProgress(request)
        self._responses: io.Responses[ReadResponse] | None = None
        # Of the last response; those before the index were handed out.
        self._events: list[RecordedEvent] = []
        self._index = 0
        self._ahead: list[RecordedEvent] | None = None
        self._error: errors.TreeringError | None = None
        self._complete = False
        self._closed = io.Flag()
        self._ended = False  # The same, for a quick look with every event.
        connection.keep(self)

    @property
    def head_position(self) -> int:
        """Position of the last event of the log in the state read: what an append condition
        goes by. Known after the first step, or `state()`.

        Raises:
            RuntimeError: Not known yet.
        """
        return self._known_state().head_position

    @property
    def stream_version(self) -> int:
        """For a stream: its version in the state read; 0: no such stream, or deleted. Known
        after the first step, or `state()`.

        Raises:
            RuntimeError: Not known yet.
        """
        return self._known_state().stream_version

    @property
    def log_id(self) -> str:
        """Id of the log. Known after the first step, or `state()`.

        Raises:
            RuntimeError: Not known yet.
        """
        return self._known_state().log_id

    def state(self) -> ReadState:
        """Which state is read; asks the server if nothing has come yet.

        Raises:
            TreeringError: As from iterating.
        """
        if self._progress.state is None and self._ahead is None:
            self._ahead = self._next_batch()
        return self._known_state()

    def to_list(self) -> list[RecordedEvent]:
        """All events that have not been handed out yet.

        Raises:
            TreeringError: As from iterating.
        """
        events: list[RecordedEvent] = []
        for batch in self.batches():
            events.extend(batch)
        return events

    def batches(self) -> Iterator[list[RecordedEvent]]:
        """The events as they came, one list for each response of the server (about 1 MiB):
        the fastest way through a long log. No list is empty."""
        begun = self._events[self._index :]
        self._events, self._index = [], 0
        if begun and not self._ended:
            yield begun
        while (batch := self._take_batch()) is not None:
            yield batch

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> RecordedEvent:
        while True:
            # Nothing is called between taking an event and returning it, so that Ctrl-C can't
            # strike in between and lose it.
            events, index = self._events, self._index
            if index < len(events) and not self._ended:
                self._index = index + 1
                return events[index]
            batch = self._take_batch()
            if batch is None:
                raise StopIteration
            self._events, self._index = batch, 0

    def close(self) -> None:
        """Ends the read; iterating ends, too. Repeating it does nothing."""
        self.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    def __del__(self) -> None:
        # An iterator that a loop was left with; a generator would be closed as well.
        responses = getattr(self, "_responses", None)
        if responses is not None:
            responses.close()

    def end(self) -> None:
        """What `close` does, for the client, which closes without waiting."""
        self._ended = True
        self._closed.set()
        if self._responses is not None:
            self._responses.close()

    def _drop_call(self) -> None:
        if self._responses is not None:
            self._responses.close()
            self._responses = None

    def _known_state(self) -> ReadState:
        state = self._progress.state
        if state is None:
            raise RuntimeError("nothing has been read yet: take a step, or call state()")
        return state

    def _take_batch(self) -> list[RecordedEvent] | None:
        """The next response's events; None: that was all."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and not self._ended:
            return ahead
        try:
            return self._next_batch()
        except KeyboardInterrupt:
            # A response may have been lost, and with it a part of the whole.
            self._error = errors.TreeringError("the read was interrupted")
            self._drop_call()
            raise

    def _next_batch(self) -> list[RecordedEvent] | None:
        """The next response's events, over a new call if the one at hand breaks."""
        attempts = self._connection.attempts(self._timeout)
        backoff = Backoff()
        while True:
            if self._error is not None:
                # Ending quietly now would pass off a part for the whole.
                raise self._error
            if self._complete or self._closed.is_set():
                self._responses = None
                if self._connection.closed and not self._complete:
                    raise errors.ClientClosed("the client was closed during the read")
                return None
            try:
                response = self._next_response(attempts.remaining(time.monotonic()))
            except errors.TreeringError as error:
                self._responses = None
                if self._closed.is_set():
                    continue
                if self._progress.finished:
                    self._complete = True
                    continue
                delay = backoff.next(error.retry_after)
                if attempts.gives_up(error, delay, time.monotonic()):
                    self._error = error
                    raise
                log.info("a read broke off and goes on in %.2f s: %s", delay, error)
                self._closed.wait(delay)
                continue
            if response is None:
                self._complete = True
            else:
                events = recorded_events(response.events)
                self._progress.received(response, events)
                if events:
                    return events

    def _next_response(self, patience: float | None) -> ReadResponse | None:
        if self._responses is None:
            channel = self._connection.channel()
            self._responses = io.Responses(channel.read, self._progress.next_request())
        return self._responses.next(patience)
