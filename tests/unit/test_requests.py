"""Requests: what is taken, what is refused, and where it says the mistake is."""

import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.message import Message
from hypothesis import example, given
from hypothesis import strategies as st

from treering.v1.event_pb2 import Event, RecordedEvent
from treering.v1.event_store_service_pb2 import (
    DIRECTION_BACKWARDS,
    AppendItem,
    AppendManyRequest,
    AppendRequest,
    GetHeadRequest,
    ReadRequest,
    SubscribeRequest,
)
from treering.v1.query_pb2 import Query as QueryMessage
from treering.v1.stream_service_pb2 import (
    DeleteStreamRequest,
    GetStreamRequest,
    ListStreamsRequest,
    UpdateStreamRequest,
)
from treering_server.core.errors import InvalidRequest, NotFound, Refusal, Violation
from treering_server.core.limits import Limits
from treering_server.core.model import (
    AfterPosition,
    AfterTime,
    AfterVersion,
    Append,
    AppendCondition,
    DeleteStream,
    ExpectedExists,
    ExpectedVersion,
    FromHead,
    ListStreams,
    Read,
    Retention,
    StreamSource,
    Subscribe,
    UntilPosition,
    UntilTime,
    UpdateStream,
)
from treering_server.core.query import EVERYTHING, Query, QueryItem
from treering_server.services import requests

LIMITS = Limits()
SMALL = Limits(
    event_data_bytes=100,
    append_bytes=2_000,
    append_events=5,
    append_streams=3,
    append_conditions=2,
    name_bytes=10,
    event_tags=2,
    metadata_bytes=20,
    query_items=2,
    query_strings=4,
)
ID = "0198f000-0000-7000-8000-000000000001"
OTHER_ID = "0198f000-0000-7000-8000-000000000002"
EVENT = {"id": ID, "type": "T"}
OTHER_EVENT = {"id": OTHER_ID, "type": "T"}
MAX = 2**63 - 1
UNKNOWN = b"\x80\x7d\x01"
"""Field 2,000."""

# Every reader, as one of bytes, with its message.
READERS: dict[type[Message], Callable[[bytes], Any]] = {
    AppendRequest: lambda data: requests.read_append(data, LIMITS),
    AppendManyRequest: lambda data: requests.read_append_many(data, LIMITS),
    ReadRequest: lambda data: requests.read_read(data, LIMITS),
    SubscribeRequest: lambda data: requests.read_subscribe(data, LIMITS),
    GetHeadRequest: lambda data: requests.read_get_head(data, LIMITS),
    GetStreamRequest: lambda data: requests.read_get_stream(data, LIMITS),
    ListStreamsRequest: lambda data: requests.read_list_streams(data, LIMITS),
    UpdateStreamRequest: lambda data: requests.read_update_stream(data, LIMITS),
    DeleteStreamRequest: lambda data: requests.read_delete_stream(data, LIMITS),
}


def append(limits: Limits = LIMITS, **fields: Any) -> Append:
    """Reads an append with these fields."""
    return requests.read_append(AppendRequest(**fields).SerializeToString(), limits)


def append_of(event: dict[str, Any], limits: Limits = LIMITS) -> Append:
    """Reads an append of one event to `a`."""
    return append(limits, appends=[{"stream": "a", "events": [event]}])


def violations(call: Callable[[], Any]) -> list[Violation]:
    """What a request is refused for."""
    with pytest.raises(InvalidRequest) as refused:
        call()
    assert 0 < len(refused.value.violations) <= 16
    for violation in refused.value.violations:
        assert 0 < len(violation.description.encode()) <= 128
        assert violation.description.isascii()
    return list(refused.value.violations)


def fields_refused(call: Callable[[], Any]) -> list[str]:
    """The paths of what a request is refused for, none of which is a limit."""
    found = violations(call)
    assert all(violation.limit is None for violation in found)
    return [violation.field for violation in found]


def limits_refused(call: Callable[[], Any]) -> list[tuple[str, int | None, int | None]]:
    """The limits that a request is refused for: path, limit and what was given."""
    return [(found.field, found.limit, found.actual) for found in violations(call)]


# --- Append


def test_a_whole_append():
    message = AppendRequest(
        appends=[
            {"stream": "order-1", "expected_version": 3, "events": [EVENT | {"tags": ["a", "a"]}]},
            {"stream": "order-2", "expected_exists": False},
            {"stream": "order-1", "events": [OTHER_EVENT]},
        ],
        events=[{"id": OTHER_ID[:-1] + "3", "type": "U"}],
        conditions=[
            {"fail_if_match": {"all": True}, "after_position": 7},
            {"fail_if_match": {"items": [{"types": ["T"], "tags": ["a", "b"]}]}},
        ],
        expected_log_id=ID.upper(),
    )
    data = message.SerializeToString()

    read = requests.read_append(data, LIMITS)

    first, check, second = read.streams
    assert (first.stream, first.expectation) == ("order-1", ExpectedVersion(3))
    assert (check.stream, check.expectation, check.events) == ("order-2", ExpectedExists(False), ())
    assert (second.stream, second.expectation) == ("order-1", None)
    assert [event.id for event in first.events + second.events] == [
        UUID(ID).bytes,
        UUID(OTHER_ID).bytes,
    ]
    assert first.events[0].tags == {"a"}
    assert [event.type for event in read.events] == ["U"]
    assert read.conditions == (
        AppendCondition(EVERYTHING, 7),
        AppendCondition(
            Query((QueryItem(types=frozenset("T"), tags=frozenset(("a", "b"))),)), after_position=0
        ),
    )
    assert read.expected_log_id == UUID(ID)
    assert read.size == len(data)


def test_the_body_is_the_event_as_given():
    event = Event(
        id=ID,
        type="T",
        data=b"\x00\xff",
        content_type="text/plain",
        tags=["b", "a", "b"],
        metadata={"k": "\x00$", "": "empty"},
        time={"seconds": -62_135_596_800, "nanos": 999_999_999},
    )

    read = append(events=[event])

    assert Event.FromString(read.events[0].body) == event


