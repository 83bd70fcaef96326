"""import and export: nothing lost, nothing twice, in order, however often it breaks off."""

import base64
import gzip
import json
import os
import random
import signal
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checks import check_log
from treering import Client
from treering.cli import importing
from treering.cli.cloudevents import event_id, read_line
from treering.cli.importing import Counts, Import, Lines, Stopped
from treering.errors import from_status
from treering.events import Event
from treering.v1.event_store_service_pb2 import AppendResponse

SOURCE = "urn:test"


def line(**members: Any) -> dict[str, Any]:
    """An event that can be imported, a new one each time."""
    return {"specversion": "1.0", "id": str(uuid.uuid4()), "source": SOURCE, "type": "A"} | members


def write(file: Path, events: list[Any]) -> str:
    """Writes lines, as JSON if they are not lines already."""
    texts = (each if isinstance(each, bytes) else json.dumps(each).encode() for each in events)
    file.write_bytes(b"".join(text + b"\n" for text in texts))
    return str(file)


def counts(text: str) -> dict[str, int]:
    found: dict[str, int] = json.loads(text)
    return found


def read_all(treering: Any) -> list[Any]:
    with Client(treering.address) as client:
        return client.read().to_list()


def without_place(text: str) -> list[dict[str, Any]]:
    """Exported lines without what is of the log that they come from."""
    members = [json.loads(each) for each in text.splitlines()]
    for each in members:
        for name in ("recordedtime", "sequence", "streamversion"):
            each.pop(name, None)
    return members


def business(count: int) -> list[dict[str, Any]]:
    """Events as a system has them, of many streams, and some of none."""
    choose = random.Random(count)
    events = []
    for number in range(count):
        event = line(
            id=str(uuid.UUID(int=choose.getrandbits(128), version=4)),
            type=choose.choice(["Placed", "Paid", "Sent"]),
            subject=f"order-{choose.randrange(count // 10 + 1)}",
            time=f"2026-01-31T12:00:{number % 60:02}.{number * 10 + 1:09}Z",
            datacontenttype="application/json",
            data={"number": number, "text": "ä" * choose.randrange(100)},
        )
        if choose.random() < 0.05:
            del event["subject"]
        if choose.random() < 0.1:
            event["id"] = f"{number} of mine"
            event["correlationid"] = "c"
            event["treeringtags"] = json.dumps([f"customer:{number % 7}"])
        events.append(event)
    return events


def test_what_goes_in_comes_out(
    serve: Callable[..., Any], database_url: str, other_database_url: str, tmp_path: Path
) -> None:
    treering = serve(database_url)
    events = business(5000)
    file = write(tmp_path / "in.jsonl", events)
    streams = len({each["subject"] for each in events if "subject" in each})
    done = {"read": 5000, "recorded": 5000, "already_there": 0, "skipped": 0}
    assert counts(treering("import", file).ok()) == done | {"new_streams": streams}

    log = read_all(treering)
    check_log(log)
    assert [event.stream for event in log] == [each.get("subject", "") for each in events]
    assert [json.loads(event.data)["number"] for event in log] == list(range(5000))

    again = {"recorded": 0, "already_there": 5000, "new_streams": 0}
    assert counts(treering("import", file).ok()) == done | again

    # Events appended by others, with what no CloudEvents attribute can hold.
    with Client(treering.address) as client:
        client.append(
            "own-1",
            [
                Event("Own", b"\xff", tags=["t"], metadata={"user": "ä\n", "ce_Upper": "x"}),
                Event("Own", b'{"a": 1}', content_type="application/json"),
                Event("Own", "text", content_type="text/plain", metadata={"ce_id": "no"}),
            ],
        )
        client.append(None, Event("Own"))
    exported = treering("export").ok()
    zipped = tmp_path / "out.jsonl.gz"
    result = json.loads(treering("export", str(zipped)).ok())
    assert result == {"exported": 5004, "head_position": 5004, "log_id": result["log_id"]}
    assert gzip.decompress(zipped.read_bytes()).decode() == exported

    members = without_place(exported)
    for given_, came in zip(events, members, strict=False):
        assert came == given_
    assert members[-1]["source"] == f"urn:treering:{result['log_id']}"
    assert "subject" not in members[-1]
    first = json.loads(exported.splitlines()[0])
    assert first["sequence"] == "00000000000000000001"

    other = serve(other_database_url)
    assert counts(other("import", str(zipped)).ok())["recorded"] == 5004
    assert without_place(other("export").ok()) == members
    check_log(read_all(other))


