# Made by tools/sync_client.py from client/treering/_async/client.py.
# Change that one, and run `python tools/sync_client.py`.

"""The client: what applications call."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from types import TracebackType
from typing import Self

import grpc

from treering._sync.appender import Appender
from treering._sync.connection import Connection
from treering._sync.reading import Reading
from treering._sync.subscription import Subscription
from treering.appends import Appended, Condition, StreamAppend, write_append
from treering.channels import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_SECONDS, Options
from treering.checkpoints import Checkpoint, Head
from treering.events import Event
from treering.queries import Query
from treering.requests import (
    delete_stream_request,
    read_request,
    subscribe_request,
    update_stream_request,
)
from treering.streams import Retention, Stream
from treering.v1 import event_store_service_pb2 as pb
from treering.v1 import stream_service_pb2 as stream_pb


class Client:
    """A client of one Treering server, or of several behind one address.

    ```python
    with Client("127.0.0.1:7464") as client:
        client.append("order-1042", Event("OrderPlaced", {"total": 42}))
        for event in client.read("order-1042"):
            print(event.type, event.json())
    ```

    Make one and keep it: it holds one connection, made at first use and again when it breaks.
    What may pass by itself (no connection, an overloaded server, a restart) is tried again
    until the call's timeout; everything else is raised (`treering.errors` has the whole tree).

    With asyncio, it belongs to the event loop in which it is first used; without, any thread
    may use it. It does not survive a fork.

    Args:
        address: Of the server, as in `127.0.0.1:7464`, `events.internal:7464` or
            `unix:/run/treering.sock`; gRPC's other forms (`dns:///…`) work as well.
        credentials: For TLS, as from `grpc.ssl_channel_credentials()`. None: plain text.
        timeout: Seconds that a call may take, attempts and waits in between included, where
            the call gives no other. None: as long as it likes.
        max_attempts: How often a call is tried at most. None: as long as there is time.
        options: More gRPC channel arguments; they take precedence over the client's own.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        timeout: float | None = DEFAULT_TIMEOUT_SECONDS,
        max_attempts: int | None = None,
        options: Options = (),
    ) -> None:
        self._connection = Connection(
            address,
            credentials=credentials,
            timeout=timeout,
            max_attempts=max_attempts,
            options=options,
        )
        self._appender = Appender(self._connection)

    def append(
        self,
        stream: str | Sequence[StreamAppend] | None,
        events: Event | Iterable[Event] = (),
        *,
        expected_version: int | None = None,
        expected_exists: bool | None = None,
        conditions: Iterable[Condition] = (),
        expected_log_id: str | None = None,
        timeout: float | None = None,
    ) -> Appended:
        """Records events: all of them, next to one another, or none.

        ```python
        client.append("order-1042", Event("OrderPlaced", {"total": 42}), expected_version=0)
        client.append(None, event, conditions=[Condition(query, reading.head_position)])
        parts = [StreamAppend("a", event, expected_version=3), StreamAppend("b", other)]
        client.append(parts)
        ```

        When it returns, the events are durable. Appending the same events again (the same
        ids) writes nothing and answers as the first time, with `duplicate=True`: so after a
        failure whose `outcome_unknown` is true, append them again.

        With asyncio, calls that are under way at the same time travel together, and are
        decided in the order in which they were made.

        Args:
            stream: Name of the stream that the events go to, 1 to 255 bytes. None: they
                belong to no stream. Several `StreamAppend`: one append to several streams;
                `events` are then those of no stream, recorded after the others.
            events: One event or several, in order. At least one in all; at most 10,000 and
                4 MiB.
            expected_version: The version that the stream must have. 0: no such stream, or
                deleted. None: any.
            expected_exists: True: the stream must have events; False: the same as
                `expected_version=0`.
            conditions: All must hold; at most 128.
            expected_log_id: The log id of what was decided on (`reading.log_id`): refused if
                the log has lost its end since. None: not checked.
            timeout: Seconds, repeats included. None: the client's; `math.inf`: no end.

        Raises:
            VersionConflict: A stream's expectation is not met: load again, decide again.
            ConditionFailed: A condition is not met: load again, decide again.
            EventIdConflict: An event's id is taken by another event.
            StreamDeleted: The stream was deleted for good.
            InvalidRequest: Something is malformed, or (`LimitExceeded`) over a limit.
            LogDiverged, LogMismatch: `expected_log_id` is not the log's id.
            PositionAheadOfLog: A condition's position is after the end of the log.
            ConditionTooCostly: A condition looks at too much.
            DeadlineExceeded: No answer in time: it may have been recorded.
            Unavailable, ResourceExhausted: The server can't be reached or can't take it now,
                and the time for repeats is over.
            ReadOnly: The database takes no writes.
            ClientClosed: The client was closed.
            ValueError: Arguments contradict one another, or a number is out of range.
            TypeError: An argument is of the wrong type.
        """
        request = pb.AppendRequest()
        write_append(
            request,
            stream,
            events,
            expected_version=expected_version,
            expected_exists=expected_exists,
            conditions=conditions,
            expected_log_id=expected_log_id,
        )
        response = self._appender.append(request, timeout)
        return Appended.from_proto(response, request)

    def read(
        self,
        stream: str | None = None,
        *,
        query: Query | None = None,
        backwards: bool = False,
        after_position: int | None = None,
        after_version: int | None = None,
        after_time: datetime | None = None,
        until_position: int | None = None,
        until_time: datetime | None = None,
        limit: int | None = None,
        min_position: int = 0,
        expected_log_id: str | None = None,
        timeout: float | None = None,
    ) -> Reading:
        """Reads one state of the log: events that were recorded before the read began.

        ```python
        for event in client.read("order-1042"): ...
        events = client.read(query=Query(tags="customer:7")).to_list()
        last = client.read("order-1042", backwards=True, limit=1).to_list()
        ```

        Answers at once; the server is asked at the first step. If the connection breaks half
        way, the read goes on by itself, in the same state of the log.

        Args:
            stream: Only this stream. A stream that does not exist has no events and version 0.
            query: Only what matches. Neither stream nor query: the whole log.
            backwards: Newest first.
            after_position: Begin after this position (backwards: before it).
            after_version: Begin after this version of the stream (backwards: before it).
            after_time: Only what was recorded after this time (backwards: before it).
            until_position: Up to and with this position: the log as it stood then.
            until_time: Up to and with what was recorded at this time.
            limit: At most this many events. 0: none, only the state.
            min_position: Do not answer from an older state than this (`Appended
                .last_position`, for a server that reads from a replica): waits, up to 5 s.
            expected_log_id: The log id under which the position was learnt. None: not checked.
            timeout: Seconds to wait for each response, repeats included; the time that you
                take between two steps does not count, and a long read has no end. None: the
                client's; `math.inf`: no bound.

        Raises:
            ValueError: Arguments exclude one another, or a number is out of range.

        Iterating over it raises:
            InvalidRequest: Something is malformed, or (`LimitExceeded`) over a limit.
            PositionAheadOfLog: A position or version is after the end.
            LogDiverged: The log lost its end, and the position is of the part lost.
            LogMismatch: The log never had `expected_log_id`.
            MinPositionNotReached: The state asked for was not reached in time.
            DeadlineExceeded: No response in time.
            Unavailable, ResourceExhausted: The server can't be reached or can't answer now,
                and the time for repeats is over.
            ClientClosed: The client was closed.
        """
        request = read_request(
            stream=stream,
            query=query,
            backwards=backwards,
            after_position=after_position,
            after_version=after_version,
            after_time=after_time,
            until_position=until_position,
            until_time=until_time,
            limit=limit,
            min_position=min_position,
            expected_log_id=expected_log_id,
        )
        return Reading(self._connection, request, timeout)

    def subscribe(
        self,
        stream: str | None = None,
        *,
        query: Query | None = None,
        after: Checkpoint | None = None,
        after_position: int | None = None,
        after_version: int | None = None,
        after_time: datetime | None = None,
        from_head: bool = False,
        heartbeat: float | None = None,
        max_silence: float | None = None,
        expected_log_id: str | None = None,
        timeout: float | None = None,
    ) -> Subscription:
        """Follows the log: events that were recorded, then those that are, without end.

        ```python
        with client.subscribe(query=query, after=checkpoint) as subscription:
            for event in subscription.events():
                ...
        ```

        Answers at once; the server is asked at the first step. Nothing given to start after:
        from the beginning of the log.

        Args:
            stream: Only this stream. It need not exist yet.
            query: Only what matches. Neither stream nor query: the whole log.
            after: A checkpoint: the surest start, since it also notices a log that was
                restored to an earlier state.
            after_position: Begin after this position.
            after_version: Begin after this version of the stream.
            after_time: Begin with what was recorded after this time.
            from_head: Only what is recorded from now on.
            heartbeat: Seconds of silence after which the server sends a heartbeat, 0.1 to
                3,600. None: 10.
            max_silence: Seconds without a response after which the connection counts as dead
                and a new one is made. None: three heartbeats; `math.inf`: never.
            expected_log_id: The log id under which the position was learnt. None: that of the
                checkpoint; without one, not checked.
            timeout: Seconds for getting the subscription started the first time. Once it
                has started it is kept up for ever. None: the client's; `math.inf`: no bound.

        Raises:
            ValueError: Arguments exclude one another, or a number is out of range.

        Iterating over it raises:
            InvalidRequest: Something is malformed, or (`LimitExceeded`) over a limit.
            PositionAheadOfLog: The start is after the end: a checkpoint of another log, or of
                a later state of this one.
            LogDiverged: The log lost its end, and the checkpoint is of the part lost.
            LogMismatch: The log is not the checkpoint's.
            StreamDeleted: The stream was deleted for good.
            Unavailable, ResourceExhausted: It could not be started in time.
            ServerDefect: The server failed several times at the same point.
            ClientClosed: The client was closed before the first step.
        """
        request = subscribe_request(
            stream=stream,
            query=query,
            after=after,
            after_position=after_position,
            after_version=after_version,
            after_time=after_time,
            from_head=from_head,
            heartbeat=heartbeat,
            expected_log_id=expected_log_id,
        )
        return Subscription(self._connection, request, max_silence=max_silence, timeout=timeout)

    def head(self, timeout: float | None = None) -> Head:
        """Where the log ends now: all that was acknowledged before the call is in it.

        Args:
            timeout: Seconds, repeats included. None: the client's; `math.inf`: no end.

        Raises:
            Unavailable, DeadlineExceeded, ResourceExhausted: No answer in time.
            ClientClosed: The client was closed.
        """
        method = self._connection.channel().event_store.GetHead
        return Head.from_proto(self._connection.unary(method, pb.GetHeadRequest(), timeout))

    def stream(self, name: str, timeout: float | None = None) -> Stream:
        """What is known about a stream.

        Args:
            name: Of the stream.
            timeout: Seconds, repeats included. None: the client's; `math.inf`: no end.

        Raises:
            NotFound: It was never written to. (One that was deleted is found, and so is a name
                that was deleted for good.)
            InvalidRequest: That can't be a stream's name.
            Unavailable, DeadlineExceeded, ResourceExhausted: No answer in time.
            ClientClosed: The client was closed.
        """
        request = stream_pb.GetStreamRequest(stream=name)
        method = self._connection.channel().streams.GetStream
        response = self._connection.unary(method, request, timeout)
        return Stream.from_proto(response.stream)

    def streams(
        self,
        prefix: str = "",
        *,
        page_size: int = 100,
        show_deleted: bool = False,
        timeout: float | None = None,
    ) -> Iterator[Stream]:
        """Streams in order of name, byte by byte. Asks for page after page by itself; what
        changes meanwhile may be in it or not.

        Args:
            prefix: Only names that begin with this. Empty: all.
            page_size: How many to fetch at a time, up to 1,000.
            show_deleted: Deleted ones, too.
            timeout: Seconds for each page, repeats included. None: the client's; `math.inf`:
                no end.

        Raises (while iterating):
            InvalidRequest: That can't be the beginning of a stream's name.
            Unavailable, DeadlineExceeded, ResourceExhausted: No answer in time.
            ClientClosed: The client was closed.
        """
        request = stream_pb.ListStreamsRequest(
            prefix=prefix, page_size=page_size, show_deleted=show_deleted
        )
        while True:
            method = self._connection.channel().streams.ListStreams
            page = self._connection.unary(method, request, timeout)
            for each in page.streams:
                yield Stream.from_proto(each)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def update_stream(
        self, name: str, retention: Retention | None, *, timeout: float | None = None
    ) -> Stream:
        """Sets how long a stream's events are kept, in place of all that was set before.

        ```python
        client.update_stream("sensor-7", Retention(max_age=timedelta(days=30)))
        stream = client.stream("sensor-7")
        more = replace(stream.retention or Retention(), max_count=1000)  # from dataclasses
        client.update_stream("sensor-7", more)
        client.update_stream("sensor-7", None)
        ```

        What the new retention excludes can't be read from now on, by anybody, and its content
        is erased soon after; what the old one excluded is gone for good. So a wider retention
        keeps more of what is to come, but brings nothing back. The stream's version stays.

        Repeating it is safe, and is what to do when the outcome is unknown.

        Args:
            name: Of the stream.
            retention: All of it: a part that is not given ends, but for `truncate_before`,
                which never goes down. None: the same as `Retention()`, for ever.
            timeout: Seconds, repeats included. None: the client's; `math.inf`: no end.

        Returns:
            The stream as it is then.

        Raises:
            NotFound: It was never written to, or is deleted.
            StreamDeleted: It was deleted for good.
            InvalidRequest: `truncate_before` is above the stream's version + 1, or that can't
                be a stream's name.
            DeadlineExceeded: No answer in time: it may have been done.
            Unavailable, ResourceExhausted: The server can't be reached or can't take it now,
                and the time for repeats is over.
            ReadOnly: The database takes no writes.
            ClientClosed: The client was closed.
            ValueError: An age that is not above 0, a count of 0, or a number out of range.
            TypeError: The retention is of the wrong type.
        """
        request = update_stream_request(name, retention)
        method = self._connection.channel().streams.UpdateStream
        response = self._connection.unary(method, request, timeout)
        return Stream.from_proto(response.stream)

    def delete_stream(
        self,
        name: str,
        *,
        expected_version: int | None = None,
        expected_exists: bool = False,
        permanent: bool = False,
        timeout: float | None = None,
    ) -> Stream:
        """Deletes a stream: nobody can read its events from now on, in the stream, by a query
        or in the whole log, and their content is erased soon after. It can't be undone.

        ```python
        client.delete_stream("cart-7", expected_version=reading.stream_version)
        client.delete_stream("customer-7", permanent=True)
        ```

        The name can be used again, unless `permanent` is given: the stream then begins with
        no events, but its versions go on (`Stream.next_version`). A stream that was never
        written to, or is deleted already, stays as it is; that is no error.

        Repeating it is safe, and is what to do when the outcome is unknown: an expectation is
        met by a stream that is deleted, too, if it had that version last. With no expectation,
        a repeat also deletes what was appended since the first attempt.

        Args:
            name: Of the stream.
            expected_version: Only if the stream has this version, so that nothing is deleted
                that was not seen. None: any.
            expected_exists: True: only if it has events. False: also if it has none.
            permanent: The name can never be used again, also if it never was.
            timeout: Seconds, repeats included. None: the client's; `math.inf`: no end.

        Returns:
            The stream as it is then.

        Raises:
            VersionConflict: The expectation is not met; nothing was deleted.
            InvalidRequest: That can't be a stream's name.
            DeadlineExceeded: No answer in time: it may have been done.
            Unavailable, ResourceExhausted: The server can't be reached or can't take it now,
                and the time for repeats is over.
            ReadOnly: The database takes no writes.
            ClientClosed: The client was closed.
            ValueError: Both expectations are given, or a number is out of range.
        """
        request = delete_stream_request(
            name,
            expected_version=expected_version,
            expected_exists=expected_exists,
            permanent=permanent,
        )
        method = self._connection.channel().streams.DeleteStream
        response = self._connection.unary(method, request, timeout)
        return Stream.from_proto(response.stream)

    def close(self, grace: float = 5.0) -> None:
        """Closes the connection. Subscriptions end; reads that are not at their end raise
        `ClientClosed`. Repeating it does nothing.

        Args:
            grace: Seconds that appends under way are waited for. Those still unanswered then
                raise `ClientClosed`; they may have been recorded.
        """
        self._appender.close(grace)
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