def test_what_the_caller_leaves_out_is_filled_in():
    first, second = append(events=[{"type": "T"}, {"type": "T"}]).events

    body = Event.FromString(first.body)
    assert body.id == str(UUID(bytes=first.id))
    assert UUID(bytes=first.id).version == 7
    assert first.id < second.id
    assert body.content_type == "application/json"


def test_ids_are_recorded_in_lower_case():
    (event,) = append(events=[EVENT | {"id": ID.upper()}]).events

    assert event.id == UUID(ID).bytes
    assert Event.FromString(event.body).id == ID


GOOD_NAMES = [
    "a",
    "x" * 255,
    "😀" * 63,
    "a$",
    " ",
    "\u2028",
    "\u200b",
    "\ue000",
    "\U0010ffff",
    "%'\\",
]


@pytest.mark.parametrize("name", GOOD_NAMES, ids=ascii)
def test_a_name_may_be_anything_else(name):
    event = {"type": name, "tags": [name], "content_type": name, "metadata": {name: name}}

    read = append(appends=[{"stream": name, "events": [event]}])

    assert read.streams[0].stream == read.streams[0].events[0].type == name
    assert read.streams[0].events[0].tags == {name}


CONTROL_CHARACTERS = ["\x00", "\t", "\n", "\x1f", "\x7f", "\x80", "\x85", "\x9f"]


@pytest.mark.parametrize("name", [f"é{c}" for c in CONTROL_CHARACTERS], ids=ascii)
def test_control_characters_in_names(name):
    event = {"type": name, "content_type": name, "tags": ["a", name], "metadata": {name: ""}}

    refused = fields_refused(lambda: append(appends=[{"stream": name, "events": [event]}]))

    path = "appends[0].events[0]"
    assert refused == [
        "appends[0].stream",
        f"{path}.type",
        f"{path}.content_type",
        f"{path}.tags[1]",
        f"{path}.metadata",
    ]


def test_reserved_names():
    event = {"type": "$", "content_type": "$", "tags": ["$a", "b"], "metadata": {"$k": ""}}

    refused = fields_refused(lambda: append(appends=[{"stream": "$a", "events": [event]}]))

    path = "appends[0].events[0]"
    assert refused == ["appends[0].stream", f"{path}.type", f"{path}.tags[0]", f"{path}.metadata"]


def test_empty_names():
    event = {"type": "", "tags": [""]}

    refused = fields_refused(lambda: append(appends=[{"stream": "", "events": [event]}]))

    assert refused == [
        "appends[0].stream",
        "appends[0].events[0].type",
        "appends[0].events[0].tags[0]",
    ]


BAD_UUIDS = [
    "order-1",
    ID.replace("-", ""),
    f"{{{ID}}}",
    f"urn:uuid:{ID}",
    ID[:-1],
    f"{ID}0",
    f"{ID}\n",
    f" {ID}",
    f"g{ID[1:]}",
    f"\uff10{ID[1:]}",
    f"é{ID[2:]}",
    "0198f0000-000-7000-8000-000000000001",
]


@pytest.mark.parametrize("text", BAD_UUIDS)
def test_no_uuids(text):
    assert fields_refused(lambda: append_of(EVENT | {"id": text})) == ["appends[0].events[0].id"]
    assert fields_refused(lambda: append(events=[EVENT], expected_log_id=text)) == [
        "expected_log_id"
    ]


@pytest.mark.parametrize("digit", "0fF")
def test_the_nil_and_the_max_uuid_are_no_event_ids(digit):
    event_id = "-".join(digit * length for length in (8, 4, 4, 4, 12))

    assert fields_refused(lambda: append_of(EVENT | {"id": event_id})) == [
        "appends[0].events[0].id"
    ]


def test_the_same_id_twice_in_one_request():
    again = EVENT | {"id": ID.upper()}

    refused = fields_refused(
        lambda: append(
            appends=[{"stream": "a", "events": [EVENT, again]}, {"stream": "b", "events": [again]}],
            events=[OTHER_EVENT, EVENT],
        )
    )

    assert refused == ["appends[0].events[1].id", "appends[1].events[0].id", "events[1].id"]


@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [
        (-62_135_596_801, 0),
        (253_402_300_800, 0),
        (0, -1),
        (0, 1_000_000_000),
        (MAX, 2**31 - 1),
        (-MAX - 1, 0),
    ],
)
def test_times_out_of_range(seconds, nanos):
    time = {"seconds": seconds, "nanos": nanos}

    assert fields_refused(lambda: append_of(EVENT | {"time": time})) == [
        "appends[0].events[0].time"
    ]


def test_the_last_time_is_in_range():
    append_of(EVENT | {"time": {"seconds": 253_402_300_799, "nanos": 999_999_999}})


def test_an_append_needs_an_event():
    assert fields_refused(append) == [""]
    assert fields_refused(lambda: append(appends=[{"stream": "a", "expected_version": 1}])) == [""]


def test_a_part_needs_events_or_an_expectation():
    refused = fields_refused(lambda: append(appends=[{"stream": "a"}], events=[EVENT]))

    assert refused == ["appends[0]"]
    assert fields_refused(lambda: append(appends=[{"stream": "a"}])) == ["appends[0]"]


@pytest.mark.parametrize("expectation", [{"expected_version": 0}, {"expected_exists": False}])
def test_only_the_first_part_of_a_stream_may_have_an_expectation(expectation):
    parts = [
        {"stream": "a", "events": [EVENT]},
        {"stream": "b", "events": [OTHER_EVENT]},
        {"stream": "a"} | expectation,
    ]

    refused = fields_refused(lambda: append(appends=parts))

    assert refused == [f"appends[2].{next(iter(expectation))}"]


