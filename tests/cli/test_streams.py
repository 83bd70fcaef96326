"""streams: how long events are kept, and the end of a stream."""

import json
import os
import pty
import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from treering import Client, Deletion, Retention
from treering.events import Event

HIDDEN = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def one(text: str) -> dict[str, Any]:
    """The one object that was printed."""
    [line] = text.splitlines()
    printed: dict[str, Any] = json.loads(line)
    return printed


@pytest.fixture
def client(treering: Any) -> Iterator[Client]:
    """To look at what commands have done."""
    with Client(treering.address) as client:
        yield client


@pytest.fixture
def name(client: Client) -> str:
    """A stream with five events."""
    name = f"order-{uuid.uuid4().hex[:12]}"
    client.append(name, [Event("A", number) for number in range(1, 6)])
    return name


def versions(client: Client, name: str) -> list[int]:
    return [event.version for event in client.read(name)]


# ---- retention


def test_retention_is_set_and_shown(treering: Any, client: Client, name: str) -> None:
    stream = one(treering("streams", "retention", name, "--max-count", "2").ok())
    assert stream["retention"] == {
        "max_age_seconds": None,
        "max_count": 2,
        "truncate_before": None,
    }
    assert (stream["version"], stream["first_version"]) == (5, 4)
    assert versions(client, name) == [4, 5]
    assert one(treering("streams", "retention", name).ok()) == stream
    assert one(treering("streams", "show", name).ok()) == stream
    assert one(treering("streams", "--prefix", name).ok()) == stream


def test_retention_replaces_all_that_was_set(treering: Any, name: str) -> None:
    def retention(*options: str) -> Any:
        return one(treering("streams", "retention", name, *options).ok())["retention"]

    both = retention("--max-age", "1.5h", "--max-count", "4")
    assert both == {"max_age_seconds": 5400.0, "max_count": 4, "truncate_before": None}
    assert retention("--truncate-before", "3") == {
        "max_age_seconds": None,
        "max_count": None,
        "truncate_before": 3,
    }
    # What is cut off never comes back, so this part stays.
    assert retention("--truncate-before", "2")["truncate_before"] == 3
    assert retention("--max-count", "7")["truncate_before"] == 3
    assert retention("--forever") == {
        "max_age_seconds": None,
        "max_count": None,
        "truncate_before": 3,
    }


def test_forever_ends_a_retention_and_brings_nothing_back(
    treering: Any, client: Client, name: str
) -> None:
    treering("streams", "retention", name, "--max-count", "1").ok()
    stream = one(treering("streams", "retention", name, "--forever").ok())
    assert stream["first_version"] == 5
    assert versions(client, name) == [5]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("90s", "90s"),
        ("120s", "2m"),
        ("15m", "15m"),
        ("12h", "12h"),
        ("36h", "36h"),
        ("30d", "30d"),
        ("2w", "14d"),
        ("0.25s", "0.25s"),
        ("0.000001s", "0.000001s"),
        ("100s", "100s"),
        ("315576000000s", "3652500d"),
    ],
)
def test_ages_are_taken_and_shown_by_unit(given: str, shown: str) -> None:
    from treering.cli.ages import format_age, parse_age

    assert format_age(parse_age(given)) == shown
    assert parse_age(shown) == parse_age(given)


@pytest.mark.parametrize(
    "options",
    [
        *("--max-age 30", "--max-age d", "--max-age 1y", "--max-age -1d", "--max-age 1d12h"),
        *("--max-age 0d", "--max-age 0.0000001s", "--max-age 315576000001s", "--max-age \u0663d"),
        *("--max-count 0", "--max-count -1", "--max-count x", "--truncate-before 0"),
        *("--forever --max-count 1", "--forever --max-age 1d", "--forever --truncate-before 1"),
        "--max-count 9223372036854775808",
    ],
)
def test_a_retention_that_makes_no_sense_ends_with_2(treering: Any, options: str) -> None:
    ended = treering("streams", "retention", "x", *options.split())
    assert "Usage: " in ended.refused(2)
    assert ended.out == ""