@pytest.mark.parametrize("killed", ["import", "server"])
def test_killed_half_way_and_repeated(
    calling: Callable[[str], Any],
    server_process: Callable[..., Any],
    database_url: str,
    tmp_path: Path,
    killed: str,
) -> None:
    events = business(12_000)
    file = write(tmp_path / "in.jsonl", events)
    server = server_process(database_url)
    command_line = calling(server.address)

    process = command_line.start("import", file)
    with Client(server.address) as client:
        deadline = time.monotonic() + 60
        while client.head().position < 2_000:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    if killed == "import":
        process.kill()
        process.communicate()
        assert len(read_all(command_line)) < 12_000
        # Other sizes than the first time: nothing may depend on where it was cut.
        done = counts(command_line("import", file).ok())
        assert done["read"] == 12_000
        assert done["recorded"] + done["already_there"] == 12_000
    else:
        server.kill()
        server_process(database_url, listen=server.address)
        out, err = process.communicate(timeout=90)
        assert process.returncode == 0, err
        assert counts(out)["read"] == 12_000
    log = read_all(command_line)
    check_log(log)
    assert [json.loads(event.data)["number"] for event in log] == list(range(12_000))
    assert counts(command_line("import", file).ok())["already_there"] == 12_000


def test_an_interrupted_import_ends_quietly(treering: Any, tmp_path: Path, interrupt: Any) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = treering.start("import", str(pipe))
    with pipe.open("wb") as writer:
        writer.write(json.dumps(line()).encode() + b"\n")
        writer.flush()
        time.sleep(2)
        ended = interrupt(process)
    assert (ended.code, ended.out, ended.err) == (130, "", "")


# ---- what can't be taken


def test_it_stops_at_the_first_bad_line(treering: Any, tmp_path: Path) -> None:
    subject = f"bad-{uuid.uuid4()}"
    good = [line(subject=subject, data=number) for number in range(10)]
    lines = [*good[:5], b"", b"  \r", b"{nonsense", *good[5:]]
    ended = treering("import", write(tmp_path / "in", lines))
    assert ended.refused().startswith("error: line 8: not JSON: ")
    assert counts(ended.out) == {
        "read": 6,
        "recorded": 5,
        "already_there": 0,
        "skipped": 0,
        "new_streams": 1,
    }
    with Client(treering.address) as client:
        assert [event.json() for event in client.read(subject)] == [0, 1, 2, 3, 4]

    ended = treering("import", "--keep-going", str(tmp_path / "in"))
    complaints = ended.refused().splitlines()
    assert complaints[0].startswith("line 8: not JSON: ")
    assert complaints[0].endswith(": skipped")
    assert complaints[1] == "error: 1 line was skipped"
    assert counts(ended.out) == {
        "read": 11,
        "recorded": 5,
        "already_there": 5,
        "skipped": 1,
        "new_streams": 0,
    }
    with Client(treering.address) as client:
        assert [event.json() for event in client.read(subject)] == list(range(10))


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"subject": "x" * 256}, "stream"),
        ({"subject": "$x"}, "stream"),
        ({"type": "a\nb"}, "type"),
        ({"data": "x" * 1024 * 1024}, "data"),
        ({"data": "x" * 5 * 1024 * 1024}, "too large"),
        ({"data": "x" * 20 * 1024 * 1024}, "large"),
        ({"treeringtags": json.dumps([str(number) for number in range(65)])}, "tags"),
        ({"extension": "x" * 70_000}, "metadata"),
        ({"time": "2026-02-31T00:00:00Z"}, "time"),
        ({"type": None}, "no type"),
    ],
)
def test_a_line_that_the_server_refuses_is_found(
    treering: Any, tmp_path: Path, bad: dict[str, Any], why: str
) -> None:
    subject = f"refused-{uuid.uuid4()}"
    good = [line(subject=subject, data=number) for number in range(100)]
    lines = [*good[:63], line(subject=subject) | bad, *good[63:]]
    file = write(tmp_path / "in", lines)
    ended = treering("import", file)
    error = ended.refused()
    assert error.startswith("error: line 64: ")
    assert why in error and len(error.splitlines()) == 1
    assert len(error) < 500
    with Client(treering.address) as client:
        assert [event.json() for event in client.read(subject)] == list(range(63))
    ended = treering("import", "--keep-going", file)
    assert "line 64: " in ended.refused()
    assert counts(ended.out)["recorded"] == 37