def test_numbers_over_the_highest():
    parts = [{"stream": "a", "expected_version": MAX + 1, "events": [EVENT]}]
    condition = {"fail_if_match": {"all": True}, "after_position": 2**64 - 1}

    refused = fields_refused(lambda: append(appends=parts, conditions=[condition]))

    assert refused == ["appends[0].expected_version", "conditions[0].after_position"]
    parts[0]["expected_version"] = condition["after_position"] = MAX
    append(appends=parts, conditions=[condition])


def test_a_condition_needs_a_query():
    refused = fields_refused(lambda: append(events=[EVENT], conditions=[{"after_position": 1}]))

    assert refused == ["conditions[0].fail_if_match"]


QUERY_MISTAKES = {
    "empty": ({}, [""]),
    "both": ({"all": True, "items": [{"types": ["T"]}]}, [""]),
    "no part": ({"items": [{"types": ["T"]}, {}]}, [".items[1]"]),
    "bad strings": (
        {
            "items": [
                {
                    "streams": ["a", ""],
                    "stream_prefixes": ["\n"],
                    "types": [""],
                    "tags": ["", "b", "\x85"],
                    "categories": [""],
                }
            ]
        },
        [
            ".items[0].streams[1]",
            ".items[0].stream_prefixes[0]",
            ".items[0].types[0]",
            ".items[0].tags[0]",
            ".items[0].tags[2]",
            ".items[0].categories[0]",
        ],
    ),
}


@pytest.mark.parametrize("name", QUERY_MISTAKES)
def test_mistakes_in_queries(name):
    query, paths = QUERY_MISTAKES[name]
    read = ReadRequest(query=query).SerializeToString()
    subscribe = SubscribeRequest(query=query).SerializeToString()
    conditions = [{"fail_if_match": query}]

    for path, call in [
        ("query", lambda: requests.read_read(read, LIMITS)),
        ("query", lambda: requests.read_subscribe(subscribe, LIMITS)),
        ("conditions[0].fail_if_match", lambda: append(events=[EVENT], conditions=conditions)),
    ]:
        assert fields_refused(call) == [path + rest for rest in paths]


def test_all_parts_of_a_query():
    query = {
        "items": [
            {
                "streams": ["$s", "t"],
                "stream_prefixes": ["$p"],
                "types": ["$T", "$T"],
                "tags": ["$t"],
                "categories": ["$c", "has-dash"],
            },
            {"types": ["U"]},
        ]
    }

    read = requests.read_read(ReadRequest(query=query).SerializeToString(), LIMITS)

    assert read.source == Query(
        (
            QueryItem(
                streams=frozenset(("$s", "t")),
                stream_prefixes=frozenset(("$p",)),
                types=frozenset(("$T",)),
                tags=frozenset(("$t",)),
                categories=frozenset(("$c", "has-dash")),
            ),
            QueryItem(types=frozenset("U")),
        )
    )


# --- limits


def many(count: int, **fields: Any) -> list[dict[str, Any]]:
    """Events with different ids."""
    return [{"id": ID[:-4] + f"{n:04x}", "type": "T"} | fields for n in range(count)]


def types(*counts: int) -> list[dict[str, Any]]:
    """Items that ask for so many types each, the same ones again and again."""
    return [{"types": ["T"] * count} for count in counts]


E0 = "appends[0].events[0]"
SMALL_LIMITS = {
    "data": (E0 + ".data", 100, lambda n: append_of(EVENT | {"data": b"x" * n}, SMALL)),
    "events": ("", 5, lambda n: append(SMALL, events=many(n))),
    "events of streams": (
        "",
        5,
        lambda n: append(SMALL, appends=[{"stream": "a", "events": many(n)}]),
    ),
    "streams": (
        "",
        3,
        lambda n: append(
            SMALL,
            appends=[{"stream": f"{i}", "expected_version": 1} for i in range(n)],
            events=[EVENT],
        ),
    ),
    "stream": (
        "appends[0].stream",
        10,
        lambda n: append(SMALL, appends=[{"stream": "x" * n, "events": [EVENT]}]),
    ),
    "type": (E0 + ".type", 10, lambda n: append_of(EVENT | {"type": "x" * (n - 3) + "€"}, SMALL)),
    "tag": (E0 + ".tags[1]", 10, lambda n: append_of(EVENT | {"tags": ["a", "x" * n]}, SMALL)),
    "content type": (
        E0 + ".content_type",
        10,
        lambda n: append_of(EVENT | {"content_type": "x" * n}, SMALL),
    ),
    "tags": (
        E0 + ".tags",
        2,
        lambda n: append_of(EVENT | {"tags": [f"{i}" for i in range(n)] * 2}, SMALL),
    ),
    "metadata": (
        E0 + ".metadata",
        20,
        lambda n: append_of(EVENT | {"metadata": {"ab": "€", "c": "x" * (n - 6)}}, SMALL),
    ),
    "conditions": (
        "",
        2,
        lambda n: append(SMALL, events=[EVENT], conditions=[{"fail_if_match": {"all": True}}] * n),
    ),
    "items": (
        "conditions[1].fail_if_match.items",
        2,
        lambda n: append(
            replace(SMALL, query_strings=100),
            events=[EVENT],
            conditions=[
                {"fail_if_match": {"all": True}},
                {"fail_if_match": {"items": types(*[1] * n)}},
            ],
        ),
    ),
    "strings": (
        "",
        4,
        lambda n: append(
            SMALL,
            events=[EVENT],
            conditions=[
                {"fail_if_match": {"items": types(2)}},
                {"fail_if_match": {"items": types(1, n - 3)}},
            ],
        ),
    ),
    "strings of a read": (
        "",
        4,
        lambda n: requests.read_read(
            ReadRequest(query={"items": types(2, n - 2)}).SerializeToString(), SMALL
        ),
    ),
    "strings of a subscription": (
        "",
        4,
        lambda n: requests.read_subscribe(
            SubscribeRequest(query={"items": types(n)}).SerializeToString(), SMALL
        ),
    ),
    "a name in a query": (
        "query.items[0].types[0]",
        10,
        lambda n: requests.read_read(
            ReadRequest(query={"items": [{"types": ["x" * n]}]}).SerializeToString(), SMALL
        ),
    ),
    "the stream of a read": (
        "stream",
        10,
        lambda n: requests.read_read(ReadRequest(stream="x" * n).SerializeToString(), SMALL),
    ),
    "the stream asked for": (
        "stream",
        10,
        lambda n: requests.read_get_stream(
            GetStreamRequest(stream="x" * n).SerializeToString(), SMALL
        ),
    ),
    "a prefix": (
        "prefix",
        10,
        lambda n: requests.read_list_streams(
            ListStreamsRequest(prefix="x" * n).SerializeToString(), SMALL
        ),
    ),
}