def test_what_can_not_be_kept_is_refused_with_1(treering: Any, name: str) -> None:
    def refused(stream: str, *options: str) -> str:
        error: str = treering("streams", "retention", stream, *options).refused()
        return error

    assert "[NOT_FOUND]" in refused(f"{name}-other", "--max-count", "1")
    assert "[NOT_FOUND]" in refused(f"{name}-other")
    too_high = refused(name, "--truncate-before", "7")
    assert "truncate_before" in too_high and "[INVALID_REQUEST]" in too_high
    treering("streams", "delete", name, "--yes").ok()
    assert "[NOT_FOUND]" in refused(name, "--max-count", "1")
    treering("streams", "delete", name, "--permanent", "--yes").ok()
    assert "[STREAM_DELETED]" in refused(name, "--max-count", "1")


def test_people_read_the_retention_in_words(treering: Any, client: Client, name: str) -> None:
    def shown(*arguments: str) -> str:
        return HIDDEN.sub("", treering.in_terminal(*arguments).ok())

    assert re.search(r"^retention +for ever *$", shown("streams", "show", name), re.MULTILINE)
    options = ("--max-age", "30d", "--max-count", "1000", "--truncate-before", "2")
    text = shown("streams", "retention", name, *options)
    kept = "30d old at most, the newest 1,000, from version 2 on"
    assert re.search(rf"^retention +{kept} *$", text, re.MULTILINE)
    assert re.search(rf"^{name} +5 .+ {kept} *$", shown("streams", "--prefix", name), re.MULTILINE)


# ---- deletion


def test_a_stream_is_deleted(treering: Any, client: Client, name: str) -> None:
    stream = one(treering("streams", "delete", name, "--yes").ok())
    assert stream == {
        "stream": name,
        "version": 0,
        "first_version": 0,
        "next_version": 6,
        "recorded_at": stream["recorded_at"],
        "deletion": "deleted",
        "retention": None,
    }
    assert stream["recorded_at"] is not None
    assert versions(client, name) == []
    assert treering("streams", "--prefix", name).ok() == ""
    assert one(treering("streams", "list", "--prefix", name, "--deleted").ok()) == stream
    assert one(treering("streams", "show", name).ok()) == stream
    # The name is free, and versions go on.
    assert one(treering("append", name, "--type", "B", "--expected-new").ok())["version"] == 6
    assert one(treering("streams", "show", name).ok())["deletion"] == "none"


def test_deleting_again_changes_nothing(treering: Any, name: str) -> None:
    delete = ("streams", "delete", name, "--yes", "--expected-version", "5")
    first = one(treering(*delete).ok())
    assert one(treering(*delete).ok()) == first


def test_a_permanently_deleted_name_can_not_be_used(treering: Any, name: str) -> None:
    stream = one(treering("streams", "delete", name, "--permanent", "--yes").ok())
    assert (stream["version"], stream["deletion"]) == (0, "permanent")
    assert "[STREAM_DELETED]" in treering("append", name, "--type", "B").refused()
    assert one(treering("streams", "delete", name, "--yes").ok()) == stream


def test_deletion_can_expect_a_version(treering: Any, client: Client, name: str) -> None:
    error = treering("streams", "delete", name, "--yes", "--expected-version", "4").refused()
    assert error.startswith(f"error: stream '{name}' is at version 5")
    assert error.endswith("[VERSION_CONFLICT]\n")
    assert len(versions(client, name)) == 5
    treering("streams", "delete", name, "--yes", "--expected-version", "5").ok()


def test_without_a_terminal_deletion_wants_yes(treering: Any, client: Client, name: str) -> None:
    for input_ in (None, b"y\n"):
        ended = treering("streams", "delete", name, input=input_)
        assert "--yes" in ended.refused(2)
        assert ended.out == ""
    assert len(versions(client, name)) == 5


