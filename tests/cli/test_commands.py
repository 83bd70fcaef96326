"""append, read, streams, head: what they print, and how they end."""

import json
import uuid
from typing import Any

import pytest

from treering import Client
from treering.events import Event


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def name() -> str:
    """A stream that no other test knows."""
    return f"order-{uuid.uuid4().hex[:12]}"


def test_append_says_where_the_event_is(treering: Any, name: str) -> None:
    [first] = lines(treering("append", name, "--type", "Placed", "--data", '{"a": 1.50}').ok())
    [second] = lines(
        treering(
            *("append", name, "--type", "Paid", "--tag", "x", "--tag", "y", "--meta", "user=ä=b"),
            *("--expected-version", "1", "--id", str(uuid.uuid4()).upper()),
        ).ok()
    )
    assert first["stream"] == second["stream"] == name
    assert (first["version"], second["version"]) == (1, 2)
    assert second["position"] > first["position"]
    assert not first["duplicate"]
    assert set(first) == {
        *("position", "stream", "version", "id", "recorded_at", "duplicate", "log_id")
    }

    [placed, paid] = lines(treering("read", "--stream", name).ok())
    assert placed == {
        "position": first["position"],
        "stream": name,
        "version": 1,
        "id": first["id"],
        "type": "Placed",
        "time": None,
        "recorded_at": first["recorded_at"],
        "content_type": "application/json",
        "tags": [],
        "metadata": {},
        "data": {"a": 1.5},
    }
    assert '"data":{"a":1.50}' in treering("read", "--stream", name).ok()
    assert paid["tags"] == ["x", "y"]
    assert paid["metadata"] == {"user": "ä=b"}
    assert paid["data_base64"] == ""


def test_a_repeat_is_told(treering: Any, name: str) -> None:
    append = ("append", name, "--type", "A", "--id", str(uuid.uuid4()), "--data", "1")
    [first] = lines(treering(*append).ok())
    [again] = lines(treering(*append).ok())
    assert not first["duplicate"]
    assert again == first | {"duplicate": True}


def test_data_from_a_file_and_from_standard_input(treering: Any, name: str, tmp_path: Any) -> None:
    file = tmp_path / "data"
    file.write_bytes(b'{ "b" : "\\u00e9" }')
    treering("append", name, "--type", "A", "--data", f"@{file}").ok()
    treering("append", name, "--type", "A", "--data", "-", input=b" [1e5]\n").ok()
    file.write_bytes(b"\xff\x00")
    arguments = ("append", name, "--type", "A", "--content-type", "image/png")
    treering(*arguments, "--data", f"@{file}").ok()
    treering(*arguments, "--data", "-", input=b"\xfe").ok()
    with Client(treering.address) as client:
        recorded = [event.data for event in client.read(name)]
    assert recorded == ['{"b":"é"}'.encode(), b"[1e5]", b"\xff\x00", b"\xfe"]
    assert "not UTF-8" in treering("append", name, "--type", "A", "--data", f"@{file}").refused(2)
    missing = treering("append", name, "--type", "A", "--data", f"@{file}x").refused()
    assert missing == f"error: {file}x: No such file or directory\n"


def test_an_event_of_no_stream(treering: Any) -> None:
    [appended] = lines(treering("append", "--no-stream", "--type", "Ping").ok())
    assert appended["stream"] is None
    assert appended["version"] is None
    after = str(appended["position"] - 1)
    [event] = lines(treering("read", "--all", "--after-position", after, "--limit", "1").ok())
    assert (event["id"], event["stream"], event["version"]) == (appended["id"], None, None)


def test_refusals_end_with_1_and_the_facts(treering: Any, name: str) -> None:
    treering("append", name, "--type", "A", "--expected-new").ok()
    conflict = treering("append", name, "--type", "A", "--expected-new")
    error = conflict.refused()
    assert error.startswith(f"error: stream '{name}' is at version 1")
    assert error.endswith("[VERSION_CONFLICT]\n")
    assert conflict.out == ""
    treering("append", name, "--type", "A", "--expected-version", "7").refused()
    treering("append", name, "--type", "A", "--expected-exists").ok()
    treering("append", f"{name}-other", "--type", "A", "--expected-exists").refused()
    assert "[INVALID_REQUEST]" in treering("append", "$x", "--type", "A").refused()
    assert "[LIMIT_EXCEEDED]" in treering("append", "x" * 256, "--type", "A").refused()
    assert (
        "[POSITION_AHEAD_OF_LOG]"
        in treering(*("read", "--all", "--after-position", "999999999")).refused()
    )
    assert "[NOT_FOUND]" in treering("streams", "show", f"{name}-other").refused()
    several = treering("append", "", "--type", "").refused()
    assert several.count(": ") >= 3 and len(several.splitlines()) == 1