@pytest.mark.parametrize("name", SMALL_LIMITS)
def test_a_limit(name):
    field, limit, call = SMALL_LIMITS[name]

    call(limit)

    assert limits_refused(lambda: call(limit + 1)) == [(field, limit, limit + 1)]


def test_the_size_of_an_append():
    request = AppendRequest(events=many(1, data=b"x" * 90))
    size = request.ByteSize()

    requests.read_append(request.SerializeToString(), replace(SMALL, append_bytes=size))

    too_small = replace(SMALL, append_bytes=size - 1)
    assert limits_refused(lambda: requests.read_append(request.SerializeToString(), too_small)) == [
        ("", size - 1, size)
    ]


def test_limits_of_the_whole_request_come_first():
    parts = [{"stream": "0", "events": [EVENT | {"type": "x" * 11}]}]
    parts += [{"stream": f"{n}", "expected_version": 0} for n in range(1, 4)]
    conditions = [{"fail_if_match": {"items": types(5)}}]

    refused = limits_refused(lambda: append(SMALL, appends=parts, conditions=conditions))

    assert refused == [("", 3, 4), ("", 4, 5), ("appends[0].events[0].type", 10, 11)]


def test_what_lies_past_a_limit_is_counted_but_not_looked_at():
    bad = {"stream": "", "events": [{"type": ""}]}
    five = {"stream": "a", "events": many(5)}

    refused = limits_refused(lambda: append(SMALL, appends=[five, five, bad], events=[{}]))

    assert refused == [("", 5, 12)]


def test_a_name_can_be_wrong_in_two_ways():
    found = violations(lambda: append_of(EVENT | {"type": "$" * 9 + "\x00\x01"}, SMALL))

    assert [violation.field for violation in found] == [E0 + ".type"] * 3
    assert [violation.limit for violation in found] == [10, None, None]


def test_the_first_16_violations_are_told():
    events = [EVENT | {"id": "", "type": ""} for _ in range(40)]

    refused = fields_refused(lambda: append(events=events, expected_log_id="x"))

    assert refused == [f"events[{n}].type" for n in range(16)]


def test_no_more_than_16_violations_are_told_with_those_of_the_whole_request():
    conditions = [{"fail_if_match": {"items": types(5)}}] * 3

    found = violations(
        lambda: append(
            replace(SMALL, append_events=15), events=many(15, type=""), conditions=conditions
        )
    )

    events = [f"events[{n}].type" for n in range(14)]
    assert [violation.field for violation in found] == ["", "", *events]


def test_violations_come_in_the_order_of_the_request():
    refused = fields_refused(
        lambda: append(
            appends=[{"stream": "", "expected_version": MAX + 1, "events": [{"id": "x"}]}],
            events=[EVENT | {"tags": [""]}],
            conditions=[{}],
            expected_log_id="x",
        )
    )

    assert refused == [
        "appends[0].stream",
        "appends[0].expected_version",
        "appends[0].events[0].id",
        "appends[0].events[0].type",
        "events[0].tags[0]",
        "conditions[0].fail_if_match",
        "expected_log_id",
    ]


# --- Read


def read(**fields: Any) -> Read:
    """Reads a `ReadRequest` with these fields."""
    return requests.read_read(ReadRequest(**fields).SerializeToString(), LIMITS)


def test_the_simplest_reads():
    assert read(stream="$a") == Read(StreamSource("$a"))
    assert read(query={"all": True}) == Read(EVERYTHING)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"direction": 1}, Read(StreamSource("a"))),
        ({"direction": 2}, Read(StreamSource("a"), backwards=True)),
        ({"after_position": 0}, Read(StreamSource("a"), after=AfterPosition(0))),
        ({"after_position": MAX}, Read(StreamSource("a"), after=AfterPosition(MAX))),
        (
            {"after_position": 2**64 - 1, "direction": 2},
            Read(StreamSource("a"), backwards=True, after=AfterPosition(MAX)),
        ),
        (
            {"after_position": 0, "direction": 2},
            Read(StreamSource("a"), backwards=True, after=AfterPosition(0)),
        ),
        ({"after_version": 3}, Read(StreamSource("a"), after=AfterVersion(3))),
        (
            {"after_time": {"seconds": 1, "nanos": 1}},
            Read(StreamSource("a"), after=AfterTime(1_000_000_001)),
        ),
        (
            {"after_time": {"seconds": -1, "nanos": 1}},
            Read(StreamSource("a"), after=AfterTime(-999_999_999)),
        ),
        ({"until_position": 0}, Read(StreamSource("a"), until=UntilPosition(0))),
        ({"until_time": {}}, Read(StreamSource("a"), until=UntilTime(0))),
        ({"limit": 0}, Read(StreamSource("a"), limit=0)),
        ({"limit": 2**64 - 1}, Read(StreamSource("a"), limit=MAX)),
        ({"min_position": MAX}, Read(StreamSource("a"), min_position=MAX)),
        ({"expected_log_id": ID.upper()}, Read(StreamSource("a"), expected_log_id=UUID(ID))),
    ],
    ids=str,
)
def test_reads(fields, expected):
    assert read(stream="a", **fields) == expected


