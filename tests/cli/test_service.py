"""serve and migrate, as an operator calls them."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from databases import sqlite_url


def test_migrate_then_serve(
    treering: Any, server_process: Callable[..., Any], database_url: str
) -> None:
    unmigrated = treering("serve", "--no-migrate", "--listen", "127.0.0.1:0",
                          "--database-url", database_url)  # fmt: skip
    assert "treering migrate" in unmigrated.refused()
    for _ in range(2):
        migrated = treering("migrate", env={"TREERING_DATABASE_URL": database_url})
        assert migrated.ok() == ""
        assert migrated.err == "the database is up to date\n"
    server = server_process(database_url, "--no-migrate")
    assert server.terminate() == 0


def test_flags_beat_variables(server_process: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "by-flag").mkdir()
    server = server_process(
        sqlite_url(tmp_path / "by-flag"),
        *("--log-level", "info"),
        log_level="error",
        log_format="json",
    )
    assert server.logs
    assert (tmp_path / "by-flag" / "treering.db").exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "by-flag"]


@pytest.mark.parametrize(
    "url", ["sqlite:////nowhere/at/all.db", "mysql://localhost/x", "nonsense", "sqlite://"]
)
@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_a_database_that_can_not_be_used_is_said_in_one_line(
    treering: Any, command: str, url: str
) -> None:
    error = treering(command, "--database-url", url).refused()
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1


def test_a_second_server_is_refused(treering: Any, shared_server: Any, tmp_path: Path) -> None:
    error = treering(
        "serve", "--database-url", shared_server.database_url, "--listen", "127.0.0.1:0"
    ).refused()
    assert str(shared_server.pid) in error
    listen = shared_server.address
    error = treering("serve", "--database-url", sqlite_url(tmp_path), "--listen", listen).refused()
    assert listen in error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_in_order(
    server_process: Callable[..., Any], sqlite_file_url: str, number: signal.Signals
) -> None:
    server = server_process(sqlite_file_url)
    subprocess.run(["/bin/kill", f"-{int(number)}", str(server.pid)], check=True)
    assert server.wait() == 0
    assert "Traceback" not in server.text