def test_in_a_terminal_deletion_asks_and_says_what_is_lost(
    treering: Any, client: Client, name: str
) -> None:
    client.update_stream(name, Retention(max_count=3))
    for answer in ("n\n", "\n", "\x04", "yess\n"):
        ended = treering.in_terminal("streams", "delete", name, typed=answer)
        assert ended.code == 1
        assert f"{name} has 3 events. This can't be undone. Delete it? [y/N]" in ended.out
        assert ended.out.endswith("error: nothing was deleted\n")
    assert versions(client, name) == [3, 4, 5]
    shown = HIDDEN.sub("", treering.in_terminal("streams", "delete", name, typed="y\n").ok())
    assert re.search(r"^deletion +deleted; the name can be used again *$", shown, re.MULTILINE)
    assert client.stream(name).deletion is Deletion.DELETED


@pytest.mark.parametrize(
    ("before", "has"),
    [("live", "has 5 events"), ("deleted", "is deleted already"), ("new", "was never written to")],
)
def test_what_is_for_good_is_asked_for_as_such(
    treering: Any, client: Client, name: str, before: str, has: str
) -> None:
    if before == "deleted":
        client.delete_stream(name)
    if before == "new":
        name += "-new"
    delete = ("streams", "delete", name, "--permanent")
    shown = treering.in_terminal(*delete, typed="YES\n", columns=200).ok()
    assert f"{name} {has}. This can't be undone, and the name can never be used again." in shown
    assert "permanent; the name can never be used again" in shown
    assert client.stream(name).deletion is Deletion.PERMANENT
    assert "[y/N]" not in treering.in_terminal(*delete).ok()


def test_nothing_is_asked_where_nothing_is_lost(treering: Any, client: Client, name: str) -> None:
    shown = treering.in_terminal("streams", "delete", f"{name}-other").ok()
    assert "[y/N]" not in shown
    assert "there never was such a stream: nothing was deleted" in shown
    client.delete_stream(name)
    assert "[y/N]" not in treering.in_terminal("streams", "delete", name).ok()
    assert "[y/N]" not in treering.in_terminal("streams", "delete", name, "--yes").ok()


def test_one_event_is_one_event(treering: Any, client: Client, name: str) -> None:
    client.append(f"{name}-1", Event("A"))
    assert "has 1 event." in treering.in_terminal("streams", "delete", f"{name}-1", typed="n\n").out


@pytest.fixture
def asked(treering: Any, name: str) -> Iterator[tuple[Any, int]]:
    """A command that asks whether to delete a stream, and where to answer. Only its input is a
    terminal."""
    controller, terminal = pty.openpty()
    process = treering.start("streams", "delete", name, stdin=terminal)
    os.close(terminal)
    question = ""
    while not question.endswith("[y/N] "):
        question += process.stderr.read(1)
    yield process, controller
    os.close(controller)


def test_what_came_while_the_question_stood_is_not_deleted(
    client: Client, name: str, asked: tuple[Any, int]
) -> None:
    process, controller = asked
    client.append(name, Event("B"))
    os.write(controller, b"y\n")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert "[VERSION_CONFLICT]" in err
    assert len(versions(client, name)) == 6


def test_the_question_is_not_in_the_output(name: str, asked: tuple[Any, int]) -> None:
    process, controller = asked
    os.write(controller, b"y\n")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert one(out)["deletion"] == "deleted"


def test_a_question_can_be_left_with_ctrl_c(
    client: Client, name: str, asked: tuple[Any, int], interrupt: Any
) -> None:
    process, _ = asked
    assert interrupt(process).code == 130
    assert len(versions(client, name)) == 5


def test_listed_streams_say_that_they_are_deleted(treering: Any, client: Client, name: str) -> None:
    client.append(f"{name}-2", Event("A"))
    client.delete_stream(name)
    client.delete_stream(f"{name}-2", permanent=True)
    shown = HIDDEN.sub("", treering.in_terminal("streams", "--prefix", name, "--deleted").ok())
    assert re.search(rf"^{name} +0 .+ deleted *$", shown, re.MULTILINE)
    assert re.search(rf"^{name}-2 +0 .+ permanent *$", shown, re.MULTILINE)
    assert "no streams" in treering.in_terminal("streams", "--prefix", name).ok()
