"""Removal, one rule: from the moment that a deletion or retention is committed, nothing meets
a removed event; its position, stream, version and id stay taken."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from calls import (
    ALL,
    BACKWARDS,
    FORWARDS,
    MAX_NUMBER,
    MEGABYTE,
    Subscription,
    append,
    append_all,
    append_many,
    append_to,
    fail_if,
    head_of,
    make_event,
    matching,
    nanoseconds,
    new_id,
    next_response,
    outcome,
    read,
    reason_of,
    refused,
    rest_of,
    subscribed,
    timestamp,
    to_stream,
    unpack,
    whole,
)
from changes import A_MOMENT, HOURS, PERMANENT, delete, eventually, info_of, keep
from servers import InProcessServer
from treering.v1.event_pb2 import Event, RecordedEvent
from treering.v1.event_store_service_pb2 import (
    AppendItem,
    AppendManyRequest,
    AppendRequest,
    AppendResponse,
    CaughtUp,
    Heartbeat,
    ReadRequest,
    SubscribeRequest,
)
from treering.v1.event_store_service_pb2_grpc import EventStoreServiceStub
from treering.v1.query_pb2 import QueryItem
from treering.v1.stream_service_pb2_grpc import StreamServiceStub

SOON = Duration(nanos=100_000_000)


# --- a log with removed events, and what is to be seen of it

BEFORE = [
    ("a-1", "T", "x"),  # 1
    ("b-1", "T", "x"),  # 2
    ("a-1", "T", "x", "y"),  # 3
    ("", "T", "x"),  # 4
    ("a-1", "U", "x"),  # 5
    ("b-1", "U", "y"),  # 6
]
AFTER = [
    ("a-1", "U", "x", "y"),  # 7, in "c-1" where "a-1" is to stay without events
    ("b-1", "T", "x"),  # 8
]


@dataclass(frozen=True)
class Way:
    """One way to remove events of "a-1" from the log."""

    change: Callable[[Any], Awaitable[Any]]
    """Made between BEFORE and AFTER."""
    gone: frozenset[int] = frozenset({1, 3, 5})
    """Positions of what is removed in the end."""
    goes_on: bool = True
    """Whether "a-1" gets an event in AFTER."""
    change_after: Callable[[Any], Awaitable[Any]] | None = None
    """Made after AFTER."""
    deleted_version: int = 0
    """Versions of "a-1" up to here were removed by a deletion."""


async def _short_then_long(streams: Any) -> None:
    await keep(streams, "a-1", max_age=A_MOMENT)
    await keep(streams, "a-1", max_age=HOURS)


async def _count_after_truncation(streams: Any) -> None:
    await keep(streams, "a-1", truncate_before=2)
    await keep(streams, "a-1", max_count=2)


WAYS = {
    "deletion": Way(lambda s: delete(s, "a-1"), goes_on=False, deleted_version=3),
    "permanent deletion": Way(
        lambda s: delete(s, "a-1", permanent=True), goes_on=False, deleted_version=3
    ),
    "deletion and a new life": Way(lambda s: delete(s, "a-1"), deleted_version=3),
    "deletion of the new life": Way(
        lambda s: delete(s, "a-1"),
        gone=frozenset({1, 3, 5, 7}),
        change_after=lambda s: delete(s, "a-1"),
        deleted_version=4,
    ),
    "truncation": Way(lambda s: keep(s, "a-1", truncate_before=4)),
    "truncation of all": Way(lambda s: keep(s, "a-1", truncate_before=4), goes_on=False),
    "truncation of some": Way(lambda s: keep(s, "a-1", truncate_before=3), gone=frozenset({1, 3})),
    "max_count": Way(lambda s: keep(s, "a-1", max_count=1)),
    "max_count of some": Way(lambda s: keep(s, "a-1", max_count=2), gone=frozenset({1, 3})),
    "max_count given later": Way(
        lambda s: asyncio.sleep(0), change_after=lambda s: keep(s, "a-1", max_count=1)
    ),
    "a max_count that ended": Way(
        lambda s: keep(s, "a-1", max_count=1), change_after=lambda s: keep(s, "a-1")
    ),
    "max_count after truncation": Way(_count_after_truncation, gone=frozenset({1, 3})),
    "max_age": Way(lambda s: keep(s, "a-1", max_age=A_MOMENT), gone=frozenset({1, 3, 5, 7})),
    "a max_age that ended": Way(_short_then_long),
    "a max_age not reached": Way(lambda s: keep(s, "a-1", max_age=HOURS), gone=frozenset()),
}


@dataclass(frozen=True)
class Log:
    """What was recorded, and what of it is removed."""

    way: Way
    recorded: list[RecordedEvent]
    """All events, as they were read before any of them was removed."""

    @property
    def kept(self) -> list[RecordedEvent]:
        """What is to be seen."""
        return [event for event in self.recorded if event.position not in self.way.gone]

    @property
    def last_version(self) -> int:
        """The last version given in "a-1"."""
        return sum(event.stream == "a-1" for event in self.recorded)

    def version(self, stream: str, until: int) -> int:
        """Version of a stream in the log as it stood at a position."""
        version = sum(event.stream == stream for event in self.recorded[:until])
        return 0 if stream == "a-1" and version <= self.way.deleted_version else version

    def seen(self, matches: Callable[[RecordedEvent], bool], **fields: Any) -> list[int]:
        """Positions that a read is to give."""
        sign = -1 if fields.get("direction") == BACKWARDS else 1
        events = [e for e in self.kept if matches(e) and e.position <= self.head(**fields)]
        if "after_position" in fields:
            events = [e for e in events if sign * e.position > sign * fields["after_position"]]
        if "after_version" in fields:
            events = [e for e in events if sign * e.version > sign * fields["after_version"]]
        if "after_time" in fields:
            time = nanoseconds(fields["after_time"])
            events = [e for e in events if sign * nanoseconds(e.recorded_at) > sign * time]
        return [event.position for event in events[::sign]][: fields.get("limit")]

    def head(self, **fields: Any) -> int:
        """Position of the last event of the state that a read tells of, removed or not."""
        if "until_time" in fields:
            time = nanoseconds(fields["until_time"])
            return sum(nanoseconds(event.recorded_at) <= time for event in self.recorded)
        return fields.get("until_position", len(self.recorded))


async def make_log(event_store: Any, stream_service: Any, way: Way) -> Log:
    """Records the log and removes what is to be removed of it."""
    recorded: list[RecordedEvent] = []

    async def record(stream: str, type: str, *tags: str) -> None:
        event = make_event(type, *tags, data=b"content", metadata={"k": "v"})
        request = append_to(stream, event) if stream else AppendRequest(events=[event])
        response = await append(event_store, request)
        recorded.append(
            RecordedEvent(
                id=event.id,
                type=type,
                data=event.data,
                content_type="application/json",
                tags=tags,
                metadata=event.metadata,
                position=response.first_position,
                stream=stream,
                version=response.versions[0].version if stream else 0,
                recorded_at=response.recorded_at,
            )
        )

    for row in BEFORE:
        await record(*row)
    await way.change(stream_service)
    for stream, *rest in AFTER:
        await record("c-1" if stream == "a-1" and not way.goes_on else stream, *rest)
    if way.change_after is not None:
        await way.change_after(stream_service)
    return Log(way, recorded)


@pytest.fixture(params=WAYS)
async def log(event_store, stream_service, request) -> Log:
    """The log, with events removed in each way."""
    return await make_log(event_store, stream_service, WAYS[request.param])


def is_in(*streams: str) -> Callable[[RecordedEvent], bool]:
    """Whether an event is of these streams."""
    return lambda event: event.stream in streams


SOURCES: dict[str, tuple[dict[str, Any], Callable[[RecordedEvent], bool]]] = {
    "the whole log": ({"query": ALL}, lambda e: True),
    "the stream": ({"stream": "a-1"}, is_in("a-1")),
    "another stream": ({"stream": "b-1"}, is_in("b-1")),
    "a query for the stream": ({"query": matching(streams=["a-1"])}, is_in("a-1")),
    "streams": ({"query": matching(streams=["a-1", "c-1", "b-1"])}, is_in("a-1", "b-1", "c-1")),
    "a prefix inside the category": (
        {"query": matching(stream_prefixes=["a"])},
        lambda e: e.stream.startswith("a"),
    ),
    "a prefix up to the -": (
        {"query": matching(stream_prefixes=["a-", "c-"])},
        lambda e: e.stream.startswith(("a-", "c-")),
    ),
    "a prefix that is the name": ({"query": matching(stream_prefixes=["a-1"])}, is_in("a-1")),
    "a type": ({"query": matching(types=["T"])}, lambda e: e.type == "T"),
    "a tag": ({"query": matching(tags=["x"])}, lambda e: "x" in e.tags),
    "two tags": ({"query": matching(tags=["x", "y"])}, lambda e: {"x", "y"} <= set(e.tags)),
    "a category": ({"query": matching(categories=["a"])}, is_in("a-1")),
    "a category and a type": (
        {"query": matching(categories=["a"], types=["U"])},
        lambda e: e.stream == "a-1" and e.type == "U",
    ),
    "all parts": (
        {
            "query": matching(
                streams=["a-1"], stream_prefixes=["a"], types=["T"], tags=["x"], categories=["a"]
            )
        },
        lambda e: e.stream == "a-1" and e.type == "T",
    ),
    "several items": (
        {
            "query": matching(
                QueryItem(types=["U"]), QueryItem(tags=["y"]), QueryItem(streams=["a-1"])
            )
        },
        lambda e: e.type == "U" or "y" in e.tags or e.stream == "a-1",
    ),
}


def bounds(log: Log) -> list[dict[str, Any]]:
    """Every kind of bound of a read."""
    times = [event.recorded_at for event in log.recorded]
    found: list[dict[str, Any]] = [{}]
    found += [{"after_position": position} for position in (0, 1, 2, 4, 5, 7, 8)]
    found += [{"until_position": position} for position in (0, 1, 3, 4, 5, 7, 8)]
    found += [{"limit": limit} for limit in (0, 1, 3)]
    found += [{"after_time": time} for time in times[::2]]
    found += [{"until_time": time} for time in times[::2]]
    found += [
        {"after_position": 1, "until_position": 5},
        {"after_position": 5, "until_position": 7, "limit": 1},
        {"after_position": 4, "limit": 2},
        {"until_position": 6, "limit": 2},
        {"after_time": times[0], "until_time": times[6]},
        {"after_time": timestamp(nanoseconds(times[2]) - 1), "limit": 1},
    ]
    return found


@pytest.mark.parametrize("direction", [FORWARDS, BACKWARDS], ids=["forwards", "backwards"])
async def test_no_read_meets_a_removed_event(event_store, log, direction, subtests):
    for name, (source, matches) in SOURCES.items():
        with subtests.test(name):
            every = [{"direction": direction, **fields} for fields in bounds(log)]
            answers = await asyncio.gather(*(read(event_store, **source, **a) for a in every))
            for asked, answer in zip(every, answers, strict=True):
                head = log.head(**asked)
                stream = source.get("stream", "")
                assert (answer.positions, answer.head_position, answer.stream_version) == (
                    log.seen(matches, **asked),
                    head,
                    log.version(stream, head) if stream else 0,
                ), asked


async def test_what_is_not_removed_stays_as_it_was(event_store, log):
    assert (await read(event_store)).events == log.kept


@pytest.mark.parametrize("direction", [FORWARDS, BACKWARDS], ids=["forwards", "backwards"])
async def test_reads_of_the_stream_after_a_version(event_store, log, direction):
    """`after_version` may be up to the last version ever given."""
    last = log.last_version
    for version in range(last + 1 if direction == FORWARDS else last + 3):
        asked = {"stream": "a-1", "direction": direction, "after_version": version}
        for more in ({}, {"limit": 1}, {"until_position": 5}, {"until_position": 7, "limit": 2}):
            answer = await read(event_store, **asked, **more)
            assert answer.positions == log.seen(is_in("a-1"), **asked, **more)
    if direction == FORWARDS:
        for version in (last + 1, MAX_NUMBER):
            request = ReadRequest(stream="a-1", after_version=version)
            await refused(event_store.Read(request), "POSITION_AHEAD_OF_LOG")


async def test_no_subscription_meets_a_removed_event(event_store, log, subtests):
    for name, (source, matches) in SOURCES.items():
        if source.get("stream") == "a-1" and log.way is WAYS["permanent deletion"]:
            continue  # it is refused
        with subtests.test(name):
            for start in (
                {},
                *({"after_position": position} for position in (1, 2, 4, 5, 7, 8)),
                *({"after_time": event.recorded_at} for event in log.recorded[::2]),
            ):
                async with subscribed(event_store, **source, **start) as subscription:
                    _, started = await subscription.next()
                    caught_up = await subscription.until("caught_up")

                positions = [event.position for event in subscription.received]
                assert positions == log.seen(matches, **start), start
                assert started.head_position == caught_up.position == 8
                assert caught_up.event_id == log.recorded[7].id


async def test_a_subscription_to_the_stream_after_a_version(event_store, log):
    last = log.last_version
    if log.way is WAYS["permanent deletion"]:
        pytest.skip("a subscription to it is refused")
    for version in range(last + 1):
        async with subscribed(event_store, stream="a-1", after_version=version) as subscription:
            _, started = await subscription.next()
            await subscription.until("caught_up")

        positions = [event.position for event in subscription.received]
        assert positions == log.seen(is_in("a-1"), after_version=version)
        after = started.after_position
        assert log.seen(is_in("a-1"), after_position=after) == positions
    for version in (last + 1, MAX_NUMBER):
        request = SubscribeRequest(stream="a-1", after_version=version)
        await refused(event_store.Subscribe(request), "POSITION_AHEAD_OF_LOG")


async def test_every_event_is_a_checkpoint_removed_or_not(event_store, log):
    """The id of a removed event still counts, and so does that another one is wrong."""
    log_id = (await head_of(event_store)).log_id
    for event in log.recorded:
        async with subscribed(
            event_store,
            after_position=event.position,
            after_event_id=event.id.upper(),
            expected_log_id=log_id,
        ) as subscription:
            await subscription.until("caught_up")
        positions = [received.position for received in subscription.received]
        assert positions == log.seen(lambda e: True, after_position=event.position)

        request = SubscribeRequest(
            query=ALL, after_position=event.position, after_event_id=new_id()
        )
        await refused(event_store.Subscribe(request), "LOG_DIVERGED")


async def check_conditions(event_store: Any, log: Log) -> None:
    """Tries a condition for each query after each position. What would hold is followed by a
    condition that fails, so that nothing is recorded."""
    fails = fail_if(matching(streams=["b-1"]), 7)
    for source, matches in SOURCES.values():
        if "stream" in source:
            continue
        for after in range(9):
            request = append_all(
                to_stream("new", make_event()),
                conditions=[fail_if(source["query"], after), fails],
            )
            refusal = await refused(event_store.Append(request), "CONDITION_FAILED")

            failed = refusal.failure.condition_failed
            seen = log.seen(matches, after_position=after)
            assert (failed.condition_index, failed.position) == (0, seen[0]) if seen else (1, 8)
    assert (await head_of(event_store)).head_position == 8


async def test_no_condition_meets_a_removed_event(event_store, log):
    await check_conditions(event_store, log)


async def test_conditions_that_only_removed_events_match_hold(event_store, log):
    """Those made on the same call, together, and by themselves."""
    conditions = [
        fail_if(source["query"], after)
        for source, matches in SOURCES.values()
        for after in range(9)
        if "query" in source and not log.seen(matches, after_position=after)
    ]
    assert conditions

    results = await append_many(
        event_store, *(append_all(to_stream("d", make_event()), conditions=[c]) for c in conditions)
    )

    assert {result.WhichOneof("outcome") for result in results} <= {"appended", "failure"}
    for result, condition in zip(results, conditions, strict=True):
        if condition.fail_if_match == ALL:
            continue  # the appends before it match
        assert result.HasField("appended"), condition
    request = append_all(
        to_stream("e", make_event()),
        conditions=[condition for condition in conditions if condition.fail_if_match != ALL],
    )
    await append(event_store, request)


@pytest.mark.parametrize("way", WAYS)
async def test_after_a_restart_it_is_all_the_same(database_url, way):
    async with (
        InProcessServer(database_url) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        log = await make_log(EventStoreServiceStub(channel), StreamServiceStub(channel), WAYS[way])
        before = None
        if log.way is not WAYS["permanent deletion"]:
            before = await info_of(StreamServiceStub(channel), "a-1")

    async with (
        InProcessServer(database_url) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        event_store = EventStoreServiceStub(channel)
        assert (await read(event_store)).events == log.kept
        for source, matches in SOURCES.values():
            for direction in (FORWARDS, BACKWARDS):
                answer = await read(event_store, **source, direction=direction)
                assert answer.positions == log.seen(matches, direction=direction)
        await check_conditions(event_store, log)
        if before is not None:
            assert await info_of(StreamServiceStub(channel), "a-1") == before
        for event in log.recorded:
            await check_repeat(event_store, log, event)


# --- positions


async def test_positions_of_others_stay_and_new_ones_go_on(event_store, stream_service):
    await append(event_store, append_to("a"), append_to("b"), append_to("a"))

    await delete(stream_service, "a")

    assert (await read(event_store)).positions == [2]
    response = await append(event_store, append_to("b"))
    assert response.first_position == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda s: delete(s, "a"),
        lambda s: delete(s, "a", permanent=True),
        lambda s: keep(s, "a", truncate_before=2),
        lambda s: keep(s, "a", max_age=A_MOMENT),
    ],
    ids=["deletion", "permanent deletion", "truncation", "max_age"],
)
async def test_the_head_is_the_last_events_removed_or_not(event_store, stream_service, change):
    last = await append(event_store, append_to("b"), append_to("a"))
    event_id = (await read(event_store)).ids[-1]
    before = await head_of(event_store)

    await change(stream_service)

    assert await head_of(event_store) == before
    assert (before.head_position, before.recorded_at) == (2, last.recorded_at)
    for fields in ({}, {"limit": 0}, {"min_position": 2}, {"until_position": 2}):
        answer = await read(event_store, **fields)
        assert (answer.head_position, answer.positions) == (2, [1] if "limit" not in fields else [])
    assert (await read(event_store, until_time=last.recorded_at)).head_position == 2
    refusal = await refused(
        event_store.Read(ReadRequest(query=ALL, after_position=3)), "POSITION_AHEAD_OF_LOG"
    )
    assert refusal.failure.log_state.head_position == 2

    async with subscribed(event_store, heartbeat_interval=SOON) as subscription:
        assert await subscription.until("caught_up") == CaughtUp(position=2, event_id=event_id)
        assert await subscription.until("heartbeat") == Heartbeat(position=2, event_id=event_id)
    async with subscribed(
        event_store, after_position=2, after_event_id=event_id, heartbeat_interval=SOON
    ) as subscription:
        await append(event_store, append_to("b"))
        assert (await subscription.until_received(1))[0].position == 3
    async with subscribed(event_store, from_head=True) as subscription:
        assert (await subscription.next())[1].after_position == 3


async def test_a_log_of_which_everything_is_removed(event_store, stream_service):
    await append(event_store, append_to("a"), append_to("b"), append_to("a"))
    for stream in "ab":
        await delete(stream_service, stream)

    for direction in (FORWARDS, BACKWARDS):
        answer = await read(event_store, direction=direction)
        assert (answer.events, answer.head_position) == ([], 3)
    async with subscribed(event_store) as subscription:
        assert (await subscription.until("caught_up")).position == 3
        await append(event_store, append_to("c"))
        assert (await subscription.until_received(1))[0].position == 4
    request = append_all(to_stream("d", make_event()), conditions=[fail_if(ALL, 4)])
    assert (await append(event_store, request)).first_position == 5


async def test_gaps_are_not_waited_at(event_store, stream_service):
    """Readers of all kinds pass over large ones at once, in the middle and at the end."""
    for _ in range(3):
        await append(event_store, append_to("a", *(make_event("T", "x") for _ in range(3000))))
        await append(event_store, append_to("b", make_event("T", "x")))
    await append(event_store, append_to("a", *(make_event("T", "x") for _ in range(3000))))
    await delete(stream_service, "a")

    seen = [3001, 6002, 9003]
    async with asyncio.timeout(20):
        for source in ({}, {"stream": "b"}, {"query": matching(tags=["x"])}):
            assert (await read(event_store, **source)).positions == seen
            backwards = await read(event_store, **source, direction=BACKWARDS, limit=2)
            assert backwards.positions == seen[:0:-1]
            async with subscribed(event_store, **source) as subscription:
                assert (await subscription.until("caught_up")).position == 12_003
            assert [event.position for event in subscription.received] == seen
        assert (await read(event_store, stream="a")).events == []
        request = append_all(
            to_stream("c", make_event()), conditions=[fail_if(matching(tags=["x"]), 9003)]
        )
        assert (await append(event_store, request)).first_position == 12_004


async def test_a_limit_counts_what_is_seen(event_store, stream_service):
    for _ in range(5):
        await append(event_store, append_to("a", make_event("T"), make_event("T")))
        await append(event_store, append_to("b", make_event("T")))
    await delete(stream_service, "a")

    for query in (ALL, matching(types=["T"]), matching(streams=["a", "b"])):
        assert (await read(event_store, query=query, limit=3)).positions == [3, 6, 9]
        backwards = await read(event_store, query=query, limit=3, direction=BACKWARDS)
        assert backwards.positions == [15, 12, 9]


async def test_events_of_no_stream_are_never_removed(event_store, stream_service):
    for stream in "ab":
        request = append_all(to_stream(stream, make_event("T", "x")), events=[make_event("T", "x")])
        await append(event_store, request)
    await keep(stream_service, "a", max_age=A_MOMENT, max_count=1)
    await delete(stream_service, "a")
    await delete(stream_service, "b", permanent=True)

    for query in (ALL, matching(types=["T"]), matching(tags=["x"])):
        answer = await read(event_store, query=query)
        assert answer.positions == [2, 4]
        assert [event.stream for event in answer.events] == ["", ""]
        refusal = await refused(
            event_store.Append(
                append_all(to_stream("c", make_event()), conditions=[fail_if(query)])
            ),
            "CONDITION_FAILED",
        )
        assert refusal.failure.condition_failed.position == 2


async def test_streams_with_names_that_begin_alike_stay(event_store, stream_service):
    others = ["a-1-x", "a-10", "A-1", "a-2", "a", "a-"]
    for stream in ("a-1", *others):
        await append(event_store, append_to(stream))

    await delete(stream_service, "a-1")

    assert [event.stream for event in (await read(event_store)).events] == others
    answer = await read(event_store, query=matching(stream_prefixes=["a-1"]))
    assert [event.stream for event in answer.events] == ["a-1-x", "a-10"]


# --- ids


def as_appended(event: RecordedEvent, **changes: Any) -> AppendRequest:
    """The append that an event came by, or one with something changed."""
    fields = {
        "id": event.id,
        "type": event.type,
        "data": event.data,
        "tags": event.tags,
        "metadata": event.metadata,
    }
    stream = changes.pop("stream", event.stream)
    again = Event(**(fields | changes))
    return append_to(stream, again) if stream else AppendRequest(events=[again])


async def check_repeat(event_store: Any, log: Log, event: RecordedEvent) -> None:
    """Appends an event again, as it was and with other content. What is removed can't be
    compared, so that the other content is a repeat too."""
    head = await head_of(event_store)
    appended = AppendResponse(
        first_position=event.position,
        last_position=event.position,
        recorded_at=event.recorded_at,
        duplicate=True,
        log_id=head.log_id,
    )
    if event.stream:
        appended.versions.add(stream=event.stream, version=event.version)
    assert await append(event_store, as_appended(event)) == appended
    for changes in (
        {"data": b"other"},
        {"type": "V"},
        {"tags": []},
        {"tags": ["z"]},
        {"content_type": "text/plain"},
        {"type": "V", "data": b"", "tags": ["q"], "metadata": {}},
    ):
        request = as_appended(event, **changes)
        if event.position in log.way.gone:
            assert await append(event_store, request) == appended
        else:
            refusal = await refused(event_store.Append(request), "EVENT_ID_CONFLICT")
            assert refusal.failure.event_id_conflict.position == event.position
    for stream in ("b-1", "", "new"):
        if stream != event.stream:
            request = as_appended(event, stream=stream)
            refusal = await refused(event_store.Append(request), "EVENT_ID_CONFLICT")
            conflict = refusal.failure.event_id_conflict
            assert (conflict.id, conflict.position) == (event.id, event.position)
    assert await head_of(event_store) == head


async def test_ids_stay_taken(event_store, log, subtests):
    for event in log.recorded:
        with subtests.test(f"position {event.position}"):
            await check_repeat(event_store, log, event)


async def remove(stream_service: Any, stream: str, how: str, last: int) -> None:
    """Removes all events of a stream."""
    match how:
        case "deletion":
            await delete(stream_service, stream)
        case "permanent deletion":
            await delete(stream_service, stream, permanent=True)
        case "truncation":
            await keep(stream_service, stream, truncate_before=last + 1)
        case "max_age":
            await keep(stream_service, stream, max_age=A_MOMENT)


HOWS = ["deletion", "permanent deletion", "truncation", "max_age"]


@pytest.mark.parametrize("how", HOWS)
async def test_a_repeat_of_an_append_whose_events_were_removed(event_store, stream_service, how):
    request = append_all(
        to_stream("a", make_event(), make_event(), expected_version=0),
        to_stream("b", make_event()),
        to_stream("a", make_event()),
        events=[make_event()],
        conditions=[fail_if(ALL)],
    )
    first = await append(event_store, request)
    await remove(stream_service, "a", how, last=3)

    repeat = await append(event_store, request)

    assert repeat.duplicate
    repeat.duplicate = False
    assert repeat == first
    other = AppendRequest()
    other.CopyFrom(request)
    for part in other.appends:
        if part.stream == "a":
            for event in part.events:
                event.data, event.type = b"other", "Other"
    assert (await append(event_store, other)).duplicate
    other.appends[1].events[0].data = b"other"
    await refused(event_store.Append(other), "EVENT_ID_CONFLICT")
    [result, same] = await append_many(event_store, request, request)
    assert result.appended.duplicate and same.appended.duplicate


@pytest.mark.parametrize("how", HOWS)
async def test_ids_of_removed_events_among_others(event_store, stream_service, how, subtests):
    """Anything but the same run, in the same streams and order, is a conflict that names the
    first taken id in the order of the request."""
    a, b, c = (make_event() for _ in range(3))
    await append(event_store, append_to("s", a, b, c), append_to("t"))
    await remove(stream_service, "s", how, last=3)
    new = make_event()

    for name, request, conflict in [
        ("another order", append_to("s", b, a), (b.id, 2)),
        ("not all between", append_to("s", a, c), (a.id, 1)),
        ("a new one after", append_to("s", a, b, new), (a.id, 1)),
        ("a new one before", append_to("s", new, c), (c.id, 3)),
        ("a new one elsewhere", append_all(to_stream("s", c), to_stream("t", new)), (c.id, 3)),
        ("another stream", append_to("t", a, b, c), (a.id, 1)),
        ("of no stream", AppendRequest(events=[b]), (b.id, 2)),
        ("in part another stream", append_all(to_stream("s", a), events=[b]), (a.id, 1)),
    ]:
        with subtests.test(name):
            refusal = await refused(event_store.Append(request), "EVENT_ID_CONFLICT")
            taken = refusal.failure.event_id_conflict
            assert (taken.id, taken.position) == conflict
    for run, first in (((a,), 1), ((b, c), 2), ((a, b, c), 1)):
        response = await append(event_store, append_to("s", *run))
        assert (response.duplicate, response.first_position) == (True, first)
        assert response.versions[0].version == first + len(run) - 1
    assert (await head_of(event_store)).head_position == 4


async def test_a_repeat_of_an_append_of_which_some_events_are_removed(event_store, stream_service):
    """What is still there is compared."""
    events = [make_event(data=b"x") for _ in range(4)]
    await append(event_store, append_to("a", *events))
    await keep(stream_service, "a", truncate_before=3)

    other = [Event(id=event.id, type="Other") for event in events[:2]]
    assert (await append(event_store, append_to("a", *other, *events[2:]))).duplicate
    other.append(Event(id=events[2].id, type="Other"))
    request = append_to("a", *other, events[3])
    refusal = await refused(event_store.Append(request), "EVENT_ID_CONFLICT")
    assert refusal.failure.event_id_conflict.position == 1


async def test_a_repeat_into_a_new_life_is_still_the_first_time(event_store, stream_service):
    request = append_to("a", make_event(), make_event(), expected_version=0)
    first = await append(event_store, request)
    await delete(stream_service, "a")
    await append(event_store, append_to("a"))

    repeat = await append(event_store, request)

    assert (repeat.duplicate, repeat.first_position) == (True, first.first_position)
    assert repeat.versions[0].version == 2
    assert (await read(event_store, stream="a")).versions == [3]


# --- the stream goes on


@pytest.mark.parametrize(
    "expectation", [{}, {"expected_version": 0}, {"expected_exists": False}], ids=str
)
async def test_a_deleted_stream_can_be_written_to_again(event_store, stream_service, expectation):
    await append(event_store, append_to("a", make_event(), make_event()))
    await delete(stream_service, "a")

    response = await append(event_store, append_to("a", make_event(), make_event(), **expectation))

    assert (response.first_position, response.versions[0].version) == (3, 4)
    answer = await read(event_store, stream="a")
    assert (answer.versions, answer.stream_version) == ([3, 4], 4)
    assert (await append(event_store, append_to("a", expected_version=4))).versions[0].version == 5


@pytest.mark.parametrize("permanent", [False, True])
async def test_a_deleted_stream_has_version_0_wherever_one_is_expected(
    event_store, stream_service, permanent
):
    await append(event_store, append_to("a", make_event(), make_event()))
    await delete(stream_service, "a", permanent=permanent)

    for expectation in (
        {"expected_version": 2},
        {"expected_version": 1},
        {"expected_version": 3},
        {"expected_exists": True},
    ):
        request = append_all(to_stream("b", make_event()), to_stream("a", **expectation))
        refusal = await refused(event_store.Append(request), "VERSION_CONFLICT")
        conflict = refusal.failure.version_conflict
        assert (conflict.stream, conflict.actual_version) == ("a", 0)
        if not permanent:
            refusal = await refused(
                event_store.Append(append_to("a", **expectation)), "VERSION_CONFLICT"
            )
            assert refusal.failure.version_conflict.actual_version == 0
    for n, expectation in enumerate(({"expected_version": 0}, {"expected_exists": False})):
        request = append_all(
            to_stream("b", make_event(), expected_version=n), to_stream("a", **expectation)
        )
        await append(event_store, request)


@pytest.mark.parametrize("how", ["truncation", "max_age"])
async def test_retention_keeps_the_version(event_store, stream_service, how):
    await append(event_store, append_to("a", make_event(), make_event()))
    await remove(stream_service, "a", how, last=2)

    answer = await read(event_store, stream="a")
    assert (answer.events, answer.stream_version) == ([], 2)
    for expectation in ({"expected_version": 0}, {"expected_exists": False}):
        refusal = await refused(
            event_store.Append(append_to("a", **expectation)), "VERSION_CONFLICT"
        )
        assert refusal.failure.version_conflict.actual_version == 2
    request = append_all(
        to_stream("a", make_event(), expected_version=2), to_stream("b", expected_exists=False)
    )
    assert (await append(event_store, request)).versions[0].version == 3
    await append(event_store, append_to("a", expected_exists=True))


async def test_the_version_of_a_stream_at_any_time(event_store, stream_service):
    """Of a stream that was deleted since: 0, however long ago it was read."""
    times = [timestamp(0)]
    for stream in ("a", "b", "a", "", "b", "a", "b", "a"):
        if stream:
            response = await append(event_store, append_to(stream))
            times.append(response.recorded_at)
        else:
            await delete(stream_service, "a")

    #           until: 0  1  2  3  4  5  6  7
    versions_of_a = [0, 0, 0, 0, 0, 3, 3, 4]
    versions_of_b = [0, 0, 1, 1, 2, 2, 3, 3]
    for until, time in enumerate(times):
        for bound in ({"until_position": until}, {"until_time": time}):
            a = await read(event_store, stream="a", **bound)
            b = await read(event_store, stream="b", **bound)
            assert (a.stream_version, b.stream_version) == (
                versions_of_a[until],
                versions_of_b[until],
            )
            assert a.versions == [v for v in (3, 4) if v <= a.stream_version]
            assert a.head_position == b.head_position == until


async def test_the_version_at_any_time_of_a_stream_that_stays_deleted(event_store, stream_service):
    await append(event_store, append_to("a"), append_to("a"), append_to("b"))
    await delete(stream_service, "a")

    for until in range(5):
        answer = await read(event_store, stream="a", until_position=until)
        assert (answer.events, answer.stream_version) == ([], 0)


async def test_the_version_at_any_time_under_retention(event_store, stream_service):
    """Retention keeps the version: it is what it was then."""
    await append(event_store, *(append_to("a") for _ in range(4)))
    await keep(stream_service, "a", truncate_before=3)

    for until in range(5):
        answer = await read(event_store, stream="a", until_position=until)
        assert answer.stream_version == until
        assert answer.versions == [v for v in (3, 4) if v <= until]


# --- nothing comes back


async def test_nothing_comes_back_when_retention_is_loosened(event_store, stream_service):
    for part in ({"max_count": 2}, {"truncate_before": 4}, {"max_age": A_MOMENT}):
        [name] = part
        await append(event_store, append_to(name, *(make_event("T", name) for _ in range(5))))
        await keep(stream_service, name, **part)
    seen = {"max_count": [4, 5], "truncate_before": [4, 5], "max_age": []}

    for parts in (
        {"max_count": 100},
        {"max_age": HOURS},
        {},
        {"truncate_before": 1},
        {"max_count": MAX_NUMBER, "max_age": HOURS, "truncate_before": 2},
    ):
        for name, versions in seen.items():
            stream = await keep(stream_service, name, **parts)
            assert stream.first_version == (versions[0] if versions else 0)
            answer = await read(event_store, stream=name)
            assert (answer.versions, answer.stream_version) == (versions, 5)
            assert (await read(event_store, query=matching(tags=[name]))).versions == versions
            async with subscribed(event_store, query=matching(tags=[name])) as subscription:
                await subscription.until("caught_up")
            assert [event.version for event in subscription.received] == versions
    for name, versions in seen.items():
        await append(event_store, append_to(name))
        assert (await read(event_store, stream=name)).versions == [*versions, 6]
        assert (await info_of(stream_service, name)).first_version == [*versions, 6][0]


async def test_what_a_retention_removed_since_it_was_set_does_not_come_back(
    event_store, stream_service
):
    """What it excludes at the moment of the change counts, not what it did at first."""
    await append(event_store, append_to("a"), append_to("b"))
    await keep(stream_service, "a", max_count=3)
    await keep(stream_service, "b", max_age=A_MOMENT)
    await append(event_store, append_to("a", *(make_event() for _ in range(9))))
    await append(event_store, append_to("b", *(make_event() for _ in range(9))))

    for stream, kept in (("a", [8, 9, 10]), ("b", [])):
        await keep(stream_service, stream, max_count=50)
        assert (await read(event_store, stream=stream)).versions == kept


async def test_nothing_comes_back_in_a_new_life(event_store, stream_service):
    event = make_event("T", "x")
    await append(event_store, append_to("a", event, make_event("T", "x")))
    await keep(stream_service, "a", max_age=HOURS)
    await delete(stream_service, "a")
    await append(event_store, append_to("a"))

    for change in (
        lambda: asyncio.sleep(0),
        lambda: keep(stream_service, "a", max_count=100),
        lambda: keep(stream_service, "a"),
        lambda: append(event_store, append_to("a", event)),
    ):
        await change()
        assert (await read(event_store, stream="a")).versions == [3]
        assert (await read(event_store, query=matching(tags=["x"]))).events == []
        assert (await info_of(stream_service, "a")).first_version == 3


# --- max_count and max_age move


async def test_max_count_moves_with_each_append(event_store, stream_service):
    await append(event_store, append_to("a"))
    await keep(stream_service, "a", max_count=3)
    for version in range(2, 12):
        response = await append(event_store, append_to("a", make_event("T", "x"), make_event()))
        last = response.versions[0].version
        assert last == 2 * version - 1
        expected = list(range(max(last - 2, 1), last + 1))
        assert (await read(event_store, stream="a")).versions == expected
        backwards = await read(event_store, stream="a", direction=BACKWARDS)
        assert backwards.versions == expected[::-1]
        assert (await read(event_store)).versions == expected
        tagged = await read(event_store, query=matching(tags=["x"]))
        assert tagged.versions == [v for v in expected if v % 2 == 0]
        assert (await info_of(stream_service, "a")).first_version == expected[0]


async def test_max_count_within_one_append_of_many_events(event_store, stream_service):
    await append(event_store, append_to("a"))
    await keep(stream_service, "a", max_count=3)
    request = append_all(
        to_stream("a", *(make_event("T", "x") for _ in range(50))),
        to_stream("b", make_event("T", "x")),
        to_stream("a", *(make_event("T", "x") for _ in range(50))),
        events=[make_event("T", "x")],
    )
    async with subscribed(event_store) as subscription:
        await subscription.until("caught_up")

        response = await append(event_store, request)

        assert (response.first_position, response.last_position) == (2, 103)
        assert [(v.stream, v.version) for v in response.versions] == [("a", 101), ("b", 1)]
        seen = [52, 100, 101, 102, 103]
        assert (await read(event_store)).positions == seen
        assert (await read(event_store, query=matching(tags=["x"]))).positions == seen
        assert (await read(event_store, stream="a")).versions == [99, 100, 101]
        await subscription.until_received(6)
        assert [event.position for event in subscription.received] == [1, *seen]


@pytest.mark.parametrize("count", [300, 3000])
async def test_a_subscriber_sees_nothing_of_an_append_that_it_removes_itself(
    event_store, stream_service, count
):
    """However large it is: all of it is recorded at one moment, and then most is removed."""
    await append(event_store, append_to("a"))
    await keep(stream_service, "a", max_count=3)
    async with subscribed(event_store) as subscription:
        await subscription.until("caught_up")

        await append(event_store, append_to("a", *(make_event() for _ in range(count))))

        await append(event_store, append_to("b"))
        while not (subscription.received and subscription.received[-1].stream == "b"):
            await subscription.next()
    positions = [event.position for event in subscription.received]
    assert positions == [1, count - 1, count, count + 1, count + 2]


async def test_a_condition_sent_behind_the_append_that_removes_what_it_matches(database_url):
    """In one message, to a server that has just begun and knows nothing of the log yet. They
    are decided in the order sent, whenever their conditions are looked at."""
    for n in range(6):
        stream, tag = f"a-{n}", f"x:{n}"
        async with (
            InProcessServer(database_url) as server,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            event_store = EventStoreServiceStub(channel)
            await append(event_store, append_to(stream, make_event("T", tag)))
            await keep(StreamServiceStub(channel), stream, max_count=1)

        guarded = append_all(
            to_stream("b", make_event()), conditions=[fail_if(matching(tags=[tag]))]
        )
        message = AppendManyRequest(
            items=[
                AppendItem(request_id=1, append=guarded),
                AppendItem(request_id=2, append=append_to(stream)),
                AppendItem(request_id=3, append=guarded),
            ]
        )

        async def messages(message: AppendManyRequest = message):
            yield message

        async with (
            InProcessServer(database_url) as server,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            responses = await outcome(EventStoreServiceStub(channel).AppendMany(messages()))
        results = [result for response in responses for result in response.results]
        assert reason_of(results[0].failure) == "CONDITION_FAILED"
        assert [result.WhichOneof("outcome") for result in results[1:]] == ["appended"] * 2


async def test_max_count_in_a_pipeline(event_store, stream_service):
    """Conditions see what earlier appends of the same call remove, and repeats too."""
    await append(event_store, append_to("a", make_event("T", "x")))
    await keep(stream_service, "a", max_count=1)
    first = make_event("T", "y", data=b"1")
    other = Event(id=first.id, type="Other", data=b"2")

    def guarded(tag: str) -> AppendRequest:
        return append_all(to_stream("b", make_event()), conditions=[fail_if(matching(tags=[tag]))])

    results = await append_many(
        event_store,
        guarded("x"),  # 0: "x" is there
        append_to("a", first),  # 1: removes "x"
        guarded("x"),  # 2
        guarded("y"),  # 3: "y" is there
        append_to("a", other),  # 4: and known not to be this
        append_to("a", make_event("T", "z")),  # 5: removes "y"
        guarded("y"),  # 6
        append_to("a", other),  # 7: nobody can tell any more
        append_to("a", make_event("T", "z"), make_event()),  # 8: its first is never seen
        guarded("z"),  # 9
    )

    outcomes = [
        reason_of(result.failure) if result.HasField("failure") else result.appended.duplicate
        for result in results
    ]
    assert outcomes == [
        "CONDITION_FAILED",
        False,
        False,
        "CONDITION_FAILED",
        "EVENT_ID_CONFLICT",
        False,
        False,
        True,
        False,
        False,
    ]
    assert results[7].appended.first_position == results[1].appended.first_position
    assert (await read(event_store, stream="a")).versions == [5]


async def test_a_condition_sees_the_state_before_its_own_request(event_store, stream_service):
    """The events of the request remove an older one, which its own condition still meets."""
    await append(event_store, append_to("a", make_event("T", "x")))
    await keep(stream_service, "a", max_count=1)
    request = append_all(
        to_stream("a", make_event("T", "x")), conditions=[fail_if(matching(tags=["x"]))]
    )

    refusal = await refused(event_store.Append(request), "CONDITION_FAILED")

    assert refusal.failure.condition_failed.position == 1


async def test_a_condition_names_the_first_event_that_is_seen(event_store, stream_service):
    for _ in range(4):
        await append(event_store, append_to("a", make_event("T", "x")))
    await append(event_store, append_to("b", make_event("T", "x")))
    query = matching(tags=["x"])

    for change, position in (
        (lambda: keep(stream_service, "a", truncate_before=2), 2),
        (lambda: keep(stream_service, "a", max_count=1), 4),
        (lambda: delete(stream_service, "a"), 5),
    ):
        await change()
        for conditions, index in (([fail_if(query)], 0), ([fail_if(query, 5), fail_if(query)], 1)):
            request = append_all(to_stream("c", make_event()), conditions=conditions)
            refusal = await refused(event_store.Append(request), "CONDITION_FAILED")
            failed = refusal.failure.condition_failed
            assert (failed.position, failed.condition_index) == (position, index)
    await delete(stream_service, "b", permanent=True)
    request = append_all(to_stream("c", make_event()), conditions=[fail_if(query)])
    await append(event_store, request)


async def test_conditions_on_an_open_pipeline_see_deletions_between_its_appends(
    event_store, stream_service
):
    """What an append of this call recorded is met by the next, until it is removed."""
    call = event_store.AppendMany()
    query = matching(tags=["x"])
    number = 0

    async def send(request: AppendRequest) -> Any:
        nonlocal number
        number += 1
        item = AppendItem(request_id=number, append=request)
        await call.write(AppendManyRequest(items=[item]))
        [result] = (await next_response(call)).results
        return result

    guarded = [
        append_all(to_stream("b", make_event()), conditions=[fail_if(query)]) for _ in range(30)
    ]
    for n, request in enumerate(guarded):
        assert (await send(append_to("a", make_event("T", "x")))).HasField("appended")
        assert reason_of((await send(request)).failure) == "CONDITION_FAILED"
        match n % 3:
            case 0:
                await delete(stream_service, "a")
            case 1:
                version = (await info_of(stream_service, "a")).version
                await keep(stream_service, "a", truncate_before=version + 1)
            case 2:
                await keep(stream_service, "a", max_age=A_MOMENT)
                await keep(stream_service, "a")
        assert (await send(request)).HasField("appended")
    call.cancel()


async def test_max_age_excludes_what_comes_later_too(event_store, stream_service):
    """While it holds, an event is removed as soon as it is that old."""
    await append(event_store, append_to("a", make_event("T", "x")))
    await keep(stream_service, "a", max_age=A_MOMENT)
    async with subscribed(event_store, query=matching(tags=["x", "y"])) as subscription:
        await subscription.until("caught_up")
        for version in range(2, 12):
            event = make_event("T", "x", "y")
            response = await append(
                event_store, append_to("a", event, expected_version=version - 1)
            )
            assert response.versions[0].version == version
            for fields in ({}, {"stream": "a"}, {"query": matching(tags=["x"])}):
                for direction in (FORWARDS, BACKWARDS):
                    answer = await read(event_store, **fields, direction=direction)
                    assert answer.events == []
                    assert answer.head_position == response.last_position
            stream = await info_of(stream_service, "a")
            assert (stream.version, stream.first_version) == (version, 0)
            await refused(
                event_store.Append(
                    append_all(
                        to_stream("z", make_event()),
                        conditions=[fail_if(matching(tags=["y"])), fail_if(ALL, 10**6)],
                    )
                ),
                "POSITION_AHEAD_OF_LOG",
            )
            assert (await append(event_store, append_to("a", event))).duplicate
            other = Event(id=event.id, type="Other")
            assert (await append(event_store, append_to("a", other))).duplicate
        await append(event_store, append_to("b", make_event("T", "x", "y")))
        [received] = await subscription.until_received(1)
    assert received.stream == "b"


async def test_max_age_leaves_what_is_younger(event_store, stream_service):
    await append(event_store, append_to("a", *(make_event("T", "x") for _ in range(3))))
    await keep(stream_service, "a", max_age=HOURS)
    await append(event_store, append_to("a", make_event("T", "x")))

    assert (await read(event_store, stream="a")).versions == [1, 2, 3, 4]
    assert (await read(event_store, query=matching(tags=["x"]))).versions == [1, 2, 3, 4]
    request = append_all(to_stream("b", make_event()), conditions=[fail_if(ALL)])
    refusal = await refused(event_store.Append(request), "CONDITION_FAILED")
    assert refusal.failure.condition_failed.position == 1


async def test_max_age_by_the_second(event_store, stream_service):
    """One that passes while the test looks on: nothing is changed, and it is gone."""
    await append(event_store, append_to("b"))
    response = await append(event_store, append_to("a", make_event("T", "x")))
    await keep(stream_service, "a", max_age=Duration(seconds=2))
    assert (await read(event_store, stream="a")).versions in ([1], [])

    async def is_gone() -> bool:
        return not (await read(event_store, query=matching(tags=["x"]))).events

    await eventually(is_gone)

    assert (await read(event_store)).positions == [1]
    assert (await info_of(stream_service, "a")).first_version == 0
    later = await append(
        event_store,
        append_all(to_stream("b", make_event()), conditions=[fail_if(matching(tags=["x"]))]),
    )
    passed = nanoseconds(later.recorded_at) - nanoseconds(response.recorded_at)
    assert passed >= 2 * 10**9, "not before its time"


# --- subscriptions that are open


async def test_an_open_subscription_goes_on_over_a_deletion(event_store, stream_service):
    await append(event_store, append_to("a", make_event(), make_event()))
    async with (
        subscribed(event_store, stream="a") as to_stream_a,
        subscribed(event_store, query=matching(categories=["a"])) as to_query,
    ):
        for subscription in (to_stream_a, to_query):
            await subscription.until("caught_up")
        await delete(stream_service, "a")
        await append(event_store, append_to("b"), append_to("a", expected_version=0))
        for subscription in (to_stream_a, to_query):
            await subscription.until_received(3)
            assert [event.version for event in subscription.received] == [1, 2, 3]


async def test_the_checkpoint_of_an_open_subscription_passes_over_what_is_removed(
    event_store, stream_service
):
    await append(event_store, append_to("a"))
    await keep(stream_service, "a", max_age=A_MOMENT)
    async with subscribed(event_store, heartbeat_interval=SOON) as subscription:
        assert (await subscription.until("caught_up")).position == 1
        response = await append(event_store, append_to("a"), append_to("a"))
        heartbeat = await subscription.until("heartbeat")
        while heartbeat.position < response.last_position:
            heartbeat = await subscription.until("heartbeat")
    assert subscription.received == []
    async with subscribed(
        event_store, after_position=heartbeat.position, after_event_id=heartbeat.event_id
    ) as resumed:
        await resumed.until("caught_up")


PAYLOAD = b"x" * 100_000

CHANGES = {
    # what is seen of 300 events of "a" afterwards
    "deletion": (lambda s: delete(s, "a"), []),
    "permanent deletion": (lambda s: delete(s, "a", permanent=True), []),
    "truncation": (lambda s: keep(s, "a", truncate_before=300), [300]),
    "max_count": (lambda s: keep(s, "a", max_count=2), [299, 300]),
    "max_age": (lambda s: keep(s, "a", max_age=A_MOMENT), []),
}


@pytest.mark.parametrize("feed_bytes", [64 * 1024 * 1024, 1024 * 1024], ids=["live", "history"])
@pytest.mark.parametrize("change", CHANGES)
async def test_a_subscriber_that_lags_is_not_given_what_is_removed_meanwhile(
    database_url, feed_bytes, change
):
    """It stops reading while 30 MB are appended, which the feed still holds or does not. What
    was under way when they were removed may still come: a batch or two."""
    make_change, kept = CHANGES[change]
    async with (
        InProcessServer(database_url, feed_bytes=feed_bytes) as server,
        grpc.aio.insecure_channel(server.address) as channel,
        grpc.aio.insecure_channel(server.address, [("grpc.http2.bdp_probe", 0)]) as slow_channel,
    ):
        event_store = EventStoreServiceStub(channel)
        call = EventStoreServiceStub(slow_channel).Subscribe(
            SubscribeRequest(query=matching(streams=["a", "b"]))
        )
        subscription = Subscription(call)
        await subscription.until("caught_up")
        for _ in range(30):
            events = (make_event(data=PAYLOAD) for _ in range(10))
            await append(event_store, append_to("a", *events))

        await make_change(StreamServiceStub(channel))

        await append(event_store, append_to("b"))
        while not (subscription.received and subscription.received[-1].stream == "b"):
            await subscription.next()
        call.cancel()
        versions = [event.version for event in subscription.received[:-1]]
        under_way = versions[: len(versions) - len(kept)]
        assert versions[len(under_way) :] == kept
        assert under_way == list(range(1, len(under_way) + 1))
        assert len(under_way) < 60, "no more than what was under way"


@pytest.mark.parametrize("direction", [FORWARDS, BACKWARDS], ids=["forwards", "backwards"])
async def test_a_read_that_lags_is_not_given_what_is_removed_meanwhile(
    server, event_store, stream_service, direction
):
    """Of a read each page is its own transaction: what is removed meanwhile is missing, but
    for what was under way."""
    for _ in range(10):
        await append(event_store, append_to("a", *(make_event(data=MEGABYTE) for _ in range(3))))
    await append(event_store, append_to("b"))
    async with grpc.aio.insecure_channel(
        server.address, [("grpc.http2.bdp_probe", 0)]
    ) as slow_channel:
        call = EventStoreServiceStub(slow_channel).Read(ReadRequest(query=ALL, direction=direction))
        first = await next_response(call)
        await keep(stream_service, "a", truncate_before=26)
        answer = whole([first, *await rest_of(call)])

    assert answer.head_position == 31
    assert answer.positions == sorted(answer.positions, reverse=direction == BACKWARDS)
    assert set(answer.positions) >= set(range(26, 32))
    assert len(answer.events) < 6 + 15


# --- permanently deleted


@pytest.fixture
async def gone(event_store, stream_service) -> list[str]:
    """Permanently deleted: "gone-1", which had two events (their ids), and "gone-2"."""
    await append(event_store, append_to("gone-1", make_event(), make_event()), append_to("b"))
    ids = (await read(event_store)).ids
    await delete(stream_service, "gone-1", permanent=True)
    await delete(stream_service, "gone-2", permanent=True)
    return ids[:2]


async def test_a_permanently_deleted_stream_refuses_appends(event_store, gone):
    for stream in ("gone-1", "gone-2"):
        for expectation in (
            {},
            {"expected_version": 0},
            {"expected_version": 2},
            {"expected_exists": True},
            {"expected_exists": False},
        ):
            request = append_to(stream, **expectation)
            refusal = await refused(event_store.Append(request), "STREAM_DELETED")
            assert stream in refusal.message
        later = append_all(to_stream("b", make_event()), to_stream(stream, make_event()))
        await refused(event_store.Append(later), "STREAM_DELETED")
        checked_first = append_all(
            to_stream(stream, expected_version=0), to_stream(stream, make_event())
        )
        await refused(event_store.Append(checked_first), "STREAM_DELETED")
    assert (await head_of(event_store)).head_position == 3


async def test_checks_of_a_permanently_deleted_stream_are_made_against_version_0(event_store, gone):
    for n, (stream, expectation) in enumerate(
        (stream, expectation)
        for stream in ("gone-1", "gone-2")
        for expectation in ({"expected_version": 0}, {"expected_exists": False})
    ):
        request = append_all(to_stream("c", make_event()), to_stream(stream, **expectation))
        assert (await append(event_store, request)).versions[0].version == n + 1
    for stream in ("gone-1", "gone-2"):
        for expectation in ({"expected_version": 2}, {"expected_exists": True}):
            request = append_all(to_stream("c", make_event()), to_stream(stream, **expectation))
            refusal = await refused(event_store.Append(request), "VERSION_CONFLICT")
            conflict = refusal.failure.version_conflict
            assert (conflict.stream, conflict.actual_version) == (stream, 0)


async def test_a_permanently_deleted_stream_among_the_appends_of_a_call(event_store, gone):
    """It is final for this append alone."""
    results = await append_many(
        event_store,
        append_to("c", expected_version=0),
        append_to("gone-1"),
        append_to("c", expected_version=1),
        append_all(to_stream("c", make_event()), to_stream("gone-2", make_event())),
        append_to("c", expected_version=2),
    )

    assert [result.WhichOneof("outcome") for result in results] == [
        "appended",
        "failure",
        "appended",
        "failure",
        "appended",
    ]
    assert {reason_of(r.failure) for r in results if r.HasField("failure")} == {"STREAM_DELETED"}


async def test_where_stream_deleted_stands_among_the_refusals(event_store, gone):
    """After what concerns repeats and the log, before expectations and conditions."""
    faults = append_all(
        to_stream("b", make_event(), expected_version=99),
        to_stream("gone-1", make_event()),
        conditions=[fail_if(ALL), fail_if(ALL, 10**6)],
    )
    await refused(event_store.Append(faults), "STREAM_DELETED")

    faults.expected_log_id = new_id()
    await refused(event_store.Append(faults), "LOG_MISMATCH")

    faults.appends[1].events[0].id = gone[1]
    refusal = await refused(event_store.Append(faults), "EVENT_ID_CONFLICT")
    assert refusal.failure.event_id_conflict.position == 2

    request = append_to("gone-1", *(make_event(id=event_id) for event_id in gone))
    request.MergeFrom(AppendRequest(expected_log_id=new_id(), conditions=[fail_if(ALL, 10**6)]))
    repeat = await append(event_store, request)
    assert (repeat.duplicate, repeat.first_position, repeat.last_position) == (True, 1, 2)

    request.appends[0].events[0].type = ""
    await refused(event_store.Append(request), "INVALID_REQUEST")


async def test_a_read_of_a_permanently_deleted_stream_yields_nothing(event_store, gone):
    for stream in ("gone-1", "gone-2"):
        for fields in (
            {},
            {"direction": BACKWARDS},
            {"after_version": 0},
            {"after_version": 9, "direction": BACKWARDS},
            {"until_position": 2},
            {"limit": 0},
        ):
            answer = await read(event_store, stream=stream, **fields)
            assert (answer.events, answer.stream_version) == ([], 0)
    assert (await read(event_store, stream="gone-1", after_version=2)).events == []
    for stream, version in (("gone-1", 3), ("gone-2", 1)):
        request = ReadRequest(stream=stream, after_version=version)
        await refused(event_store.Read(request), "POSITION_AHEAD_OF_LOG")


async def test_a_subscription_to_a_permanently_deleted_stream_is_refused(event_store, gone):
    for stream in ("gone-1", "gone-2"):
        for fields in ({}, {"from_head": True}, {"after_position": 2}, {"after_version": 0}):
            request = SubscribeRequest(stream=stream, **fields)
            refusal = await refused(event_store.Subscribe(request), "STREAM_DELETED")
            assert stream in refusal.message
        for fields, reason in (
            ({"heartbeat_interval": Duration()}, "INVALID_REQUEST"),
            ({"log": "other"}, "NOT_FOUND"),
        ):
            request = SubscribeRequest(stream=stream, **fields)
            await refused(event_store.Subscribe(request), reason)


async def test_a_query_over_a_permanently_deleted_stream_is_served(event_store, gone):
    for query in (ALL, matching(streams=["gone-1", "b"]), matching(stream_prefixes=["gone", "b"])):
        assert (await read(event_store, query=query)).positions == [3]
        async with subscribed(event_store, query=query) as subscription:
            await subscription.until("caught_up")
        assert [event.position for event in subscription.received] == [3]


@pytest.mark.parametrize("events", [0, 3])
async def test_open_subscriptions_when_their_stream_is_deleted_for_good(
    event_store, stream_service, events
):
    """Those to the stream end with STREAM_DELETED; queries over it go on, and so do those to
    other streams."""
    if events:
        await append(event_store, append_to("a", *(make_event() for _ in range(events))))
    async with (
        subscribed(event_store, stream="a") as one,
        subscribed(event_store, stream="a", from_head=True, heartbeat_interval=SOON) as two,
        subscribed(event_store, query=matching(streams=["a"])) as query,
        subscribed(event_store) as everything,
        subscribed(event_store, stream="b") as other,
    ):
        open_ones = (one, two, query, everything, other)
        for subscription in open_ones:
            await subscription.until("caught_up")

        await delete(stream_service, "a", permanent=True)

        for subscription in (one, two):
            refusal = await subscription.end()
            assert refusal.reason == "STREAM_DELETED"
        await append(event_store, append_to("b"))
        assert (await other.until_received(1))[0].stream == "b"
        assert (await everything.until_received(events + 1))[-1].stream == "b"
        assert len(query.received) == events
        assert not query.call.done()


async def test_an_open_subscription_outlives_a_plain_deletion_but_not_the_permanent_one(
    event_store, stream_service
):
    await append(event_store, append_to("a"))
    async with subscribed(event_store, stream="a", heartbeat_interval=SOON) as subscription:
        await subscription.until("caught_up")
        await delete(stream_service, "a")
        for _ in range(3):
            await subscription.until("heartbeat")

        stream = await delete(stream_service, "a", permanent=True)

        assert stream.deletion == PERMANENT
        assert (await subscription.end()).reason == "STREAM_DELETED"


async def test_a_subscription_that_lags_ends_when_its_stream_is_deleted_for_good(database_url):
    async with (
        InProcessServer(database_url, feed_bytes=1024 * 1024) as server,
        grpc.aio.insecure_channel(server.address) as channel,
        grpc.aio.insecure_channel(server.address, [("grpc.http2.bdp_probe", 0)]) as slow_channel,
    ):
        event_store = EventStoreServiceStub(channel)
        for _ in range(15):
            events = (make_event(data=PAYLOAD) for _ in range(10))
            await append(event_store, append_to("a", *events))
        subscription = Subscription(
            EventStoreServiceStub(slow_channel).Subscribe(SubscribeRequest(stream="a"))
        )
        await subscription.until_received(1)

        await delete(StreamServiceStub(channel), "a", permanent=True)

        assert (await subscription.end()).reason == "STREAM_DELETED"
        assert len(subscription.received) < 60


# --- at once, whoever else is at work


async def test_who_reads_after_a_deletion_meets_nothing_of_before(event_store, stream_service):
    """Writers, readers and subscribers go on while a stream is deleted again and again."""
    done = asyncio.Event()
    gone = 0
    """Of "a", all up to this position was removed before anything that begins now."""

    async def write() -> None:
        while not done.is_set():
            await append(event_store, append_to("a", make_event("T", "x"), make_event("T", "x")))

    async def look(**source: Any) -> None:
        while not done.is_set():
            known = gone
            answer = await read(event_store, **source)
            assert all(event.position > known for event in answer.events)

    async def follow() -> None:
        while not done.is_set():
            known = gone
            async with subscribed(event_store, query=matching(tags=["x"])) as subscription:
                await subscription.until("caught_up")
            assert all(event.position > known for event in subscription.received)

    async def guard() -> None:
        """Appends under a condition: an event that it fails for is there."""
        condition = fail_if(matching(tags=["x"]))
        while not done.is_set():
            known = gone
            request = append_all(to_stream("b", make_event()), conditions=[condition])
            try:
                await append(event_store, request)
            except grpc.RpcError as error:
                assert unpack(error).failure.condition_failed.position > known

    async def remove_all() -> None:
        nonlocal gone
        for n in range(40):
            await asyncio.sleep(0.02)
            before = await read(event_store, stream="a", limit=0)
            if n % 2:
                await delete(stream_service, "a")
            elif before.stream_version:
                await keep(stream_service, "a", truncate_before=before.stream_version + 1)
            gone = before.head_position
        done.set()

    await asyncio.gather(
        write(),
        write(),
        look(stream="a"),
        look(query=matching(tags=["x"])),
        look(stream="a", direction=BACKWARDS),
        follow(),
        guard(),
        remove_all(),
    )


async def test_versions_and_positions_stay_dense_over_deletions(event_store, stream_service):
    """What is recorded while the stream is deleted again and again, as the answers tell it."""
    answers: list[AppendResponse] = []

    async def write() -> None:
        for _ in range(60):
            answer = await append(event_store, append_to("a", make_event(), make_event()))
            answers.append(answer)

    writing = asyncio.gather(write(), write())
    next_versions = []
    while not writing.done():
        next_versions.append((await delete(stream_service, "a")).next_version)
    await writing

    answers.sort(key=lambda answer: answer.first_position)
    assert [answer.last_position for answer in answers] == list(range(2, 241, 2))
    assert [answer.versions[0].version for answer in answers] == list(range(2, 241, 2))
    assert next_versions == sorted(next_versions)
    assert (await read(event_store)).positions == list(range(next_versions[-1], 241))
