"""The server against the model: whatever is asked of both, they answer alike.

By default this takes half a minute for each database; `FAULT_LONG=1` makes it a thousand runs,
chosen by `FAULT_SEED`. A failure prints the steps that lead to it, shortened.
"""

import shutil
import tempfile
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from background import BackgroundServer
from calls import MAX_NUMBER, check_failure, reason_of, timestamp, unpack, whole
from changes import A_MOMENT, HOURS
from databases import sqlite_url
from model import Model, Refusal, nanoseconds, placed
from runs import LONG, SEED, count
from treering.v1.event_pb2 import Event, RecordedEvent
from treering.v1.event_store_service_pb2 import (
    DIRECTION_BACKWARDS,
    DIRECTION_FORWARDS,
    DIRECTION_UNSPECIFIED,
    AppendCondition,
    AppendItem,
    AppendManyRequest,
    AppendRequest,
    AppendResponse,
    GetHeadRequest,
    ReadRequest,
    StreamAppend,
    SubscribeRequest,
)
from treering.v1.event_store_service_pb2_grpc import EventStoreServiceStub
from treering.v1.failure_pb2 import Failure
from treering.v1.query_pb2 import Query, QueryItem
from treering.v1.stream_service_pb2 import (
    DELETION_STATE_PERMANENT,
    DELETION_STATE_UNSPECIFIED,
    DeleteStreamRequest,
    GetStreamRequest,
    ListStreamsRequest,
    Retention,
    UpdateStreamRequest,
)
from treering.v1.stream_service_pb2_grpc import StreamServiceStub

LONG_EXAMPLES = 1_000
SECONDS = 20.0
"""The deadline of calls that must not hang."""

# --- what is asked: few names, so that they meet

STREAMS = st.sampled_from(["a", "a-1", "a-2", "a-2-x", "ab-1", "b-1", "-1", "é-1", "A-1"])
PREFIXES = st.sampled_from(["a", "a-", "a-2", "ab", "b", "-", "é", "A", "a-2-"])
CATEGORIES = st.sampled_from(["a", "ab", "b", "é", "A", "c"])
TYPES = st.sampled_from(["T", "U", "t", "Ü"])
TAGS = st.sampled_from(["x", "y", "z", "X"])
SOME = {"min_size": 1, "max_size": 2}

EVENTS = st.builds(
    Event,
    id=st.uuids(version=4).map(str) | st.just(""),
    type=TYPES,
    data=st.binary(max_size=8),
    content_type=st.sampled_from(["", "application/json", "text/plain"]),
    tags=st.lists(TAGS, max_size=3),
    metadata=st.dictionaries(st.sampled_from(["k", "ключ"]), st.text("ab\n", max_size=2)),
    time=st.none() | st.integers(-(10**12), 10**12).map(timestamp),
)
ITEMS = st.builds(
    QueryItem,
    streams=st.lists(STREAMS, max_size=2),
    stream_prefixes=st.lists(PREFIXES, max_size=2),
    types=st.lists(TYPES, max_size=2),
    tags=st.lists(TAGS, max_size=2),
    categories=st.lists(CATEGORIES, max_size=2),
).filter(lambda item: item.ListFields())
ONE_PART = st.one_of(
    st.builds(QueryItem, streams=st.lists(STREAMS, **SOME)),
    st.builds(QueryItem, stream_prefixes=st.lists(PREFIXES, **SOME)),
    st.builds(QueryItem, types=st.lists(TYPES, **SOME)),
    st.builds(QueryItem, tags=st.lists(TAGS, **SOME)),
    st.builds(QueryItem, categories=st.lists(CATEGORIES, **SOME)),
)
QUERIES = st.just(Query(all=True)) | st.builds(
    Query, items=st.lists(ONE_PART | ITEMS, min_size=1, max_size=3)
)
SOURCES = st.builds(lambda stream: {"stream": stream}, STREAMS) | st.builds(
    lambda query: {"query": query}, QUERIES
)