@pytest.mark.parametrize(
    ("fields", "paths"),
    [
        ({}, ["source"]),
        ({"stream": ""}, ["stream"]),
        ({"stream": "\x00"}, ["stream"]),
        ({"stream": "a", "direction": 3}, ["direction"]),
        ({"stream": "a", "direction": -1}, ["direction"]),
        ({"query": {"all": True}, "after_version": 0}, ["after_version"]),
        ({"stream": "a", "after_position": MAX + 1}, ["after_position"]),
        ({"stream": "a", "after_version": MAX + 1}, ["after_version"]),
        ({"stream": "a", "after_version": MAX + 1, "direction": 2}, ["after_version"]),
        ({"stream": "a", "until_position": MAX + 1}, ["until_position"]),
        ({"stream": "a", "min_position": MAX + 1}, ["min_position"]),
        ({"stream": "a", "after_time": {"nanos": -1}}, ["after_time"]),
        ({"stream": "a", "until_time": {"seconds": 2**62}}, ["until_time"]),
        ({"stream": "a", "expected_log_id": "x"}, ["expected_log_id"]),
        (
            {
                "direction": 9,
                "after_version": MAX + 1,
                "until_position": MAX + 1,
                "min_position": MAX + 1,
                "expected_log_id": "x",
                "log": "x",
            },
            [
                "source",
                "direction",
                "after_version",
                "until_position",
                "min_position",
                "expected_log_id",
            ],
        ),
    ],
    ids=str,
)
def test_reads_refused(fields, paths):
    assert fields_refused(lambda: read(**fields)) == paths


# --- Subscribe


def subscribe(**fields: Any) -> Subscribe:
    """Reads a `SubscribeRequest` with these fields."""
    return requests.read_subscribe(SubscribeRequest(**fields).SerializeToString(), LIMITS)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Subscribe(StreamSource("a"), AfterPosition(0), 10.0)),
        ({"after_position": 5}, Subscribe(StreamSource("a"), AfterPosition(5), 10.0)),
        ({"after_version": 0}, Subscribe(StreamSource("a"), AfterVersion(0), 10.0)),
        ({"from_head": True}, Subscribe(StreamSource("a"), FromHead(), 10.0)),
        ({"after_time": {"seconds": 1}}, Subscribe(StreamSource("a"), AfterTime(10**9), 10.0)),
        (
            {"heartbeat_interval": {"nanos": 100_000_000}},
            Subscribe(StreamSource("a"), AfterPosition(0), 0.1),
        ),
        (
            {"heartbeat_interval": {"seconds": 3_600}},
            Subscribe(StreamSource("a"), AfterPosition(0), 3600.0),
        ),
        (
            {"after_position": 5, "after_event_id": ID.upper(), "expected_log_id": OTHER_ID},
            Subscribe(StreamSource("a"), AfterPosition(5), 10.0, UUID(OTHER_ID), UUID(ID)),
        ),
    ],
    ids=str,
)
def test_subscriptions(fields, expected):
    assert subscribe(stream="a", **fields) == expected


@pytest.mark.parametrize(
    ("fields", "paths"),
    [
        ({"query": {}}, ["query"]),
        ({"stream": ""}, ["stream"]),
        ({"query": {"all": True}, "after_version": 1}, ["after_version"]),
        ({"from_head": False}, ["from_head"]),
        ({"after_position": MAX + 1}, ["after_position"]),
        ({"after_version": MAX + 1}, ["after_version"]),
        ({"after_time": {"nanos": 10**9}}, ["after_time"]),
        ({"heartbeat_interval": {}}, ["heartbeat_interval"]),
        ({"heartbeat_interval": {"nanos": 99_999_999}}, ["heartbeat_interval"]),
        ({"heartbeat_interval": {"seconds": 3600, "nanos": 1}}, ["heartbeat_interval"]),
        ({"heartbeat_interval": {"seconds": 1, "nanos": -1}}, ["heartbeat_interval"]),
        ({"heartbeat_interval": {"nanos": 10**9}}, ["heartbeat_interval"]),
        ({"heartbeat_interval": {"seconds": -1, "nanos": -1}}, ["heartbeat_interval"]),
        ({"heartbeat_interval": {"seconds": MAX, "nanos": 2**31 - 1}}, ["heartbeat_interval"]),
        ({"expected_log_id": "x"}, ["expected_log_id"]),
        ({"after_event_id": ID}, ["after_event_id"]),
        ({"after_event_id": ID, "from_head": True}, ["after_event_id"]),
        ({"after_event_id": ID, "after_version": 1}, ["after_event_id"]),
        ({"after_event_id": ID, "after_position": 0}, ["after_event_id"]),
        ({"after_event_id": "x", "after_position": 1}, ["after_event_id"]),
    ],
    ids=str,
)
def test_subscriptions_refused(fields, paths):
    source = {} if "stream" in fields or "query" in fields else {"stream": "a"}

    assert fields_refused(lambda: subscribe(**source, **fields)) == paths


def test_a_subscription_needs_a_source():
    assert fields_refused(subscribe) == ["source"]


# --- GetHead, GetStream, ListStreams


def test_the_stream_asked_for():
    assert READERS[GetStreamRequest](GetStreamRequest(stream="$a").SerializeToString()) == "$a"
    assert fields_refused(lambda: READERS[GetStreamRequest](b"")) == ["stream"]


def list_streams(**fields: Any) -> ListStreams:
    """Reads a `ListStreamsRequest` with these fields."""
    return requests.read_list_streams(ListStreamsRequest(**fields).SerializeToString(), LIMITS)


def test_a_page_of_streams():
    assert list_streams() == ListStreams("", 100, None, False)
    assert list_streams(prefix="$a", page_size=7, show_deleted=True) == ListStreams(
        "$a", 7, None, True
    )
    assert list_streams(page_size=1_000).page_size == 1_000
    assert list_streams(page_size=2**31 - 1).page_size == 1_000
    assert fields_refused(lambda: list_streams(page_size=-1)) == ["page_size"]
    assert fields_refused(lambda: list_streams(prefix="a\n")) == ["prefix"]


