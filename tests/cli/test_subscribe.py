"""subscribe: history, then live; checkpoints; how it ends."""

import json
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from treering import Client, LogDiverged
from treering.checkpoints import Checkpoint
from treering.cli.following import CheckpointFile
from treering.events import Event


@pytest.fixture
def name() -> str:
    """A stream that no other test knows."""
    return f"order-{uuid.uuid4().hex[:12]}"


def data(text: str) -> list[Any]:
    return [json.loads(line)["data"] for line in text.splitlines()]


def append(treering: Any, name: str, *numbers: int) -> int:
    """Appends events, and gives the position of the last."""
    with Client(treering.address) as client:
        return client.append(name, [Event("A", number) for number in numbers]).last_position


def next_lines(process: "subprocess.Popen[str]", count: int) -> list[Any]:
    assert process.stdout is not None
    return [json.loads(process.stdout.readline())["data"] for _ in range(count)]


def caught_up(process: "subprocess.Popen[str]") -> int:
    """Waits until it is, and gives where."""
    assert process.stderr is not None
    position: int = json.loads(process.stderr.readline())["caught_up"]
    return position


def test_it_ends_when_it_has_caught_up(treering: Any, name: str) -> None:
    last = append(treering, name, 1, 2, 3)
    ended = treering("subscribe", "--stream", name)
    assert data(ended.ok()) == [1, 2, 3]
    assert json.loads(ended.err)["caught_up"] >= last
    assert data(treering("subscribe", "--stream", name, "--after-position", str(last)).ok()) == []
    assert data(treering("subscribe", "--stream", name, "--from-head").ok()) == []


def test_it_follows_event_by_event(treering: Any, name: str, interrupt: Callable[..., Any]) -> None:
    append(treering, name, 1)
    process = treering.start("subscribe", "--stream", name, "--follow")
    assert next_lines(process, 1) == [1]
    caught_up(process)
    for number in (2, 3):
        append(treering, name, number)
        assert next_lines(process, 1) == [number]
    ended = interrupt(process)
    assert (ended.code, ended.out, ended.err) == (130, "", "")


def test_from_head(treering: Any, name: str, interrupt: Callable[..., Any]) -> None:
    append(treering, name, 1)
    process = treering.start("subscribe", "--stream", name, "--from-head", "--follow")
    caught_up(process)
    append(treering, name, 2)
    assert next_lines(process, 1) == [2]
    interrupt(process)


def test_a_checkpoint_is_kept_and_gone_on_from(treering: Any, name: str, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint"
    arguments = ("subscribe", "--stream", name, "--checkpoint", str(file))
    assert data(treering(*arguments).ok()) == []
    append(treering, name, 1, 2)
    assert data(treering(*arguments).ok()) == [1, 2]
    append(treering, name, 3)
    assert data(treering(*arguments).ok()) == [3]
    assert data(treering(*arguments).ok()) == []
    kept = Checkpoint.from_str(file.read_text())
    with Client(treering.address) as client:
        head = client.head()
    assert (kept.log_id, kept.position) == (head.log_id, head.position)
    assert uuid.UUID(kept.event_id)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_event_is_left_out_whatever_ends_it(
    treering: Any, name: str, tmp_path: Path, interrupt: Callable[..., Any], number: signal.Signals
) -> None:
    file = tmp_path / "checkpoint"
    arguments = ("subscribe", "--stream", name, "--checkpoint", str(file))
    process = treering.start(*arguments, "--follow")
    position = caught_up(process)
    for each in range(3):
        position = append(treering, name, each)
    assert next_lines(process, 3) == [0, 1, 2]
    if number == signal.SIGKILL:  # then it can't say a last word, but it did at the first silence
        deadline = time.monotonic() + 30
        while Checkpoint.from_str(file.read_text()).position < position:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    ended = interrupt(process, number)
    assert ended.code == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert ended.err == ""
    append(treering, name, 3)
    # What was printed and not yet kept comes again; nothing is left out.
    again = data(treering(*arguments).ok())
    assert again == list(range(again[0], 4))


def test_a_checkpoint_is_not_ahead_of_what_was_read(
    treering: Any, name: str, tmp_path: Path
) -> None:
    file = tmp_path / "checkpoint"
    with Client(treering.address) as client:
        client.append(name, [Event("A", [number, "x" * 1000]) for number in range(2000)])
    ended = treering.shell(
        f"$T subscribe --stream {name} --checkpoint {file} | head -c 10; echo ${{PIPESTATUS[0]}}"
    )
    assert ended.ok().endswith("0\n")
    again = data(treering("subscribe", "--stream", name, "--checkpoint", str(file)).ok())
    assert [number for number, _ in again] == list(range(again[0][0], 2000))
    assert again[0][0] < 1500  # a pipe holds 64 KiB


def test_a_file_that_is_no_checkpoint_is_refused(treering: Any, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint"
    for content in (b"nonsense", b"", b"\xff"):
        file.write_bytes(content)
        error = treering("subscribe", "--all", "--checkpoint", str(file)).refused()
        assert error.startswith(f"error: {file}: ")
        assert file.read_bytes() == content


def test_a_checkpoint_of_another_log_is_refused(treering: Any, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint"
    file.write_text(f"{uuid.uuid4()}/1/{uuid.uuid4()}\n")
    assert "[LOG_MISMATCH]" in treering("subscribe", "--all", "--checkpoint", str(file)).refused()


def test_a_checkpoint_beyond_a_lost_end_is_left_and_what_to_do_is_said(
    treering: Any, name: str, tmp_path: Path
) -> None:
    file = tmp_path / "checkpoint"
    append(treering, name, 1)
    with Client(treering.address) as client:
        head = client.head()
    text = f"{Checkpoint(head.log_id, head.position, str(uuid.uuid4()))}\n"
    file.write_text(text)
    error = treering("subscribe", "--all", "--checkpoint", str(file)).refused()
    assert f"what was printed of later events is void: to begin anew, remove {file}" in error
    assert error.endswith("[LOG_DIVERGED]\n")
    assert len(error.splitlines()) == 1
    assert file.read_text() == text


def test_where_the_log_forked_it_can_be_gone_on_from(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "checkpoint")
    told = file.told_of_loss(LogDiverged("it forked", log_id="l", last_common_position=7))
    assert told == (
        "it forked; what was printed of later events is void: to go on from there, put l/7/ into "
        f"{tmp_path}/checkpoint; to begin anew, remove {tmp_path}/checkpoint"
    )


def test_it_goes_on_over_a_restart(
    server_process: Callable[..., Any],
    sqlite_file_url: str,
    calling: Callable[[str], Any],
    name: str,
    interrupt: Callable[..., Any],
) -> None:
    server = server_process(sqlite_file_url)
    listen = server.address
    own = calling(listen)
    append(own, name, 1)
    process = own.start("subscribe", "--all", "--follow")
    assert next_lines(process, 1) == [1]
    server.terminate()
    server_process(sqlite_file_url, listen=listen)
    append(own, name, 2)
    assert next_lines(process, 1) == [2]
    assert interrupt(process).code == 130
