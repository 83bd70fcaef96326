"""Where a broken read or subscription goes on. Pure: from what has arrived to the next request.

Both are fed with every response when it arrives. All events of a response are handed out
before the next one is asked for, so that when a call breaks, what has arrived is what was
handed out.
"""

from collections.abc import Sequence

from treering.checkpoints import Checkpoint
from treering.events import RecordedEvent
from treering.reads import ReadState
from treering.responses import ReadResponse
from treering.v1 import event_store_service_pb2 as pb


class ReadProgress:
    """How far a read has come.

    A read shows one state of the log. After a break it goes on in that same state: pinned at
    its head, and to the log id under which it began, so that a log which has lost its end
    meanwhile is a `LogDiverged` and not a mixture of two histories.
    """

    def __init__(self, request: pb.ReadRequest) -> None:
        self._request = request
        self._state: ReadState | None = None
        self._last_position: int | None = None
        self._count = 0

    @property
    def state(self) -> ReadState | None:
        """The state that is read, as the first response tells it."""
        return self._state

    @property
    def finished(self) -> bool:
        """Whether nothing more can come, so that there is nothing to go on with."""
        if self._state is None:
            return False
        if self._request.HasField("limit") and self._count >= self._request.limit:
            return True
        if self._request.direction == pb.DIRECTION_BACKWARDS:
            return self._last_position == 1
        return self._last_position == self._state.head_position

    def received(self, response: ReadResponse, events: Sequence[RecordedEvent]) -> None:
        """Notes what a response brought: the state, and its events."""
        if self._state is None:
            self._state = ReadState(
                response.head_position, response.stream_version, response.log_id
            )
        if events:
            self._last_position = events[-1].position
            self._count += len(events)

    def next_request(self) -> pb.ReadRequest:
        """The request that goes on: the original one if nothing has arrived yet."""
        if self._state is None:
            return self._request
        request = pb.ReadRequest()
        request.CopyFrom(self._request)
        request.until_position = self._state.head_position
        request.expected_log_id = self._state.log_id
        request.min_position = 0  # It was reached.
        if self._last_position is not None:
            request.after_position = self._last_position
        if request.HasField("limit"):
            request.limit -= self._count
        return request


class SubscriptionProgress:
    """How far a subscription has come."""

    def __init__(self, request: pb.SubscribeRequest) -> None:
        self._request = request
        self._started = False
        self._log_id = request.expected_log_id
        self._position = request.after_position
        self._event_id = request.after_event_id

    @property
    def started(self) -> bool:
        """Whether the server has accepted the subscription, at least once."""
        return self._started

    @property
    def checkpoint(self) -> Checkpoint:
        """Up to here everything was handed out or looked at."""
        return Checkpoint(self._log_id, self._position, self._event_id)

    def accepted(self, started: pb.SubscriptionStarted) -> None:
        """Notes where the server begins: from here on, that is a position."""
        if started.after_position != self._position:
            self.reached(started.after_position, "")
        # After a fork beyond what was seen, the log goes on under another id.
        self._log_id = started.log_id
        self._started = True

    def forked(self, log_id: str) -> None:
        """Notes that the log goes on under another id, after all that was seen."""
        self._log_id = log_id

    def reached(self, position: int, event_id: str) -> None:
        """Notes that everything up to a position was handed out or looked at."""
        self._position = position
        self._event_id = event_id

    def next_request(self) -> pb.SubscribeRequest:
        """The request that goes on: the original one if it was never accepted."""
        if not self._started:
            return self._request
        request = pb.SubscribeRequest()
        request.CopyFrom(self._request)
        request.after_position = self._position  # Takes the place of any other start.
        request.after_event_id = self._event_id
        request.expected_log_id = self._log_id
        return request