@pytest.mark.parametrize(
    ("prefix", "name"), [("", "é-1"), ("a", "a"), ("a-", "a-😀"), ("a", "a=%")]
)
def test_a_page_token_goes_on_after_a_name(prefix, name):
    token = requests.next_page_token(prefix, name)

    assert token.isascii()
    assert list_streams(prefix=prefix, page_token=token).after_name == name


BAD_TOKENS = [
    "x",
    "a-1",
    "!",
    "AAAA",
    "💥",
    "=" * 2000,
    requests.next_page_token("", "a-1"),
    requests.next_page_token("a", "b-1"),
    requests.next_page_token("a", "a\0b"),
    requests.next_page_token("a-", "a-1"),
    requests.next_page_token("a", "a-1") + "\n",
    requests.next_page_token("a", "a-1").rstrip("="),
    "/" + requests.next_page_token("a", "a-1"),
    base64.urlsafe_b64encode(b"a\0\xff").decode(),
]


@pytest.mark.parametrize("token", BAD_TOKENS)
def test_a_token_of_another_prefix_or_none_at_all(token):
    assert fields_refused(lambda: list_streams(prefix="a", page_token=token)) == ["page_token"]


# --- UpdateStream


def update_stream(**fields: Any) -> UpdateStream:
    """Reads an `UpdateStreamRequest` with these fields."""
    return requests.read_update_stream(UpdateStreamRequest(**fields).SerializeToString(), LIMITS)


@pytest.mark.parametrize(
    ("retention", "expected"),
    [
        (None, Retention()),
        ({}, Retention()),
        ({"max_count": 1}, Retention(max_count=1)),
        ({"max_count": MAX}, Retention(max_count=MAX)),
        ({"truncate_before": MAX}, Retention(truncate_before=MAX)),
        ({"max_age": {"seconds": 2, "nanos": 3_000}}, Retention(max_age=2_000_003)),
        ({"max_age": {"seconds": 315_576_000_000}}, Retention(max_age=315_576_000_000_000_000)),
        # Events have whole microseconds.
        ({"max_age": {"nanos": 1_999}}, Retention(max_age=1)),
        ({"max_age": {"nanos": 1}}, Retention(max_age=1)),
        (
            {"max_age": {"seconds": 1}, "max_count": 2, "truncate_before": 3},
            Retention(1_000_000, 2, 3),
        ),
    ],
    ids=str,
)
def test_retentions(retention, expected):
    assert update_stream(stream="a", retention=retention) == UpdateStream("a", expected)


@pytest.mark.parametrize(
    ("fields", "paths"),
    [
        ({}, ["stream"]),
        ({"stream": "a\n"}, ["stream"]),
        ({"stream": "$a"}, ["stream"]),
        ({"stream": "a", "retention": {"max_count": 0}}, ["retention.max_count"]),
        ({"stream": "a", "retention": {"max_count": MAX + 1}}, ["retention.max_count"]),
        ({"stream": "a", "retention": {"truncate_before": MAX + 1}}, ["retention.truncate_before"]),
        *(
            ({"stream": "a", "retention": {"max_age": age}}, ["retention.max_age"])
            for age in (
                {},
                {"seconds": -1},
                {"nanos": -1},
                {"seconds": 1, "nanos": -1},
                {"seconds": -1, "nanos": 999_999_999},
                {"nanos": 10**9},
                {"seconds": 315_576_000_001},
                {"seconds": MAX, "nanos": 2**31 - 1},
            )
        ),
        (
            {
                "retention": {"truncate_before": MAX + 1, "max_count": 0, "max_age": {}},
                "log": "x",
            },
            ["stream", "retention.max_age", "retention.max_count", "retention.truncate_before"],
        ),
    ],
    ids=str,
)
def test_retentions_refused(fields, paths):
    assert fields_refused(lambda: update_stream(**fields)) == paths


# --- DeleteStream


def delete_stream(**fields: Any) -> DeleteStream:
    """Reads a `DeleteStreamRequest` with these fields."""
    return requests.read_delete_stream(DeleteStreamRequest(**fields).SerializeToString(), LIMITS)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, DeleteStream("a", None, permanent=False)),
        ({"permanent": True}, DeleteStream("a", None, permanent=True)),
        ({"expected_version": 0}, DeleteStream("a", ExpectedVersion(0), permanent=False)),
        ({"expected_version": MAX}, DeleteStream("a", ExpectedVersion(MAX), permanent=False)),
        (
            {"expected_exists": True, "permanent": True},
            DeleteStream("a", ExpectedExists(exists=True), permanent=True),
        ),
    ],
    ids=str,
)
def test_deletions(fields, expected):
    assert delete_stream(stream="a", **fields) == expected


@pytest.mark.parametrize(
    ("fields", "paths"),
    [
        ({}, ["stream"]),
        ({"stream": "\x00"}, ["stream"]),
        ({"stream": "$a", "permanent": True}, ["stream"]),
        ({"stream": "a", "expected_version": MAX + 1}, ["expected_version"]),
        ({"stream": "a", "expected_exists": False}, ["expected_exists"]),
        ({"expected_exists": False, "log": "x"}, ["stream", "expected_exists"]),
    ],
    ids=str,
)
def test_deletions_refused(fields, paths):
    assert fields_refused(lambda: delete_stream(**fields)) == paths


def test_names_of_changed_streams_are_bounded():
    for refused in (update_stream, delete_stream):
        [(field, limit, actual)] = limits_refused(lambda call=refused: call(stream="a" * 2_000))
        assert (field, limit, actual) == ("stream", LIMITS.name_bytes, 2_000)


# --- the log