RETENTIONS = st.builds(
    Retention,
    max_age=st.sampled_from([None, None, HOURS, A_MOMENT]),
    max_count=st.sampled_from([None, None, 1, 2, 3, 10, MAX_NUMBER]),
)


@dataclass
class Open:
    """A subscription that stays open while other things happen."""

    call: Any
    stream: str
    """Its source, if that is a stream."""
    start: int
    is_selected: Callable[[RecordedEvent], bool]
    possible: set[int]
    """Positions that may have been sent: of what was seen at any time since it began. What
    was sent is not taken back when it is removed."""
    received: list[RecordedEvent] = field(default_factory=list)
    done: int = 0

    def take(self) -> str:
        """Receives one response and gives its kind."""
        response = next(self.call)
        kind = response.WhichOneof("content")
        if kind == "events":
            self.received += response.events.events
            self.done = self.received[-1].position
        elif kind != "started":
            content = getattr(response, kind)
            assert content.position >= self.done, "a checkpoint never goes back"
            self.done = content.position
        return kind

    def take_all(self) -> None:
        """Receives until the call ends with an error."""
        while True:
            self.take()


class Comparison(RuleBasedStateMachine):
    """Asks the server and the model the same."""

    def __init__(self, database_url: str, clean_up: Callable[[], None]) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._stack.callback(clean_up)
        self._server = self._stack.enter_context(BackgroundServer(database_url))
        self._channel: grpc.Channel | None = None
        self._open: list[Open] = []
        self._restarts = 0
        self.sent: list[AppendRequest] = []
        self.steps = 0
        self._connect()
        self.model = Model(self.event_store.GetHead(GetHeadRequest()).log_id)

    def _connect(self) -> None:
        self._channel = grpc.insecure_channel(self._server.address)
        self.event_store = EventStoreServiceStub(self._channel)
        self.stream_service = StreamServiceStub(self._channel)

    def teardown(self) -> None:
        """Ends what is open and removes the database."""
        for subscription in self._open:
            subscription.call.cancel()
        if self._channel:
            self._channel.close()
        self._stack.close()

    # --- appends

    def _draw_append(self, data: st.DataObject) -> AppendRequest:
        """A new append, of which about half hold."""
        request = AppendRequest(events=data.draw(st.lists(EVENTS, max_size=2)))
        for stream in data.draw(st.lists(STREAMS, max_size=3)):
            part = StreamAppend(stream=stream, events=data.draw(st.lists(EVENTS, max_size=2)))
            if all(other.stream != stream for other in request.appends):
                match data.draw(st.sampled_from(["any", "version", "exists"])):
                    case "version":
                        version = self.model.version(stream) + data.draw(
                            st.sampled_from([0, 0, 0, 1, -1])
                        )
                        part.expected_version = max(version, 0)
                    case "exists":
                        part.expected_exists = data.draw(st.booleans())
            if part.events or part.HasField("expectation"):
                request.appends.append(part)
        for query in data.draw(st.lists(QUERIES, max_size=2)):
            back = data.draw(st.sampled_from([0, 0, 1, 2, 5, 99, -1]))
            after = max(self.model.head - back, 0)
            request.conditions.append(AppendCondition(fail_if_match=query, after_position=after))
        request.expected_log_id = data.draw(
            st.sampled_from(["", "", "", self.model.log_id, str(uuid.UUID(int=7))])
        )
        if not placed(request):
            request.events.append(data.draw(EVENTS))
        return request

    def _draw_known(self, data: st.DataObject) -> AppendRequest:
        """An append with ids that are taken: as it was, in part, or with something changed."""
        request = AppendRequest()
        request.CopyFrom(data.draw(st.sampled_from(self.sent)))
        match data.draw(st.sampled_from(["same", "run", "metadata", "type", "new", "order"])):
            case "run":
                request = self._draw_run(data)
            case "metadata":
                for _, event in placed(request):
                    event.metadata["k"] = "changed"
            case "type":
                event = data.draw(st.sampled_from([event for _, event in placed(request)]))
                event.type = "Changed"
            case "new":
                request.events.append(data.draw(EVENTS))
            case "order":
                parts = list(request.appends)[::-1]
                del request.appends[:]
                request.appends.extend(parts)
                for part in request.appends:
                    part.ClearField("expectation")
                parts = [part for part in request.appends if not part.events]
                for part in parts:
                    request.appends.remove(part)
        return request

    def _draw_run(self, data: st.DataObject) -> AppendRequest:
        """Some events that lie next to one another, as far as their ids are known."""
        at = data.draw(st.integers(0, self.model.head - 1))
        count = data.draw(st.integers(1, 4))
        request = AppendRequest()
        for recorded in self.model.events[at : at + count]:
            if not recorded.id:
                continue
            event = Event(
                id=recorded.id.upper(),
                type=recorded.type,
                data=recorded.data,
                content_type=recorded.content_type,
                tags=reversed(recorded.tags),
            )
            if recorded.stream:
                request.appends.append(StreamAppend(stream=recorded.stream, events=[event]))
            else:
                request.events.append(event)
        if not placed(request):
            request.events.append(data.draw(EVENTS))
        return request

    def _expect(self, request: AppendRequest, answer: AppendResponse | Failure) -> None:
        """Compares the answer to an append with the model's, and records it there."""
        try:
            repeat = self.model.check(request)
        except Refusal as refusal:
            assert isinstance(answer, Failure), f"must be refused: {refusal}"
            check_failure(answer)
            assert reason_of(answer) == refusal.reason
            if refusal.facts:
                assert facts_of(answer) == refusal.facts
            return
        assert isinstance(answer, AppendResponse), f"must be recorded: {answer}"
        assert answer.log_id == self.model.log_id
        versions = [(version.stream, version.version) for version in answer.versions]
        assert answer.duplicate == (repeat is not None)
        if repeat:
            assert (answer.first_position, answer.last_position) == (
                repeat.first_position,
                repeat.last_position,
            )
            assert versions == repeat.versions
            assert answer.recorded_at == self.model.events[repeat.last_position - 1].recorded_at
            return
        count = len(placed(request))
        assert answer.first_position == self.model.head + 1
        assert answer.last_position == self.model.head + count
        before = self.model.events[-1].recorded_at if self.model.events else timestamp(0)
        assert nanoseconds(answer.recorded_at) >= nanoseconds(before)
        assert versions == self.model.record(
            request, answer.recorded_at, self._made_ids(request, answer)
        )
        if all(event.id for _, event in placed(request)):
            self.sent.append(request)
        new = {event.position for event in self.model.seen(after=self.model.head - count)}
        for subscription in self._open:
            subscription.possible |= new

    def _made_ids(self, request: AppendRequest, answer: AppendResponse) -> list[str]:
        """The ids that the server made for events that came without. Of what is removed
        already they can't be read."""
        if all(event.id for _, event in placed(request)):
            return []
        recorded = self._read(
            ReadRequest(
                query=Query(all=True),
                after_position=answer.first_position - 1,
                until_position=answer.last_position,
            )
        ).events
        ids = {event.position: event.id for event in recorded}
        made = [
            ids.get(position, "")
            for position, (_, sent) in enumerate(placed(request), start=answer.first_position)
            if not sent.id
        ]
        assert all(uuid.UUID(event_id).version == 7 for event_id in made if event_id)
        return made

    def _append(self, request: AppendRequest) -> AppendResponse | Failure:
        try:
            return self.event_store.Append(request, timeout=SECONDS)
        except grpc.RpcError as error:
            return unpack(error).failure

    @rule(data=st.data())
    def append(self, data: st.DataObject) -> None:
        """Appends something new."""
        request = self._draw_append(data)
        self._expect(request, self._append(request))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """Appends something with known ids."""
        request = self._draw_known(data)
        self._expect(request, self._append(request))

    @rule(data=st.data(), count=st.integers(1, 6), together=st.booleans())
    def append_many(self, data: st.DataObject, count: int, together: bool) -> None:
        """Several appends on one call, known ones among them, in one message or in several.
        They are drawn against the state before the call, and decided against that after the
        ones before them."""
        requests = []
        for _ in range(count):
            if self.sent and data.draw(st.integers(0, 3)) == 0:
                requests.append(self._draw_known(data))
            elif requests and data.draw(st.integers(0, 3)) == 0:
                requests.append(data.draw(st.sampled_from(requests)))
            else:
                requests.append(self._draw_append(data))
        if any(kept.is_short for kept in self.model.kept.values()):
            # Whether an event of the same call is old enough already, nobody can tell.
            for request in requests:
                del request.conditions[:]
        items = [AppendItem(request_id=n, append=r) for n, r in enumerate(requests)]
        messages = [items] if together else [[item] for item in items]
        call = self.event_store.AppendMany(
            iter([AppendManyRequest(items=message) for message in messages]), timeout=SECONDS
        )
        results = [result for response in call for result in response.results]
        assert [result.request_id for result in results] == list(range(count))
        for request, result in zip(requests, results, strict=True):
            self._expect(request, getattr(result, result.WhichOneof("outcome")))

    # --- reads

    def _read(self, request: ReadRequest) -> Any:
        return whole(list(self.event_store.Read(request, timeout=SECONDS)))

    def _draw_time(self, data: st.DataObject) -> Any:
        """A time at, or a nanosecond beside, that of an event; or before everything."""
        times = [nanoseconds(event.recorded_at) for event in self.model.events] or [0]
        return timestamp(data.draw(st.sampled_from(times)) + data.draw(st.sampled_from([0, -1, 1])))

    def _draw_read(self, data: st.DataObject) -> ReadRequest:
        request = ReadRequest(**data.draw(SOURCES))
        request.direction = data.draw(
            st.sampled_from([DIRECTION_UNSPECIFIED, DIRECTION_FORWARDS, DIRECTION_BACKWARDS])
        )
        positions = st.integers(0, self.model.head + 1)
        match data.draw(st.sampled_from(["none", "position", "version", "time"])):
            case "position":
                request.after_position = data.draw(positions)
            case "version" if request.stream:
                versions = st.integers(0, self.model.last_version(request.stream) + 1)
                request.after_version = data.draw(versions)
            case "time":
                request.after_time.CopyFrom(self._draw_time(data))
        match data.draw(st.sampled_from(["none", "none", "position", "time"])):
            case "position":
                request.until_position = data.draw(positions)
            case "time":
                request.until_time.CopyFrom(self._draw_time(data))
        limit = data.draw(st.none() | st.integers(0, 5))
        if limit is not None:
            request.limit = limit
        request.min_position = data.draw(st.sampled_from([0, self.model.head]))
        request.expected_log_id = data.draw(st.sampled_from(["", self.model.log_id.upper()]))
        return request

    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        """Reads a stream or a query within bounds."""
        request = self._draw_read(data)
        try:
            expected = self.model.read(request)
        except Refusal as refusal:
            with pytest.raises(grpc.RpcError) as error:
                self._read(request)
            assert unpack(error.value).reason == refusal.reason
            return
        answer = self._read(request)
        assert answer.events == expected.events
        assert (answer.head_position, answer.stream_version, answer.log_id) == (
            expected.head_position,
            expected.stream_version,
            self.model.log_id,
        )

    @invariant()
    def head(self) -> None:
        """Both are at the same position, with the same last time."""
        self.steps += 1
        head = self.event_store.GetHead(GetHeadRequest(), timeout=SECONDS)
        assert (head.head_position, head.log_id) == (self.model.head, self.model.log_id)
        if self.model.events:
            assert head.recorded_at == self.model.events[-1].recorded_at

    # --- streams

    @rule(stream=STREAMS)
    def stream(self, stream: str) -> None:
        """Asks for one stream."""
        request = GetStreamRequest(stream=stream)
        try:
            expected = self.model.info(stream)
        except Refusal as refusal:
            self._refused(self.stream_service.GetStream, request, refusal)
            return
        assert self.stream_service.GetStream(request, timeout=SECONDS).stream == expected

    @rule(prefix=PREFIXES | st.just(""), page_size=st.integers(1, 4), show_deleted=st.booleans())
    def streams(self, prefix: str, page_size: int, show_deleted: bool) -> None:
        """Lists streams page by page."""
        listed = []
        request = ListStreamsRequest(prefix=prefix, page_size=page_size, show_deleted=show_deleted)
        while True:
            page = self.stream_service.ListStreams(request, timeout=SECONDS)
            assert len(page.streams) <= page_size
            listed += page.streams
            request.page_token = page.next_page_token
            if not request.page_token:
                break
        everything = [self.model.info(n) for n in self.model.names() if n.startswith(prefix)]
        assert listed == [
            info
            for info in everything
            if show_deleted or info.deletion == DELETION_STATE_UNSPECIFIED
        ]

    @rule(data=st.data(), stream=STREAMS, retention=RETENTIONS)
    def update_stream(self, data: st.DataObject, stream: str, retention: Retention) -> None:
        """Sets how long a stream's events are kept."""
        versions = st.integers(0, self.model.last_version(stream) + 2)
        retention.truncate_before = data.draw(st.just(0) | versions)
        request = UpdateStreamRequest(stream=stream, retention=retention)
        try:
            expected = self.model.update(request)
        except Refusal as refusal:
            self._refused(self.stream_service.UpdateStream, request, refusal)
            return
        assert self.stream_service.UpdateStream(request, timeout=SECONDS).stream == expected

    @rule(data=st.data(), stream=STREAMS)
    def delete_stream(self, data: st.DataObject, stream: str) -> None:
        """Deletes a stream, seldom for good. Then subscriptions to it end."""
        request = DeleteStreamRequest(stream=stream, permanent=data.draw(st.integers(0, 5)) == 0)
        version, last = self.model.version(stream), self.model.last_version(stream)
        match data.draw(st.sampled_from(["any", "any", "version", "exists"])):
            case "version":
                versions = [version, version, last, last + 1, max(version - 1, 0)]
                request.expected_version = data.draw(st.sampled_from(versions))
            case "exists":
                request.expected_exists = True
        try:
            expected = self.model.delete(request)
        except Refusal as refusal:
            self._refused(self.stream_service.DeleteStream, request, refusal)
            return
        assert self.stream_service.DeleteStream(request, timeout=SECONDS).stream == expected
        if expected.deletion == DELETION_STATE_PERMANENT:
            for subscription in [each for each in self._open if each.stream == stream]:
                self._ends(subscription, "STREAM_DELETED")
                self._open.remove(subscription)

    def _refused(self, method: Any, request: Any, refusal: Refusal) -> None:
        with pytest.raises(grpc.RpcError) as error:
            method(request, timeout=SECONDS)
        failure = unpack(error.value).failure
        assert reason_of(failure) == refusal.reason
        if refusal.facts:
            assert facts_of(failure) == refusal.facts

    # --- subscriptions

    @precondition(lambda self: len(self._open) < 4)
    @rule(data=st.data(), source=SOURCES)
    def subscribe(self, data: st.DataObject, source: dict[str, Any]) -> None:
        """Opens a subscription from any checkpoint and reads it up to now."""
        start = data.draw(st.integers(0, self.model.head))
        request = SubscribeRequest(**source, heartbeat_interval=Duration(nanos=200_000_000))
        match data.draw(st.sampled_from(["checkpoint", "version", "head", "time"])):
            case "version" if request.stream:
                version = data.draw(st.integers(0, self.model.last_version(request.stream)))
                request.after_version = version
                own = [e.position for e in self.model.events if e.stream == request.stream]
                start = own[version - 1] if version else 0
            case "head":
                request.from_head = True
                start = self.model.head
            case "time":
                request.after_time.CopyFrom(self._draw_time(data))
                time = nanoseconds(request.after_time)
                start = sum(nanoseconds(e.recorded_at) <= time for e in self.model.events)
            case _:
                request.after_position = start
                request.after_event_id = self.model.events[start - 1].id if start else ""
                request.expected_log_id = self.model.log_id
        call = self.event_store.Subscribe(request, timeout=10 * SECONDS)
        possible = {event.position for event in self.model.seen(after=start)}
        selects = self.model.selects(request)
        subscription = Open(call, request.stream, start, selects, possible)
        if request.stream and self._is_permanently_deleted(request.stream):
            self._ends(subscription, "STREAM_DELETED")
            return
        self._open.append(subscription)
        assert subscription.take() == "started"
        while subscription.take() != "caught_up":
            pass
        assert subscription.done == self.model.head
        self._compare(subscription)

    @precondition(lambda self: self._open)
    @rule(data=st.data())
    def follow(self, data: st.DataObject) -> None:
        """Reads an open subscription up to now."""
        subscription = data.draw(st.sampled_from(self._open))
        while subscription.done < self.model.head:
            subscription.take()
        self._compare(subscription)

    @precondition(lambda self: self._open)
    @rule(data=st.data())
    def unsubscribe(self, data: st.DataObject) -> None:
        """Ends an open subscription."""
        subscription = data.draw(st.sampled_from(self._open))
        self._open.remove(subscription)
        subscription.call.cancel()

    def _is_permanently_deleted(self, stream: str) -> bool:
        return self.model.kept[stream].deletion == DELETION_STATE_PERMANENT

    def _compare(self, subscription: Open, until: int | None = None) -> None:
        """Everything up to a position came that is seen now, and nothing that never was since
        the subscription began."""
        received = [event.position for event in subscription.received]
        assert received == sorted(set(received))
        assert set(received) <= subscription.possible
        for event in subscription.received:
            recorded = self.model.events[event.position - 1]
            assert subscription.is_selected(recorded)
            if recorded.id:
                assert event == recorded
        due = self.model.seen(after=subscription.start, until=until)
        assert set(received) >= {e.position for e in due if subscription.is_selected(e)}

    def _ends(self, subscription: Open, reason: str) -> None:
        """What came was in order up to some event, and then it ends."""
        with pytest.raises(grpc.RpcError) as error:
            subscription.take_all()
        assert unpack(error.value).reason == reason
        self._compare(subscription, until=subscription.done)

    # --- the server goes and comes back

    @precondition(lambda self: self._restarts < 2)
    @rule()
    def restart(self) -> None:
        """Restarts the server. Open subscriptions have come in order up to some event, and
        end with SHUTTING_DOWN."""
        self._restarts += 1
        self._server.stop()
        for subscription in self._open:
            self._ends(subscription, "SHUTTING_DOWN")
        self._open.clear()
        self._channel.close()
        self._server.start()
        self._connect()


