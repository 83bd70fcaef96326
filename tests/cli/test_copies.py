"""backup, restore and fork, as an operator calls them."""

import json
import os
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from databases import sqlite_url
from servers import ServerProcess, environment
from treering import Client, Event, LogDiverged
from treering_server.storage.copies import backup
from treering_server.storage.database import migrate_database
from treering_server.storage.migrations import DatabaseUnusable, revisions

RELEASED = Path(__file__).parents[1] / "migrations" / "released"
GUIDE = "docs/guide/backup-and-restore.md"
LARGE = 40_000_000
"""Bytes that take long enough to copy for a signal to come in time."""


@pytest.fixture(autouse=True)
def in_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in the test's directory, with its log as their default."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "treering.db"


@pytest.fixture
def served(file: Path, server_process: Callable[..., Any]) -> ServerProcess:
    """A server on the file, with three events."""
    server: ServerProcess = server_process(f"sqlite:///{file}")
    fill(server, 3)
    return server


def fill(server: ServerProcess, count: int) -> None:
    with Client(server.address) as client:
        for n in range(count):
            client.append("a", Event("A", {"n": n}))


def names(directory: Path) -> set[str]:
    return {each.name for each in directory.iterdir()}


def log_in(file: Path) -> tuple[str, list[Any]]:
    """Id and events of a log, served for a moment."""
    with ServerProcess(f"sqlite:///{file}") as server, Client(server.address) as client:
        with client.read() as reading:
            events = list(reading)
        found = client.head().log_id, events
        assert server.terminate() == 0
    return found