@pytest.mark.parametrize(
    "message",
    [
        AppendRequest(events=[EVENT], log="x"),
        ReadRequest(stream="a", log="x"),
        SubscribeRequest(stream="a", log="x"),
        GetHeadRequest(log="x"),
        GetStreamRequest(stream="a", log="x"),
        ListStreamsRequest(log="x"),
        UpdateStreamRequest(stream="a", log="x"),
        DeleteStreamRequest(stream="a", log="x"),
    ],
    ids=lambda message: message.DESCRIPTOR.name,
)
def test_another_log_is_not_found(message):
    with pytest.raises(NotFound) as refused:
        READERS[type(message)](message.SerializeToString())

    assert (refused.value.what, refused.value.name) == ("log", "x")


def test_what_is_malformed_is_told_before_another_log():
    assert fields_refused(lambda: append(log="x")) == [""]


# --- AppendMany


def append_many(*items: AppendItem) -> list[requests.AppendItem]:
    """Reads an `AppendManyRequest` with these items."""
    data = AppendManyRequest(items=items).SerializeToString()
    return requests.read_append_many(data, LIMITS)


def test_many_appends():
    good = AppendRequest(events=[EVENT])
    items = append_many(
        AppendItem(request_id=2**64 - 1, append=good),
        AppendItem(append=AppendRequest(appends=[{"stream": "", "events": [EVENT]}])),
        AppendItem(request_id=1, append=AppendRequest(events=[EVENT], log="x")),
        AppendItem(request_id=1, append=AppendRequest()),
        AppendItem(request_id=2, append=good),
    )

    assert [item.request_id for item in items] == [2**64 - 1, 0, 1, 1, 2]
    first, invalid, not_found, empty, last = (item.append for item in items)
    assert isinstance(first, Append) and isinstance(last, Append)
    assert first == last
    assert first.size == good.ByteSize()
    assert isinstance(invalid, InvalidRequest)
    assert [violation.field for violation in invalid.violations] == ["appends[0].stream"]
    assert isinstance(not_found, NotFound)
    assert isinstance(empty, InvalidRequest)


def test_no_items_are_no_mistake():
    assert append_many() == []


def test_an_item_needs_an_append():
    good = AppendItem(append=AppendRequest(events=[EVENT]))

    assert fields_refused(lambda: append_many(good, AppendItem(), AppendItem())) == [
        "items[1].append",
        "items[2].append",
    ]
    assert len(fields_refused(lambda: append_many(*[AppendItem()] * 100))) == 16


def test_an_append_over_its_size_is_its_result():
    request = AppendRequest(events=many(5, data=b"x" * 1_000_000))

    item, good = append_many(
        AppendItem(append=request), AppendItem(append=AppendRequest(events=[EVENT]))
    )

    assert isinstance(item.append, InvalidRequest)
    assert item.append.over_limits_only
    assert item.append.violations[0].actual == request.ByteSize()
    assert isinstance(good.append, Append)


def test_unknown_fields_inside_an_append_are_its_result():
    request = AppendRequest(events=[EVENT, OTHER_EVENT])
    request.events[1].MergeFromString(UNKNOWN)
    good = AppendItem(append=AppendRequest(events=[EVENT]))

    before, item, after = append_many(good, AppendItem(request_id=7, append=request), good)

    assert item.request_id == 7
    assert isinstance(item.append, InvalidRequest)
    assert [violation.field for violation in item.append.violations] == ["events[1]"]
    assert isinstance(before.append, Append) and isinstance(after.append, Append)


@pytest.mark.parametrize("place", ["", "items[1]"])
def test_unknown_fields_around_an_append_end_the_call(place):
    item = AppendItem(append=AppendRequest(events=[EVENT]))
    message = AppendManyRequest(items=[item, item])
    message.items[0].append.MergeFromString(UNKNOWN)
    (message.items[1] if place else message).MergeFromString(UNKNOWN)

    assert fields_refused(
        lambda: requests.read_append_many(message.SerializeToString(), LIMITS)
    ) == [place]


# --- unknown fields and bytes

FULL_MESSAGES: list[Message] = [
    AppendRequest(
        appends=[{"stream": "s", "events": [EVENT | {"metadata": {"k": "v"}, "time": {}}]}],
        events=[OTHER_EVENT],
        conditions=[
            {"fail_if_match": {"items": [{"types": ["T"]}, {"tags": ["t"]}]}},
            {"fail_if_match": {"all": True}},
        ],
    ),
    ReadRequest(query={"items": [{"types": ["T"]}]}, after_time={}, until_time={}, limit=1),
    ReadRequest(
        stream="s", direction=DIRECTION_BACKWARDS, after_version=4, until_position=1, min_position=1
    ),
    SubscribeRequest(query={"items": [{"types": ["T"]}]}, heartbeat_interval={"seconds": 1}),
    SubscribeRequest(stream="s", after_position=1, after_event_id=ID, expected_log_id=ID),
    GetHeadRequest(),
    GetStreamRequest(stream="s"),
    ListStreamsRequest(prefix="s", page_size=1, show_deleted=True),
    UpdateStreamRequest(
        stream="s",
        retention={"max_age": {"seconds": 1, "nanos": 1}, "max_count": 1, "truncate_before": 1},
    ),
    DeleteStreamRequest(stream="s", expected_version=1, permanent=True),
]


def messages_in(message: Message, path: str = "") -> list[tuple[str, Message]]:
    """A message and all within it, map entries aside, with their paths."""
    found = [(path, message)]
    for field, value in message.ListFields():
        inner = f"{path}.{field.name}".lstrip(".")
        if isinstance(value, Message):
            found += messages_in(value, inner)
        elif field.message_type and not field.message_type.GetOptions().map_entry:
            for index, part in enumerate(value):
                found += messages_in(part, f"{inner}[{index}]")
    return found


UNKNOWN_FIELDS = [
    UNKNOWN,
    b"\x81\x7d" + bytes(8),
    b"\x82\x7d\x00",
    b"\x83\x7d\x84\x7d",
    b"\x85\x7d" + bytes(4),
    b"\xf8\xff\xff\xff\x0f\x00",
    b"\x0d" + bytes(4),  # Field 1 in a form that it has nowhere.
]