def test_an_id_with_other_content_is_refused(treering: Any, tmp_path: Path) -> None:
    first, second, third = (line(subject=f"taken-{uuid.uuid4()}", data=n) for n in range(3))
    file = write(tmp_path / "in", [first, second, first, second | {"data": 9}, third])
    error = treering("import", file).refused()
    assert error.startswith("error: line 4: ")
    assert second["id"] in error
    ended = treering("import", "--keep-going", file)
    assert counts(ended.out) | {"new_streams": 0} == {
        "read": 5,
        "recorded": 1,
        "already_there": 3,
        "skipped": 1,
        "new_streams": 0,
    }


@pytest.mark.parametrize("keep_going", [[], ["--keep-going"]])
def test_a_damaged_file_is_imported_as_far_as_it_goes(
    treering: Any, tmp_path: Path, keep_going: list[str]
) -> None:
    subject = f"damaged-{uuid.uuid4()}"
    events = [
        line(subject=subject, data=[number, random.randbytes(100).hex()]) for number in range(3000)
    ]
    whole = gzip.compress("".join(json.dumps(each) + "\n" for each in events).encode())
    file = tmp_path / "in"
    file.write_bytes(whole[: len(whole) // 2])
    ended = treering("import", str(file), *keep_going)
    found = counts(ended.out)
    assert 0 < found["recorded"] < 3000
    assert ended.refused() == (
        f"error: line {found['recorded'] + 1}: the gzip data is cut off: the file is not whole\n"
    )
    damaged = bytearray(whole)
    damaged[-6] ^= 1
    file.write_bytes(damaged)
    assert "the gzip data is damaged" in treering("import", str(file), *keep_going).refused()
    file.write_bytes(whole)
    assert counts(treering("import", str(file)).ok())["read"] == 3000
    with Client(treering.address) as client:
        assert [event.json()[0] for event in client.read(subject)] == list(range(3000))  # type: ignore[index]


def test_files_of_every_kind(treering: Any, tmp_path: Path) -> None:
    one, other = (json.dumps(line()).encode() for _ in range(2))
    for content in (
        b"\xef\xbb\xbf" + one + b"\r\n\r\n" + other,
        gzip.compress(one + b"\n") + gzip.compress(other),  # two members are one file
        b"\n\n" + one + b" \n" + other + b"\n\n",
    ):
        (tmp_path / "in").write_bytes(content)
        assert counts(treering("import", str(tmp_path / "in")).ok())["read"] == 2
        assert counts(treering("import", "-", input=content).ok())["already_there"] == 2
    assert counts(treering("import", "-", input=b"").ok())["read"] == 0
    assert counts(treering("import", os.devnull).ok())["read"] == 0
    missing = str(tmp_path / "missing")
    assert treering("import", missing).refused() == f"error: {missing}: No such file or directory\n"
    assert "Is a directory" in treering("import", str(tmp_path)).refused()


def test_a_line_of_exactly_the_longest_length_is_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "in"
    length = importing.MAX_LINE_BYTES
    file.write_bytes(b"x" * length + b"\n" + b"y" * (length + 1) + b"\n" + b"z" * length)
    with file.open("rb", buffering=0) as raw:
        found = [(number, len(content), content[:1]) for number, content in Lines(raw)]
    assert found == [(1, length, b"x"), (2, length + 1, b"y"), (3, length, b"z")]


def test_the_limits_of_a_smaller_server(
    serve: Callable[..., Any], sqlite_file_url: str, tmp_path: Path
) -> None:
    treering = serve(
        sqlite_file_url,
        max_append_events=7,
        max_append_streams=3,
        max_append_bytes=70_000,
        max_event_data_bytes=20_000,
        max_metadata_bytes=10_000,
    )
    events = business(500)
    file = write(tmp_path / "in", events)
    assert counts(treering("import", file).ok())["recorded"] == 500
    check_log(log := read_all(treering))
    assert [json.loads(event.data)["number"] for event in log] == list(range(500))
    events.append(line(data="x" * 20_000))
    assert (
        treering("import", write(tmp_path / "in", events))
        .refused()
        .startswith("error: line 501: data: ")
    )


@pytest.mark.parametrize("beginning", [b'{"a":"', b"\xef\xbb\xbf", b"  "])
def test_a_line_without_end_does_not_fill_memory(tmp_path: Path, beginning: bytes) -> None:
    file = tmp_path / "in"
    with file.open("wb") as out:
        out.write(beginning)
        out.truncate(importing.MAX_LINE_BYTES * 3)
        out.seek(0, os.SEEK_END)
        out.write(b"\n" + json.dumps(line()).encode())
    skipped = []
    appended = []
    with file.open("rb", buffering=0) as raw:

        def append(request: Any) -> Any:
            appended.append(request)
            return AppendResponse()

        run = Import(append, True, lambda *each: skipped.append(each), lambda counts: None)
        run.run(Lines(raw))
    assert skipped == [(1, f"longer than {importing.MAX_LINE_BYTES:,} bytes")]
    assert len(appended) == 1


# ---- repeats, whatever is there already


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[list[int]]]:
    """Events of a file, and some of them in runs, as an earlier run or somebody else may have
    recorded them: cut anywhere, not all, not in order."""
    count = draw(st.integers(1, 25))
    events = []
    for number in range(count):
        subject = draw(st.sampled_from([None, "a", "b", "c"]))
        events.append({"number": number} | ({"subject": subject} if subject else {}))
    recorded = draw(st.lists(st.integers(0, count - 1), unique=True))
    if draw(st.booleans()):
        recorded.sort()
    cuts = sorted(draw(st.lists(st.integers(0, len(recorded)), max_size=4)))
    edges = [0, *cuts, len(recorded)]
    return events, [recorded[a:b] for a, b in pairwise(edges) if a < b]


@given(histories(), st.integers(1, 12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
def test_a_repeat_adds_what_is_missing_in_order(
    shared_client: Client, history: tuple[list[dict[str, Any]], list[list[int]]], batch: int
) -> None:
    run = uuid.uuid4().hex[:8]
    lines = []
    for event in history[0]:
        members = line(id=f"{run}-{event['number']}", treeringtags=json.dumps([run]), data=event)
        if "subject" in event:
            members["subject"] = f"{event['subject']}-{run}"
        lines.append(json.dumps(members).encode())
    append = shared_client._appender.append
    for numbers in history[1]:
        before = Import(lambda r: append(r, None), False, lambda *_: None, lambda _: None)
        before.run((number + 1, lines[number]) for number in numbers)

    again = Import(
        *(lambda r: append(r, None), False, lambda *_: None, lambda _: None), _batch_events=batch
    )
    again.run(enumerate(lines, 1))

    there = [number for numbers in history[1] for number in numbers]
    missing = [number for number in range(len(lines)) if number not in there]
    from treering import Query

    log = [event.json()["number"] for event in shared_client.read(query=Query(tags=run))]  # type: ignore[index]
    assert log == there + missing
    assert again.counts.recorded == len(missing)
    assert again.counts.already_there == len(there)
    assert again.counts.read == len(lines)


@pytest.fixture(scope="module")
def shared_client(treering: Any) -> Iterator[Client]:
    with Client(treering.address) as client:
        yield client


def test_a_server_that_takes_nothing_stops_it(tmp_path: Path) -> None:
    import grpc

    def append(request: Any) -> Any:
        raise from_status(grpc.StatusCode.UNAVAILABLE, "gone", ())

    run = Import(append, True, lambda *_: None, lambda _: None)
    with pytest.raises(Exception, match="gone"):
        run.run([(1, json.dumps(line()).encode())])
    assert run.counts == Counts(read=1)


def test_the_earlier_of_two_bad_lines_is_named() -> None:
    import grpc

    def append(request: Any) -> Any:
        time.sleep(0.05)
        raise from_status(grpc.StatusCode.INVALID_ARGUMENT, "no", ())

    run = Import(append, False, lambda *_: None, lambda _: None)
    with pytest.raises(Stopped, match=r"^line 1: no"):
        run.run([(1, json.dumps(line()).encode()), (2, b"nonsense")])


# ---- export


def test_an_export_is_there_whole_or_not_at_all(
    serve: Callable[..., Any], sqlite_file_url: str, tmp_path: Path, interrupt: Any
) -> None:
    treering = serve(sqlite_file_url)
    with Client(treering.address) as client:
        for _ in range(20):
            client.append("a-1", [Event("A", "x" * 1000) for _ in range(2000)])
    directory = tmp_path / "exports"
    directory.mkdir()
    file = directory / "out.jsonl.gz"
    file.write_bytes(b"older")
    for number in (signal.SIGINT, signal.SIGTERM):
        process = treering.start("export", str(file))
        deadline = time.monotonic() + 30
        while len(list(directory.iterdir())) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert interrupt(process, number).code in (130, 143)
        assert list(directory.iterdir()) == [file]
        assert file.read_bytes() == b"older"
    treering("export", str(file)).ok()
    assert len(gzip.decompress(file.read_bytes()).splitlines()) == 40_000
    assert list(directory.iterdir()) == [file]
    assert stat.S_IMODE(file.stat().st_mode) & 0o444 == 0o444


def test_an_export_goes_where_it_is_told(treering: Any, tmp_path: Path) -> None:
    name = f"exported-{uuid.uuid4()}"
    with Client(treering.address) as client:
        client.append(name, Event("A", 1))
    treering("export", "--stream", name, os.devnull).ok()
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")
    treering("export", "--stream", name, str(link)).ok()
    assert link.is_symlink()
    assert len((tmp_path / "target").read_text().splitlines()) == 1
    assert treering("export", "--stream", name, "/nowhere/at/all").refused() == (
        "error: /nowhere/at/all: No such file or directory\n"
    )
    assert treering("export", "--type", f"{name}-nothing").ok() == ""


def test_exported_data_is_the_same_to_the_byte(treering: Any) -> None:
    name = f"exported-{uuid.uuid4()}"
    contents = [b'{"a":1.50,"a":2}', b'{"a": 1}', b"null", b"", b"1e400", b"\xff", b'"\xc3\xa4"']
    with Client(treering.address) as client:
        for content in contents:
            client.append(name, Event("A", content, content_type="application/json"))
    exported = treering("export", "--stream", name).ok().splitlines()
    assert [read_line(each.encode())[1].data for each in exported] == contents
    assert ["data" in json.loads(each) for each in exported] == [
        *(True, False, True, False, True, False, True)
    ]
    assert base64.b64decode(json.loads(exported[1])["data_base64"]) == contents[1]


def test_ids_that_are_no_uuids_come_back(treering: Any, tmp_path: Path) -> None:
    name = f"exported-{uuid.uuid4()}"
    id = f"order/{uuid.uuid4()}/1"
    treering("import", write(tmp_path / "in", [line(id=id, subject=name)])).ok()
    [event] = [json.loads(each) for each in treering("read", "--stream", name).ok().splitlines()]
    assert event["id"] == event_id(SOURCE, id)
    assert event["metadata"] == {"ce_id": id, "ce_source": SOURCE}
    assert json.loads(treering("export", "--stream", name).ok())["id"] == id