def test_what_is_no_utf8_is_refused(treering: Any) -> None:
    assert "UTF-8" in treering.shell(r"$T append $'\xff' --type A").refused(2)


def test_read_by_everything_that_a_query_can_say(treering: Any, name: str) -> None:
    category = f"c{uuid.uuid4().hex[:8]}"
    with Client(treering.address) as client:
        client.append(f"{category}-1", [Event("A", 1, tags=["x"]), Event("B", 2, tags=["x", "y"])])
        client.append(f"{category}-2", Event("A", 3, tags=["y"]))
        last = client.append(name, Event("A", 4, tags=[category])).last_position

    def data(*options: str) -> list[int]:
        return [event["data"] for event in lines(treering("read", *options).ok())]

    assert data("--category", category) == [1, 2, 3]
    assert data("--category", category, "--backwards") == [3, 2, 1]
    assert data("--category", category, "--limit", "1") == [1]
    assert data("--category", category, "--limit", "0") == []
    assert data("--category", category, "--type", "A") == [1, 3]
    assert data("--category", category, "--type", "A", "--type", "B") == [1, 2, 3]
    assert data("--category", category, "--tag", "x", "--tag", "y") == [2]
    assert data("--prefix", f"{category}-1", "--prefix", f"{category}-2") == [1, 2, 3]
    assert data("--stream", f"{category}-1", "--stream", f"{category}-2") == [1, 2, 3]
    assert data("--stream", f"{category}-1", "--type", "B") == [2]
    assert data("--tag", category, "--min-position", str(last)) == [4]
    query = {"items": [{"tags": [category]}, {"stream_prefixes": [category], "types": ["B"]}]}
    assert data("--query", json.dumps(query)) == [2, 4]
    in_camel_case = {"items": [{"streamPrefixes": [category]}]}
    assert data("--query", json.dumps(in_camel_case)) == [1, 2, 3]
    assert data("--query", '{"all":true}', "--after-position", str(last - 1))[0] == 4
    assert data("--stream", f"{category}-1", "--after-version", "1") == [2]
    assert data("--category", category, "--until-position", str(last - 2)) == [1, 2]
    assert data("--category", category, "--until-time", "2020-01-01T00:00:00Z") == []
    assert data("--category", category, "--after-time", "2020-01-01T01:00:00+01:00") == [1, 2, 3]
    assert data("--stream", f"{name}-nothing") == []


def test_streams_are_listed_and_shown(treering: Any) -> None:
    prefix = uuid.uuid4().hex[:8]
    with Client(treering.address) as client:
        for number in range(3):
            client.append(f"{prefix}-{number}", [Event("A")] * 1)
    listed = lines(treering("streams", "--prefix", prefix).ok())
    assert [each["stream"] for each in listed] == [f"{prefix}-{number}" for number in range(3)]
    assert listed == lines(treering("streams", "list", "--prefix", prefix, "--json").ok())
    limited = lines(treering("streams", "--prefix", prefix, "--limit", "2").ok())
    assert limited == listed[:2]
    assert lines(treering("streams", "show", f"{prefix}-1").ok()) == [listed[1]]
    assert listed[1] == {
        "stream": f"{prefix}-1",
        "version": 1,
        "first_version": 1,
        "next_version": 2,
        "recorded_at": listed[1]["recorded_at"],
        "deletion": "none",
        "retention": None,
    }


def test_head(treering: Any, name: str) -> None:
    [appended] = lines(treering("append", name, "--type", "A").ok())
    [head] = lines(treering("head").ok())
    assert head == {each: appended[each] for each in ("position", "log_id", "recorded_at")}


def test_the_server_by_flag_beats_the_variable(treering: Any) -> None:
    treering("head", "--server", treering.address, env={"TREERING_SERVER": "127.0.0.1:1"}).ok()


def test_a_reader_that_stops_early_is_no_failure(treering: Any) -> None:
    prefix = uuid.uuid4().hex[:8]
    with Client(treering.address) as client:
        client.append(f"{prefix}-1", [Event("A", "x" * 1000) for _ in range(3000)])
    for command in (
        f"read --prefix {prefix}",
        f"export --prefix {prefix}",
        f"subscribe --prefix {prefix} --follow",
    ):
        ended = treering.shell(f"$T {command} | head -1; echo ${{PIPESTATUS[0]}}")
        printed = ended.ok().splitlines()
        assert len(printed) == 2 and printed[1] == "0"
        assert "Error" not in ended.err and "Traceback" not in ended.err
    ended = treering.shell("$T head | true; echo ${PIPESTATUS[0]}")
    assert ended.out == "0\n" and ended.err == ""


def test_output_is_utf8_whatever_the_locale(treering: Any, name: str) -> None:
    treering("append", name, "--type", "Größe").ok()
    environment = {"PYTHONIOENCODING": "latin-1", "LC_ALL": "C"}
    assert "Größe" in treering("read", "--stream", name, env=environment).ok()