@pytest.mark.parametrize("unknown", UNKNOWN_FIELDS, ids=bytes.hex)
@pytest.mark.parametrize(
    ("number", "path"),
    [(n, path) for n, message in enumerate(FULL_MESSAGES) for path, _ in messages_in(message)],
)
def test_an_unknown_field_is_refused_at_every_depth(number, path, unknown):
    message = type(FULL_MESSAGES[number])()
    message.CopyFrom(FULL_MESSAGES[number])
    dict(messages_in(message))[path].MergeFromString(unknown)

    assert fields_refused(lambda: READERS[type(message)](message.SerializeToString())) == [path]


@pytest.mark.parametrize("message", FULL_MESSAGES, ids=lambda message: message.DESCRIPTOR.name)
def test_the_full_messages_are_taken(message):
    READERS[type(message)](message.SerializeToString())


@pytest.mark.parametrize("field", ["position", "stream", "version", "recorded_at"])
def test_nobody_may_forge_a_place(field):
    value: Any = {"stream": "s", "recorded_at": {"seconds": 1}}.get(field, 7)
    event = Event(**EVENT)
    event.MergeFromString(RecordedEvent(**{field: value}).SerializeToString())

    assert fields_refused(lambda: append(events=[event])) == ["events[0]"]


def test_many_unknown_fields_are_told_up_to_16():
    message = AppendRequest(events=[EVENT] * 30)
    for event in message.events:
        event.MergeFromString(UNKNOWN)

    refused = fields_refused(lambda: READERS[AppendRequest](message.SerializeToString()))

    assert refused == [f"events[{n}]" for n in range(16)]
    assert fields_refused(lambda: READERS[AppendRequest](UNKNOWN * 100)) == [""] * 16


def test_an_unknown_field_after_very_many_messages_is_refused_too():
    message = AppendRequest(events=[{"type": "T"}] * 20_000)
    message.events[-1].MergeFromString(UNKNOWN)

    assert fields_refused(lambda: READERS[AppendRequest](message.SerializeToString())) == [""]


NO_MESSAGES = [
    b"\xff",
    b"\x00\x01",
    b"\x80",
    b"\x7a\x05ab",
    b"\x7e",
    b"\x83\x7d",
    b"\x84\x7d",
    b"\x7a\xff\xff\xff\xff\x07",
    b"\x83\x7d" * 1000 + b"\x84\x7d" * 1000,
]


@pytest.mark.parametrize("kind", READERS, ids=lambda kind: kind.DESCRIPTOR.name)
@pytest.mark.parametrize("data", NO_MESSAGES, ids=lambda data: data[:4].hex())
def test_bytes_that_are_no_message(kind, data):
    assert fields_refused(lambda: READERS[kind](data)) == [""]


@pytest.mark.parametrize("kind", READERS, ids=lambda kind: kind.DESCRIPTOR.name)
def test_text_that_is_no_utf8(kind):
    bad_log = b"\x7a\x02\xc3\x28"
    if kind is AppendManyRequest:
        bad_log = b"\x0a\x06\x12\x04" + bad_log

    assert fields_refused(lambda: READERS[kind](bad_log)) == [""]


def check_refusal(call: Callable[[], Any]) -> None:
    """Whatever is asked, it is answered or refused by the book."""
    try:
        call()
    except InvalidRequest as refusal:
        assert 0 < len(refusal.violations) <= 16
        assert all(0 < len(v.description.encode()) <= 128 for v in refusal.violations)
        assert all(len(v.field.encode()) <= 100 for v in refusal.violations)
    except Refusal:
        pass


@given(st.sampled_from(list(READERS)), st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(kind, data):
    check_refusal(lambda: READERS[kind](data))


@given(
    st.sampled_from(FULL_MESSAGES),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 4), st.binary(max_size=4)), max_size=4),
)
@example(FULL_MESSAGES[0], [])
def test_damaged_messages_are_read_or_refused(message, damages):
    data = bytearray(message.SerializeToString())
    for at, removed, added in damages:
        data[at : at + removed] = added

    check_refusal(lambda: READERS[type(message)](bytes(data)))
    item = b"\x12" + bytes([len(data) & 0x7F | 0x80, len(data) >> 7]) + data
    many_items = b"\x0a" + bytes([len(item) & 0x7F | 0x80, len(item) >> 7]) + item
    check_refusal(lambda: READERS[AppendManyRequest](many_items))


any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@given(
    st.builds(
        AppendRequest,
        appends=st.lists(
            st.fixed_dictionaries(
                {"stream": any_text},
                optional={
                    "expected_version": st.integers(0, 2**64 - 1),
                    "events": st.lists(
                        st.fixed_dictionaries(
                            {"type": any_text},
                            optional={"id": any_text, "tags": st.lists(any_text, max_size=3)},
                        ),
                        max_size=2,
                    ),
                },
            ),
            max_size=4,
        ),
        conditions=st.lists(
            st.fixed_dictionaries({"fail_if_match": st.builds(QueryMessage, all=st.booleans())}),
            max_size=2,
        ),
    )
)
def test_what_is_taken_is_what_was_sent(message):
    try:
        read = requests.read_append(message.SerializeToString(), LIMITS)
    except Refusal:
        return

    assert [part.stream for part in read.streams] == [part.stream for part in message.appends]
    sent = [(part.stream, event) for part in message.appends for event in part.events]
    for (stream, event), (sent_stream, sent_event) in zip(read.placed_events(), sent, strict=True):
        body = Event.FromString(event.body)
        assert (stream, body.type, list(body.tags)) == (
            sent_stream,
            sent_event.type,
            list(sent_event.tags),
        )


# --- limits that contradict each other


@pytest.mark.parametrize(
    "wrong",
    [
        {"event_tags": 0},
        {"event_data_bytes": 5 * 1024 * 1024},
        {"metadata_bytes": 5 * 1024 * 1024},
        {"query_items": 2_000},
        {"name_bytes": 5_000},
    ],
    ids=str,
)
def test_limits_that_contradict_each_other(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Limits(**wrong)
