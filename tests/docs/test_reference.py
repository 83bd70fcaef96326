"""The tables in the pages say all that there is to say, and nothing that is not so."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from pages import DOCS, ROOT
from treering import errors
from treering.cli import commands, service
from treering.v1.failure_pb2 import FailureReason
from treering_server.config import Settings
from treering_server.services.statuses import CODES

IN_COMMON = {"--server", "--json", "--help", "-h", "--version"}
"""Options that are said once for all commands."""
WHICH_EVENTS = {"--stream", "--type", "--tag", "--category", "--prefix", "--all", "--query"}
SECTIONS = {
    "list": "streams",
    "show": "streams",
    "retention": "streams retention",
    "delete": "streams delete",
}
"""Where commands that are within another are described."""


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def sections(page: Path) -> dict[str, str]:
    """The parts of a page by their headings of the second rank."""
    _, *parts = re.split(r"^## ", text_of(page), flags=re.MULTILINE)
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


def rows(text: str) -> Iterator[list[str]]:
    """The cells of the tables' rows, headings aside."""
    lines = text.splitlines()
    for index, line in enumerate(lines):
        below = lines[index + 1] if index + 1 < len(lines) else ""
        if line.startswith("| ") and not below.startswith("|---") and not line.startswith("|---"):
            yield [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


# ---- settings


def shown(default: object) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, int):
        return f"{default:,}"
    if isinstance(default, float):
        return f"{default:g}"
    return f"`{default}`" if default else ""


def test_the_table_of_settings_is_what_the_server_takes() -> None:
    table = sections(DOCS / "guide" / "operating.md")["Settings"]
    said = [tuple(cells) for cells in rows(table)]

    assert said == [
        (f"`{name}`", shown(field.default), field.description)
        for name, field in Settings.model_fields.items()
    ]


# ---- errors


def test_every_reason_has_its_row_with_code_and_exception() -> None:
    said = {
        reason.strip("`"): (code.strip("`"), exception.strip("`"))
        for reason, code, exception, *_ in rows(sections(DOCS / "guide" / "errors.md")["Reasons"])
    }
    names = {
        name.removeprefix("FAILURE_REASON_") for name in FailureReason.DESCRIPTOR.values_by_name
    }

    assert set(said) == names - {"UNSPECIFIED"}
    for reason, (code, exception) in said.items():
        assert exception == errors.BY_REASON[reason].__name__
        if reason in CODES:
            assert code == CODES[reason].name, reason


def test_the_codes_of_reasons_are_those_of_the_proto() -> None:
    proto = text_of(ROOT / "protos" / "treering" / "v1" / "failure.proto")
    comments = re.findall(r"((?: +//.*\n)+) +FAILURE_REASON_(\w+) = [1-9]", proto)
    codes = {reason: comment.strip("/ ").partition(":")[0] for comment, reason in comments}

    table = rows(sections(DOCS / "guide" / "errors.md")["Reasons"])
    assert {reason.strip("`"): code.strip("`") for reason, code, *_ in table} == codes


def test_every_exception_is_named() -> None:
    text = text_of(DOCS / "guide" / "errors.md")
    for name, each in vars(errors).items():
        if isinstance(each, type) and issubclass(each, errors.TreeringError) and name[0] != "_":
            assert f"`{name}`" in text, name


# ---- the command line


def all_commands() -> dict[str, Any]:
    """Every command, those within another included, by its last name."""
    found: dict[str, Any] = {}

    def add(group: Any) -> None:
        for name, command in getattr(group, "commands", {}).items():
            found[name] = command
            add(command)

    add(typer.main.get_command(commands.app))
    for name in service.NAMES:  # Each has its options only where it is called.
        app = typer.Typer()
        service.add_to(app, name)
        found[name] = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    return found


def options_of(command: Any) -> set[str]:
    return {
        option
        for each in command.params
        if each.param_type_name == "option"
        for option in (*each.opts, *each.secondary_opts)
    }


COMMANDS = all_commands()
PAGE = DOCS / "reference" / "cli.md"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_described(name: str) -> None:
    section = sections(PAGE)[f"treering {SECTIONS.get(name, name)}"]
    options = options_of(COMMANDS[name]) - IN_COMMON
    if name in SECTIONS:
        assert f"treering streams {name}" in section
    if name == "serve":
        settings = {f"--{each.replace('_', '-')}" for each in Settings.model_fields}
        negative = {f"--no-{option[2:]}" for option in settings}
        assert options <= settings | negative
        return
    if options >= WHICH_EVENTS:
        assert "which events" in section
        options -= WHICH_EVENTS
    described = set(re.findall(r"`(-[a-z-]+)", section))
    assert options <= described


@pytest.mark.parametrize("heading", [name for name in sections(PAGE) if name != "In common"])
def test_what_is_described_is_there(heading: str) -> None:
    name = heading.rpartition(" ")[2]
    options = options_of(COMMANDS[name]) | IN_COMMON
    for cells in rows(sections(PAGE)[heading]):
        for option in re.findall(r"`(--?[a-z-]+)", cells[0]):
            assert option in options, (heading, option)


def test_options_in_common_are_described() -> None:
    section = sections(PAGE)["In common"]
    for option in sorted((IN_COMMON - {"--version"}) | WHICH_EVENTS):
        assert f"`{option}" in section, option