def facts_of(failure: Failure) -> tuple:
    """The facts of a refusal, as the model tells them."""
    match failure.WhichOneof("detail"):
        case "version_conflict":
            conflict = failure.version_conflict
            return conflict.stream, conflict.actual_version
        case "condition_failed":
            failed = failure.condition_failed
            return failed.position, failed.condition_index
        case "event_id_conflict":
            return failure.event_id_conflict.id, failure.event_id_conflict.position
    return ()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_the_server_answers_as_the_model_does(database: str, request: pytest.FixtureRequest):
    steps = 0

    def compare() -> Comparison:
        if database == "sqlite":
            directory = Path(tempfile.mkdtemp(prefix="treering-model-"))
            url, clean_up = sqlite_url(directory), lambda: shutil.rmtree(directory)
        else:
            postgres = request.getfixturevalue("postgres")
            url = postgres.create_database()
            clean_up = lambda: postgres.drop_database(url)  # noqa: E731

        def end() -> None:
            nonlocal steps
            steps += comparison.steps
            clean_up()

        comparison = Comparison(url, end)
        return comparison

    chosen = settings(stateful_step_count=40)
    if LONG:
        compare = seed(SEED)(compare)
        chosen = settings(chosen, max_examples=LONG_EXAMPLES)
    run_state_machine_as_test(compare, settings=chosen)
    count({f"{database}: model steps": steps})
