"""The conformance cases in Python: `python conformance.py write|check|repeat`, at TREERING_SERVER.

See client/conformance/README.md. By the stubs, since the cases are about what they carry.
"""

import base64
import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import grpc

from treering.v1 import event_pb2, failure_pb2, query_pb2
from treering.v1 import event_store_service_pb2 as pb
from treering.v1.event_store_service_pb2_grpc import EventStoreServiceStub

ROOT = Path(__file__).resolve().parents[2]
CASES = json.loads((ROOT / "client/conformance/cases.json").read_text("utf-8"))
ALL = query_pb2.Query(all=True)
DEADLINE_SECONDS = 60.0


def content(data: dict[str, Any]) -> bytes:
    if "text" in data:
        return data["text"].encode()
    return base64.b64decode(data["base64"]) * data.get("times", 1)


def fields(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a message from those of a case."""
    given = dict(values)
    if "data" in given:
        given["data"] = content(given["data"])
    if "time" in given:
        given["time"] = {"seconds": int(given["time"]["seconds"]), "nanos": given["time"]["nanos"]}
    return given


def expected_events() -> list[event_pb2.RecordedEvent]:
    """What is to be read."""
    versions: dict[str, int] = defaultdict(int)
    events = []
    for position, case in enumerate(CASES["events"], start=1):
        event = event_pb2.RecordedEvent(**fields(case["event"] | case.get("recorded", {})))
        event.position = position
        if "stream" in case:
            versions[case["stream"]] += 1
            event.stream, event.version = case["stream"], versions[case["stream"]]
        events.append(event)
    return events


def append_all(store: EventStoreServiceStub, *, are_there: bool) -> None:
    for case, expected in zip(CASES["events"], expected_events(), strict=True):
        event = event_pb2.Event(**fields(case["event"]))
        request = pb.AppendRequest()
        if expected.stream:
            part = request.appends.add(stream=expected.stream, events=[event])
            part.expected_version = expected.version - 1
        else:
            request.events.append(event)
        answer = store.Append(request, timeout=DEADLINE_SECONDS)
        versions = [(each.stream, each.version) for each in answer.versions]
        same(case["case"], answer.first_position, expected.position)
        same(case["case"], answer.last_position, expected.position)
        same(case["case"], versions, [(expected.stream, expected.version)][: len(request.appends)])
        same(case["case"], answer.duplicate, are_there)


def read(
    store: EventStoreServiceStub, **parts: Any
) -> tuple[list[event_pb2.RecordedEvent], pb.ReadResponse]:
    responses = list(store.Read(pb.ReadRequest(**parts), timeout=DEADLINE_SECONDS))
    return [event for response in responses for event in response.events], responses[-1]


def check(store: EventStoreServiceStub) -> None:
    expected = expected_events()
    events, state = read(store, query=ALL)
    same("events", len(events), len(expected))
    same("head", state.head_position, len(expected))
    for case, found, wanted in zip(CASES["events"], events, expected, strict=True):
        same(case["case"], found.HasField("recorded_at"), True)
        found.ClearField("recorded_at")
        same(case["case"], found, wanted)
    for stream in {event.stream for event in expected if event.stream}:
        positions = [event.position for event in expected if event.stream == stream]
        events, state = read(store, stream=stream)
        same(stream, [event.position for event in events], positions)
        same(stream, state.stream_version, len(positions))
    check_numbers(store, expected)


def check_numbers(store: EventStoreServiceStub, expected: list[event_pb2.RecordedEvent]) -> None:
    stream = expected[0].stream
    version = sum(event.stream == stream for event in expected)
    for expectation in CASES["expectations"]:
        conflict = failure_pb2.VersionConflict(
            stream=stream, actual_version=version, **numbers(expectation)
        )
        try:
            store.Append(refused(stream, expectation), timeout=DEADLINE_SECONDS)
        except grpc.RpcError as error:
            same(str(expectation), failure_of(error).version_conflict, conflict)
        else:
            raise AssertionError(f"{expectation} is met")

    ids = [int(each) for each in CASES["request_ids"]]
    append = refused(stream, CASES["expectations"][0])
    items = [pb.AppendItem(request_id=each, append=append) for each in ids]
    responses = store.AppendMany(
        iter([pb.AppendManyRequest(items=items)]), timeout=DEADLINE_SECONDS
    )
    results = [result for response in responses for result in response.results]
    same("request ids", [result.request_id for result in results], ids)
    for result in results:
        same("request ids", result.failure.reason, failure_pb2.FAILURE_REASON_VERSION_CONFLICT)

    for limit in map(int, CASES["limits"]):
        events, _ = read(store, query=ALL, limit=limit)
        same(f"limit {limit}", len(events), min(limit, len(expected)))
    for before in map(int, CASES["before_positions"]):
        events, _ = read(
            store, query=ALL, direction=pb.DIRECTION_BACKWARDS, after_position=before, limit=1
        )
        same(f"before {before}", [event.position for event in events], [len(expected)])


def numbers(expectation: dict[str, Any]) -> dict[str, Any]:
    return {
        name: int(value) if name == "expected_version" else value
        for name, value in expectation.items()
    }


def refused(stream: str, expectation: dict[str, Any]) -> pb.AppendRequest:
    """An append whose expectation is not met."""
    event = event_pb2.Event(id="0192f0c1-ffff-7000-8000-000000000000", type="Refused")
    part = pb.StreamAppend(stream=stream, events=[event], **numbers(expectation))
    return pb.AppendRequest(appends=[part])


def failure_of(error: grpc.RpcError) -> failure_pb2.Failure:
    from google.rpc.status_pb2 import Status

    trailers: Any = error.trailing_metadata()  # type: ignore[attr-defined]
    details = dict(trailers)["grpc-status-details-bin"]
    for detail in Status.FromString(details).details:
        failure = failure_pb2.Failure()
        if detail.Unpack(failure):
            return failure
    raise AssertionError("no Failure")


def same(what: str, found: object, wanted: object) -> None:
    assert found == wanted, f"{what}: {str(found)[:1000]!r} instead of {str(wanted)[:1000]!r}"


def main(mode: str) -> None:
    with grpc.insecure_channel(os.environ["TREERING_SERVER"]) as channel:
        store = EventStoreServiceStub(channel)
        if mode == "check":
            check(store)
        else:
            append_all(store, are_there={"write": False, "repeat": True}[mode])
    print(f"{mode}: {len(CASES['events'])} events")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
