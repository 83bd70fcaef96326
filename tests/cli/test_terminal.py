"""What people see: tables, colours, bars."""

import json
import re
import uuid
from pathlib import Path
from typing import Any

import pytest

from treering import Client
from treering.events import Event

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
HIDDEN = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def name(treering: Any) -> str:
    """A stream with a few events."""
    name = f"order-{uuid.uuid4().hex[:8]}"
    with Client(treering.address) as client:
        client.append(
            name,
            [
                Event("OrderPlaced", b'{"total": 42.50}', content_type="application/json"),
                Event("Note", "evil\x1b[2J\r\x07\x9b text", content_type="text/plain"),
                Event("Picture", b"\xff\x00", content_type="image/png"),
                Event("Nothing"),
            ],
        )
    return name


@pytest.mark.parametrize("command", ["read --stream", "subscribe --stream", "read --prefix"])
def test_events_stand_in_rows(treering: Any, name: str, command: str) -> None:
    shown = treering.in_terminal(*command.split(), name).ok()
    assert COLOUR.search(shown)
    rows = HIDDEN.sub("", shown).splitlines()
    assert rows[0].split() == [
        *("position", *(["stream"] if "prefix" in command else []), "version", "time"),
        *("type", "data"),
    ]
    assert '{"total":42.50}' in rows[1]
    assert "OrderPlaced" in rows[1]
    assert "evil·[2J···" in rows[2]
    assert "(2 bytes of image/png)" in rows[3]
    assert rows[4].endswith("Nothing")
    assert ("caught up at" in shown) == command.startswith("subscribe")


def test_narrow_terminals_have_data_below(treering: Any, name: str) -> None:
    shown = treering.in_terminal("read", "--stream", name, columns=80).ok()
    rows = HIDDEN.sub("", shown).splitlines()
    assert rows[1].endswith("OrderPlaced")
    assert rows[2] == '           {"total":42.50}'
    assert max(map(len, rows)) <= 80


def test_no_colour_if_asked_for_none(treering: Any, name: str) -> None:
    for command in (f"read --stream {name}", "head", f"streams --prefix {name}", "read --help"):
        shown = treering.in_terminal(*command.split(), env={"NO_COLOR": "1"}).ok()
        assert not re.search(r"\x1b\[[0-9;]*3[0-7][0-9;]*m", shown), command


def test_json_if_asked_for(treering: Any, name: str) -> None:
    shown = treering.in_terminal("read", "--stream", name, "--limit", "1", "--json").ok()
    assert json.loads(shown)["data"] == {"total": 42.5}


def test_facts_stand_in_a_table(treering: Any, name: str) -> None:
    shown = HIDDEN.sub("", treering.in_terminal("append", name, "--type", "A").ok())
    assert re.search(r"^version +5 *$", shown, re.MULTILINE)
    shown = HIDDEN.sub("", treering.in_terminal("streams", "--prefix", name).ok())
    assert re.search(rf"^{name} +5 ", shown, re.MULTILINE)
    shown = HIDDEN.sub("", treering.in_terminal("streams", "show", name).ok())
    assert re.search(r"^next version +6 *$", shown, re.MULTILINE)
    assert "log id" in treering.in_terminal("head").ok()


def test_nothing_is_said_to_be_nothing(treering: Any) -> None:
    assert "no events" in treering.in_terminal("read", "--stream", "nothing-here").ok()
    assert "no streams" in treering.in_terminal("streams", "--prefix", "nothing-here").ok()


def test_import_and_export_have_a_bar(treering: Any, name: str, tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl.gz"
    shown = treering.in_terminal("export", "--stream", name, str(file)).ok()
    assert "export" in shown and "100%" in shown
    assert re.search(r"exported +4", HIDDEN.sub("", shown))
    shown = treering.in_terminal("import", str(file)).ok()
    assert "events" in shown
    assert re.search(r"already there +4", HIDDEN.sub("", shown))


def test_a_terminal_shows_what_its_locale_can(treering: Any) -> None:
    name = f"größe-{uuid.uuid4().hex[:8]}"
    environment = {"PYTHONIOENCODING": "ascii", "NO_COLOR": "1"}
    treering.in_terminal("append", name, "--type", "A", env=environment).ok()
    shown = treering.in_terminal("read", "--stream", name, env=environment).ok()
    assert len(shown.splitlines()) == 2
