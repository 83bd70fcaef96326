"""What the program says of itself, and how it starts."""

import re
import subprocess
import sys
import time
from typing import Any

import pytest

from treering_server.config import Settings

COMMANDS = [
    "serve",
    "migrate",
    *(ON_THE_LOG := ["backup", "restore", "fork"]),
    "append",
    "read",
    "subscribe",
    "import",
    "export",
    "streams",
    "head",
]


def test_all_commands_are_listed(treering: Any) -> None:
    shown = treering("--help").ok()
    listed = re.findall(r"^  ([a-z]+)  ", shown.partition("Commands:")[2], re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


@pytest.mark.parametrize(
    "command",
    [*COMMANDS, *(f"streams {each}" for each in ("list", "show", "retention", "delete"))],
)
def test_every_command_has_help(treering: Any, command: str) -> None:
    shown = treering(*command.split(), "--help").ok()
    assert f"Usage: treering {command}" in shown
    if command in ON_THE_LOG:
        assert "TREERING_DATABASE_URL" in shown
        assert "--json" in shown
    elif command not in ("serve", "migrate"):
        assert "TREERING_SERVER" in shown
        assert "127.0.0.1:7464" in shown
        assert "--json" in shown


def test_serve_takes_every_setting_as_flag_and_as_variable(treering: Any) -> None:
    shown = " ".join(treering("serve", "--help").ok().split())
    for name, field in Settings.model_fields.items():
        flag = "--" + name.replace("_", "-")
        assert f" {flag} " in shown
        assert f"TREERING_{name.upper()}]" in shown
        assert field.description is not None
        assert field.description in shown
    assert "[default: sqlite:///treering.db]" in shown


@pytest.mark.parametrize("command", ["", "serve", "read"])
def test_help_in_a_terminal(treering: Any, command: str) -> None:
    shown = treering.in_terminal(*command.split(), "--help", columns=80).ok()
    assert "Usage" in shown


def test_the_version(treering: Any) -> None:
    assert re.fullmatch(r"treering \d+\.\d+\.\d+\n", treering("--version").ok())


@pytest.mark.parametrize(
    "arguments",
    [
        *("nonsense", "", "read", "read --all --nonsense", "read --all --limit x"),
        *("append --type A", "append a", "append a --type A --no-stream"),
        *("append a --type A --expected-new --expected-exists", "append a --type A --meta x"),
        *("append a --type A --meta x=1 --meta x=2", "append a --type A --data {"),
        *("append --no-stream --type A --expected-new", "append a --type A --id x"),
        *("append a --type A --expected-version -1", "read --all --limit -1"),
        *("read --all --after-position 9223372036854775808", "read --all --limit \u0661"),
        *("read --all --stream a", "read --all --query {}", "read --query {}", "read --query ["),
        *('read --query {"nonsense":1}', "read --all --after-version 1"),
        "read --all --after-position 1 --after-time 2026-01-01T00:00:00Z",
        "read --all --until-position 1 --until-time 2026-01-01T00:00:00Z",
        *(
            "read --all --until-time yesterday",
            "read --all --after-time 2026-01-01T00:00:00.1234567Z",
        ),
        *("subscribe", "subscribe --all --from-head --after-position 1", "import"),
        *("streams --limit 1 show a", "streams nonsense", "streams retention", "streams delete"),
        *("serve --readers x", "serve --readers 0", "serve --log-level loud", "migrate --listen a"),
    ],
)
def test_what_is_not_understood_ends_with_2(treering: Any, arguments: str) -> None:
    ended = treering(*arguments.split())
    assert "Usage: " in ended.refused(2)
    assert ended.out == ""


def test_a_variable_that_makes_no_sense_ends_with_2(treering: Any) -> None:
    assert "READERS" in treering("serve", env={"TREERING_READERS": "0"}).refused(2).upper()
    assert "LOG_LEVEL" in treering("serve", env={"TREERING_LOG_LEVEL": "x"}).refused(2).upper()


def without(packages: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs the program where packages are not installed."""
    script = f"""
import sys
sys.argv = ["treering", *{arguments!r}]
for name in {packages.split()!r}:
    sys.modules[name] = None
from treering.cli.main import main
main()
"""
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_without_the_extra_for_it_the_command_line_says_so(package: str) -> None:
    ended = without(package, "head")
    assert ended.returncode == 1
    assert ended.stderr == (
        'error: the command line needs typer and rich: pip install "treering[cli]"\n'
    )


@pytest.mark.parametrize("command", ["serve", "migrate"])
@pytest.mark.parametrize("package", ["pydantic_settings", "sqlalchemy"])
def test_without_the_extra_for_it_the_server_says_so(command: str, package: str) -> None:
    ended = without(package, command)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ")
    assert 'pip install "treering[server]"' in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_client_needs_no_server_packages() -> None:
    ended = without(
        "treering_server sqlalchemy alembic psycopg pydantic_settings", "head", "--help"
    )
    assert ended.returncode == 0


def test_it_starts_without_what_it_does_not_need(treering: Any) -> None:
    script = """
import sys
from treering.cli import commands
try:
    commands.run(["--help"])
except SystemExit:
    pass
heavy = {"treering_server", "sqlalchemy", "pydantic_settings", "psycopg", "alembic"}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert ended.stderr == "[]\n"


def test_no_server_is_said_soon_and_in_one_line(treering: Any) -> None:
    began = time.monotonic()
    for command in ("head", "export", "read --all", "subscribe --all --follow"):
        error = treering(*command.split(), "--server", "127.0.0.1:1").refused()
        assert error.startswith("error: no answer from the server: ")
        assert "127.0.0.1:1" in error
        assert len(error.splitlines()) == 1
    assert time.monotonic() - began < 40