def execute(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


# ---- backup


def test_a_backup_while_a_server_runs(treering: Any, served: ServerProcess, file: Path) -> None:
    with Client(served.address) as client, client.read() as reading:
        events = list(reading)
    beside = names(file.parent)

    done = treering("backup", "copy.db")

    assert done.ok() == ""
    copy = file.with_name("copy.db")
    assert json.loads(done.err) == {
        "file": "copy.db",
        "bytes": copy.stat().st_size,
        "log_id": reading.log_id,
        "head_position": 3,
    }
    assert names(file.parent) == beside | {"copy.db"}
    fill(served, 2)
    # Alone, on a medium that can't be written to, it is a whole log that nobody has open.
    with closing(sqlite3.connect(f"file:{copy}?immutable=1", uri=True)) as connection:
        assert connection.execute("SELECT max(position) FROM events").fetchone() == (3,)
        assert connection.execute("SELECT served FROM log").fetchone() == (0,)
        assert connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
    log_id, copied = log_in(copy)
    assert (copied, log_id == reading.log_id) == (events, False)
    assert served.terminate() == 0
    assert log_in(file)[0] == reading.log_id


def test_a_backup_while_none_runs(treering: Any, served: ServerProcess, file: Path) -> None:
    assert served.terminate() == 0
    beside = names(file.parent)
    treering("backup", "copy.db").ok()
    assert names(file.parent) == beside | {"copy.db"}
    assert len(log_in(file.with_name("copy.db"))[1]) == 3


def test_a_backup_after_a_crash(treering: Any, served: ServerProcess, file: Path) -> None:
    served.kill()
    treering("backup", "copy.db").ok()
    log_id, events = log_in(file)
    copied_id, copied = log_in(file.with_name("copy.db"))
    assert (copied, len(copied)) == (events, 3)
    assert copied_id != log_id


def test_a_backup_is_as_private_as_the_log(
    treering: Any, served: ServerProcess, file: Path
) -> None:
    file.chmod(0o600)
    treering("backup", "copy.db").ok()
    assert stat.S_IMODE(file.with_name("copy.db").stat().st_mode) == 0o600


def test_a_backup_takes_the_place_of_nothing(
    treering: Any, served: ServerProcess, file: Path
) -> None:
    (file.parent / "there").write_text("precious")
    (file.parent / "old-wal").write_text("precious")
    (file.parent / "dangling").symlink_to("nowhere")
    for target, in_the_way in (
        ("there", "there"),
        ("treering.db", "treering.db"),
        ("old", "old-wal"),
        ("dangling", "dangling"),
    ):
        assert treering("backup", target).refused() == (
            f"error: {in_the_way} is there already: name a new file\n"
        )
    assert (file.parent / "there").read_text() == "precious"
    assert "No such file or directory" in treering("backup", "no/such/place").refused()


def test_there_is_nothing_to_back_up(treering: Any, tmp_path: Path) -> None:
    assert "treering.db is not there" in treering("backup", "copy.db").refused()
    assert names(tmp_path) == set()
    (tmp_path / "treering.db").touch()
    assert "is no Treering log" in treering("backup", "copy.db").refused()
    execute(tmp_path / "treering.db", "CREATE TABLE customers (n)")
    assert "is no Treering log" in treering("backup", "copy.db").refused()
    (tmp_path / "treering.db").write_text("a letter " * 100)
    assert "is no SQLite database" in treering("backup", "copy.db").refused()
    assert not (tmp_path / "copy.db").exists()


def test_a_backup_in_a_terminal(treering: Any, served: ServerProcess, file: Path) -> None:
    shown = treering.in_terminal("backup", "copy.db").ok()
    size = file.with_name("copy.db").stat().st_size
    assert f"copy.db: {size:,} bytes, the log " in shown
    assert "up to position 3" in shown
    assert "100%" in shown


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_postgresql_has_programs_of_its_own(treering: Any, command: str) -> None:
    error = treering(command, "copy.db", "--database-url", "postgresql://me@there/db").refused()
    assert "pg_basebackup" in error
    assert "pg_dump" in error
    assert GUIDE in error
    assert (Path(__file__).parents[2] / GUIDE).exists()


@pytest.fixture
def large(file: Path) -> Path:
    """A log that takes a while to copy."""
    migrate_database(f"sqlite:///{file}")
    execute(
        file,
        "INSERT INTO types VALUES (1, 'Large')",
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT "
        f"{LARGE // 1_000_000}) INSERT INTO events (position, recorded_at, id, type_id, record) "
        "SELECT n, n, randomblob(16), 1, randomblob(1000000) FROM n",
    )
    return file


def interrupted(process: "subprocess.Popen[str]", pattern: str, number: int) -> int:
    """Sends a signal as soon as a file is there, and gives the exit code."""
    deadline = time.monotonic() + 30
    while not any(each.stat().st_size for each in Path().glob(pattern)):
        assert process.poll() is None
        assert time.monotonic() < deadline
    process.send_signal(number)
    process.communicate(timeout=30)
    return process.returncode


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_a_backup_that_is_broken_off(treering: Any, large: Path, number: int, code: int) -> None:
    before = large.read_bytes()
    beside = names(large.parent)
    assert interrupted(treering.start("backup", "copy.db"), "copy.db.*", number) == code
    left = names(large.parent) - beside
    if number == signal.SIGKILL:
        left -= {"treering.db-wal", "treering.db-shm"}
        assert all(each.startswith("copy.db.") and ".partial" in each for each in left)
    else:
        assert left == set()
    assert large.read_bytes() == before
    treering("backup", "copy.db").ok()
    assert names(large.parent) == beside | left | {"copy.db"}


def test_a_backup_that_fails_leaves_nothing_behind(large: Path) -> None:
    """At whichever step."""
    beside = names(large.parent)
    for steps in (1, 10, 30):
        count = 0

        def fail(done: int, total: int) -> None:
            nonlocal count
            count += 1
            assert 0 < done <= total
            assert names(large.parent) > beside
            if count == steps:  # noqa: B023 - it is called before the next
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            backup(f"sqlite:///{large}", large.with_name("copy.db"), fail)
        assert names(large.parent) == beside


def test_a_backup_that_there_is_no_room_for(large: Path) -> None:
    beside = names(large.parent)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGE // 2, LARGE // 2))

    done = subprocess.run(
        [sys.executable, "-m", "treering", "backup", "copy.db"],
        capture_output=True,
        check=False,
        text=True,
        env=environment(),
        preexec_fn=limit,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "copy.db" in done.stderr
    assert names(large.parent) == beside


# ---- restore


@pytest.fixture
def copy(treering: Any, served: ServerProcess, file: Path) -> Path:
    """A backup of three events; the log has five and is not served any more."""
    treering("backup", "copy.db").ok()
    fill(served, 2)
    assert served.terminate() == 0
    return file.with_name("copy.db")


def test_a_restore(treering: Any, copy: Path, file: Path) -> None:
    before = copy.read_bytes()
    beside = names(file.parent)
    replaced = file.read_bytes()
    file.chmod(0o640)
    copy.chmod(0o400)

    facts = json.loads(treering("restore", "copy.db").ok())

    kept = file.with_name("treering.db.replaced-1")
    assert facts["restored"] == str(file)
    assert facts["kept"] == str(kept)
    assert facts["last_common_position"] == 3
    assert names(file.parent) == beside | {kept.name}
    assert (copy.read_bytes(), kept.read_bytes()) == (before, replaced)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    log_id, events = log_in(file)
    assert (log_id, len(events)) == (facts["log_id"], 3)
    assert facts["log_id_before"] != log_id

    # What was kept can be put back.
    again = json.loads(treering("restore", kept.name).ok())
    assert again["kept"] == str(file.with_name("treering.db.replaced-2"))
    assert again["last_common_position"] == 5
    assert len(log_in(file)[1]) == 5


def test_a_restore_keeps_what_a_crash_left(
    treering: Any, copy: Path, file: Path, server_process: Callable[..., Any]
) -> None:
    server = server_process(f"sqlite:///{file}")
    fill(server, 4)
    server.kill()
    assert file.with_name("treering.db-wal").stat().st_size
    facts = json.loads(treering("restore", "copy.db").ok())
    kept = Path(facts["kept"])
    assert not file.with_name("treering.db-wal").exists()
    assert len(log_in(file)[1]) == 3
    log_id, events = log_in(kept)
    assert (log_id, len(events)) == (facts["log_id_before"], 9)


def test_a_restore_to_where_there_is_none(treering: Any, copy: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    url = sqlite_url(tmp_path / "new")
    facts = json.loads(treering("restore", "copy.db", "--database-url", url).ok())
    assert facts["kept"] is None
    assert names(tmp_path / "new") == {"treering.db", "treering.db.lock"}
    assert len(log_in(tmp_path / "new" / "treering.db")[1]) == 3


def test_a_restore_through_a_link(treering: Any, copy: Path, file: Path) -> None:
    (file.parent / "elsewhere").mkdir()
    real = file.rename(file.parent / "elsewhere" / "real.db")
    file.symlink_to(real)
    facts = json.loads(treering("restore", "copy.db").ok())
    assert facts["restored"] == str(real)
    assert file.is_symlink()
    assert len(log_in(file)[1]) == 3


def test_a_restore_in_a_terminal(treering: Any, copy: Path, file: Path) -> None:
    shown = treering.in_terminal("restore", "copy.db").ok()
    assert "100%" in shown
    assert "treering.db.replaced-1" in shown
    assert "last common position" in shown
    assert "new incarnation" not in shown  # it says so itself


def test_a_restore_of_a_copied_pair(
    treering: Any, copy: Path, file: Path, server_process: Callable[..., Any]
) -> None:
    """A file that has its WAL file beside it is whole, too."""
    server = server_process(f"sqlite:///{file}")
    fill(server, 1)
    for end in ("", "-wal"):
        shutil.copy(f"{file}{end}", f"pair.db{end}")
    server.terminate()
    assert json.loads(treering("restore", "pair.db").ok())["last_common_position"] == 6
    assert len(log_in(file)[1]) == 6


def test_a_log_of_an_older_version_is_restored(treering: Any, file: Path) -> None:
    old = file.with_name("old.db")
    with closing(sqlite3.connect(old)) as connection:
        connection.executescript((RELEASED / "0001" / "sqlite.sql").read_text(encoding="utf-8"))
    before = old.read_bytes()
    treering("restore", "old.db").ok()
    assert old.read_bytes() == before
    held = json.loads((RELEASED / "0001" / "sqlite.json").read_text(encoding="utf-8"))
    assert len(log_in(file)[1]) == len(held["events"])
    # And copied as it is.
    treering("backup", "copy.db", "--database-url", f"sqlite:///{old}").ok()
    with closing(sqlite3.connect("copy.db")) as connection:
        assert connection.execute("SELECT version_num FROM treering_schema").fetchone() == ("0001",)


def test_no_restore_while_a_server_runs(treering: Any, served: ServerProcess, file: Path) -> None:
    treering("backup", "copy.db").ok()
    beside = names(file.parent)
    for arguments in (("restore", "copy.db"), ("fork",)):
        assert f"(pid {served.pid})" in treering(*arguments).refused()
    assert names(file.parent) == beside
    fill(served, 1)
    # Nor while another one is at it; nor does a server start then.
    assert served.terminate() == 0


def damaged(copy: Path) -> str:
    content = bytearray(copy.read_bytes())
    content[4_096 * 4 : 4_096 * 5] = os.urandom(4_096)
    copy.write_bytes(content)
    return "is damaged"


def cut_off(copy: Path) -> str:
    os.truncate(copy, copy.stat().st_size - 4_096)
    return "is cut off"


def of_a_later_version(copy: Path) -> str:
    execute(copy, "UPDATE treering_schema SET version_num = '9999'")
    return f"has schema 9999, newer than this version's {revisions()[-1]}: upgrade Treering"


def without_its_wal(copy: Path) -> str:
    execute(copy, "UPDATE log SET served = 1")
    return "without its -wal file"


def gone(copy: Path) -> str:
    copy.unlink()
    return "is not there"


def a_directory(copy: Path) -> str:
    copy.unlink()
    copy.mkdir()
    return "Is a directory"


def empty(copy: Path) -> str:
    copy.write_bytes(b"")
    return "is no Treering log"


def of_another_program(copy: Path) -> str:
    copy.unlink()
    execute(copy, "CREATE TABLE log (line)")
    return "is no Treering log"


def no_database(copy: Path) -> str:
    copy.write_text("a letter " * 100)
    return "is no SQLite database"


def the_log_itself(copy: Path) -> str:
    copy.unlink()
    copy.symlink_to("treering.db")
    return "is the log's own file"


@pytest.mark.parametrize(
    "spoil",
    [
        *(damaged, cut_off, of_a_later_version, without_its_wal, gone, a_directory, empty),
        *(of_another_program, no_database, the_log_itself),
    ],
)
def test_a_file_that_is_none_to_restore(
    treering: Any, copy: Path, file: Path, spoil: Callable[[Path], str]
) -> None:
    why = spoil(copy)
    before, beside = file.read_bytes(), names(file.parent)
    error = treering("restore", "copy.db").refused()
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert why in error
    assert "copy.db" in error
    assert (file.read_bytes(), names(file.parent)) == (before, beside)
    assert len(log_in(file)[1]) == 5


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_a_restore_that_is_broken_off(treering: Any, large: Path, number: int, code: int) -> None:
    treering("backup", "copy.db").ok()
    before, beside = large.read_bytes(), names(large.parent)
    process = treering.start("restore", "copy.db")
    assert interrupted(process, "treering.db.partial", number) == code
    assert large.read_bytes() == before
    if number != signal.SIGKILL:
        assert names(large.parent) == beside
    facts = json.loads(treering("restore", "copy.db").ok())
    assert names(large.parent) == beside | {Path(facts["kept"]).name}


# ---- fork


def test_a_fork(treering: Any, served: ServerProcess, file: Path) -> None:
    served.terminate()
    facts = json.loads(treering("fork").ok())
    assert facts["last_common_position"] == 3
    log_id, events = log_in(file)
    assert (log_id, len(events)) == (facts["log_id"], 3)
    again = json.loads(treering("fork", "--database-url", f"sqlite:///{file}").ok())
    assert again["log_id_before"] == log_id
    shown = treering.in_terminal("fork").ok()
    assert "last common position" in shown
    assert again["log_id"] in shown


def test_a_fork_of_a_log_in_postgresql_that_is_served(
    treering: Any, postgres_url: str, server_process: Callable[..., Any]
) -> None:
    server = server_process(postgres_url)
    fill(server, 3)
    with Client(server.address) as client:
        before = client.head()
        facts = json.loads(treering("fork", env={"TREERING_DATABASE_URL": postgres_url}).ok())
        assert facts == {
            "log_id_before": before.log_id,
            "log_id": facts["log_id"],
            "last_common_position": 3,
        }
        with pytest.raises(LogDiverged) as caught:
            client.append("a", Event("A"), expected_log_id=before.log_id)
        assert caught.value.log_id == facts["log_id"] != before.log_id
        assert client.append("a", Event("A")).log_id == facts["log_id"]


def test_there_is_nothing_to_fork(treering: Any, tmp_path: Path, postgres_url: str) -> None:
    assert "is not there" in treering("fork").refused()
    assert names(tmp_path) == set()
    execute(tmp_path / "treering.db", "CREATE TABLE customers (n)")
    assert "is no Treering log" in treering("fork").refused()
    assert "run `treering migrate`" in treering("fork", "--database-url", postgres_url).refused()


# ---- how a server says it


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_server_says_once_that_it_began_a_new_incarnation(
    treering: Any, copy: Path, server_process: Callable[..., Any], log_format: str
) -> None:
    log_id = json.loads(treering("backup", "other.db").err)["log_id"]
    server = ServerProcess(f"sqlite:///{copy}", log_format=log_format)
    try:
        deadline = time.monotonic() + 30
        while "listening" not in server.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        lines = [line for line in server.output if "new incarnation" in line]
    finally:
        server.kill()
    assert len(lines) == 1
    assert "file copied" in lines[0]
    assert log_id in lines[0]
    if log_format == "json":
        [said] = [each for each in server.logs if each["event"] == "new incarnation"]
        assert (said["level"], said["before"], said["fork"]) == ("warning", log_id, 3)
        [runs_on] = [each for each in server.logs if each["event"] == "database" and "kind" in each]
        assert runs_on["log_id"] == said["log_id"]
    with ServerProcess(f"sqlite:///{copy}") as again:
        assert "new incarnation" not in again.text


def test_a_migration_says_so_too(treering: Any, copy: Path) -> None:
    migrated = treering("migrate", "--database-url", f"sqlite:///{copy}")
    assert migrated.ok() == ""
    assert "new incarnation" in migrated.err
    assert migrated.err.endswith("the database is up to date\n")


def test_no_room_for_what_is_not_understood(treering: Any) -> None:
    for arguments in (("backup",), ("restore",), ("fork", "x"), ("backup", "a", "b")):
        treering(*arguments).refused(2)
    with pytest.raises(DatabaseUnusable):
        backup("mysql://me@there/db", Path("copy.db"), lambda *_: None)
