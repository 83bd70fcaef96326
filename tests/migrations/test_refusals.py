"""Databases that can't be served from: each is refused in one sentence that says why."""

import os
import shutil
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc
import psycopg
import pytest
import sqlalchemy as sa

from calls import append, append_to, head_of, make_event
from databases import Postgres, PostgresServer, free_port
from servers import InProcessServer, ServerProcess, environment
from treering.v1.event_store_service_pb2_grpc import EventStoreServiceStub
from treering_server.server import StartError
from treering_server.storage.database import migrate_database
from treering_server.storage.forks import fork
from treering_server.storage.migrations import VERSION_TABLE, DatabaseUnusable, revisions


async def refusal_of(database_url: str, **settings: bool) -> str:
    """Why a server won't start on it."""
    with pytest.raises(StartError) as refused:
        async with InProcessServer(database_url, **settings):
            pass
    sentence = str(refused.value)
    assert 0 < len(sentence) <= 300
    for word in ("\n", "Traceback", "b'", "sqlalchemy", "psycopg.", "(Background", "[SQL"):
        assert word not in sentence
    return sentence


def execute(engine: sa.Engine, *statements: str) -> None:
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


# --- what is in the database


async def test_one_that_was_never_migrated_if_it_may_not_be(database_url, engine):
    assert "run `treering migrate`" in await refusal_of(database_url, migrate=False)
    assert sa.inspect(engine).get_table_names() == []
    migrate_database(database_url)
    async with InProcessServer(database_url, migrate=False):
        pass


@pytest.mark.parametrize("migrate", [True, False])
async def test_one_of_a_newer_version(database_url, engine, migrate):
    migrate_database(database_url)
    execute(engine, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    sentence = await refusal_of(database_url, migrate=migrate)
    assert "has schema 9999, newer than this server's" in sentence
    assert "upgrade Treering" in sentence


@pytest.mark.parametrize("migrate", [True, False])
async def test_one_with_a_table_of_its_own_by_the_name_of_ours(database_url, engine, migrate):
    execute(engine, "CREATE TABLE events (n integer)", "INSERT INTO events VALUES (7)")
    assert "a table 'events'" in await refusal_of(database_url, migrate=migrate)
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT n FROM events")) == 7
    assert sa.inspect(engine).get_table_names() == ["events"]


async def test_other_tables_are_left_alone(database_url, engine):
    execute(engine, "CREATE TABLE customers (n integer)", "INSERT INTO customers VALUES (7)")
    async with InProcessServer(database_url):
        pass
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT n FROM customers")) == 7


# --- SQLite


@pytest.mark.parametrize(
    "content",
    [b"no database at all " * 100, b"SQLite format 3\0" + b"\xff" * 4_080],
    ids=["no database", "broken"],
)
async def test_a_file_that_is_no_database(tmp_path, content):
    file = tmp_path / "treering.db"
    file.write_bytes(content)
    assert f"{file} is no SQLite database" in await refusal_of(f"sqlite:///{file}")
    assert file.read_bytes() == content


async def test_a_file_in_a_directory_that_is_not_there(tmp_path):
    assert "No such file or directory" in await refusal_of(f"sqlite:///{tmp_path}/no/treering.db")


async def test_a_path_that_is_a_directory(tmp_path):
    assert "can't be used" in await refusal_of(f"sqlite:///{tmp_path}")


WRITING = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("BEGIN EXCLUSIVE")
print("writing", flush=True)
sys.stdin.read()
"""


async def test_a_file_that_another_program_writes_to(sqlite_file_url):
    """No server of ours: that one would be named by its pid."""
    migrate_database(sqlite_file_url)
    path = sqlite_file_url.removeprefix("sqlite:///")
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", WRITING, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"writing\n"
        assert "database is locked" in await refusal_of(sqlite_file_url)
        other.communicate()
    async with InProcessServer(sqlite_file_url):
        pass


def file_in(database_url: str) -> Path:
    return Path(database_url.removeprefix("sqlite:///"))


def wal_of(file: Path) -> Path:
    return file.with_name(f"{file.name}-wal")


async def make_copies(directory: Path, *, with_wal: bool, after_kill: bool) -> tuple[Path, Path]:
    """A log of three events, and a copy of its file that is made while a server runs, or after
    it was killed."""
    file, copy = directory / "treering.db", directory / "copy.db"
    process = ServerProcess(f"sqlite:///{file}")
    try:
        async with grpc.aio.insecure_channel(process.address) as channel:
            for _ in range(3):
                await append(EventStoreServiceStub(channel), append_to("a"))
        if after_kill:
            process.kill()
        shutil.copy(file, copy)
        if with_wal:
            shutil.copy(wal_of(file), wal_of(copy))
    finally:
        process.kill()
    return file, copy


async def log_of(database_url: str) -> tuple[str, int]:
    """Id and head of a log, served."""
    async with (
        InProcessServer(database_url) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        head = await head_of(EventStoreServiceStub(channel))
        return head.log_id, head.head_position


@pytest.mark.parametrize("after_kill", [False, True], ids=["while it runs", "after kill -9"])
async def test_a_copy_without_what_the_server_wrote_last(tmp_path, after_kill):
    file, copy = await make_copies(tmp_path, with_wal=False, after_kill=after_kill)
    before = copy.read_bytes()
    for _ in range(2):  # To look at it changes nothing.
        sentence = await refusal_of(f"sqlite:///{copy}")
        assert f"{copy} was copied or moved" in sentence
        assert "without its -wal file" in sentence
        assert "`treering backup`" in sentence
        assert "`treering fork`" in sentence
    with pytest.raises(DatabaseUnusable, match="without its -wal file"):
        migrate_database(f"sqlite:///{copy}")
    assert copy.read_bytes() == before
    assert not wal_of(copy).exists()

    # The log itself has its end still.
    log_id, head = await log_of(f"sqlite:///{file}")
    assert head == 3
    forked = fork(f"sqlite:///{copy}")
    assert str(forked.log_id_before) == log_id
    copied_id, copied_head = await log_of(f"sqlite:///{copy}")
    assert copied_id == str(forked.log_id)
    assert copied_head == forked.last_common_position < 3


@pytest.mark.parametrize("after_kill", [False, True], ids=["while it runs", "after kill -9"])
async def test_a_copy_of_all_files_is_a_new_incarnation(tmp_path, after_kill):
    file, copy = await make_copies(tmp_path, with_wal=True, after_kill=after_kill)
    log_id, head = await log_of(f"sqlite:///{file}")
    copied_id, copied_head = await log_of(f"sqlite:///{copy}")
    assert head == copied_head == 3
    assert copied_id != log_id
    assert await log_of(f"sqlite:///{copy}") == (copied_id, 3)


async def test_a_file_that_lost_its_end(sqlite_file_url):
    migrate_database(sqlite_file_url)
    file = file_in(sqlite_file_url)
    whole = file.read_bytes()
    for size in (len(whole) - 1, len(whole) - 4_096, 4_096, 99, 20):
        file.write_bytes(whole[:size])
        sentence = await refusal_of(sqlite_file_url)
        assert f"{file} is cut off" in sentence
        assert f"{size:,} bytes" in sentence
        assert "`treering restore`" in sentence
    assert file.read_bytes() == whole[:20]
    file.write_bytes(whole)
    async with InProcessServer(sqlite_file_url):
        pass


async def test_what_a_crash_leaves_is_not_taken_for_cut_off(sqlite_file_url):
    """In the middle of a checkpoint the file may be shorter than it says; the rest is in the WAL
    file."""
    file = file_in(sqlite_file_url)
    process = ServerProcess(sqlite_file_url)
    try:
        async with grpc.aio.insecure_channel(process.address) as channel:
            await append(
                EventStoreServiceStub(channel), append_to("a", make_event(data=b"x" * 100_000))
            )
    finally:
        process.kill()
    wal = wal_of(file).read_bytes()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint")
        pages = file.read_bytes()
    file.write_bytes(pages[:-8_192])
    wal_of(file).write_bytes(wal)
    assert (await log_of(sqlite_file_url))[1] == 1
    assert file.stat().st_size == len(pages)


@pytest.mark.parametrize("is_empty", [False, True])
async def test_a_wal_file_without_its_database(tmp_path, is_empty):
    """SQLite would delete it."""
    file, copy = await make_copies(tmp_path, with_wal=True, after_kill=True)
    file.unlink()
    if is_empty:
        file.touch()
    wal = wal_of(file).read_bytes()
    sentence = await refusal_of(f"sqlite:///{file}")
    assert f"{wal_of(file)} is there" in sentence
    assert ("is empty" if is_empty else "is not there") in sentence
    assert wal_of(file).read_bytes() == wal
    copy.rename(file)
    assert (await log_of(f"sqlite:///{file}"))[1] == 3


def execute_in_file(file: Path, statement: str) -> None:
    """Changes a file behind the server's back, and leaves the WAL file where there is one."""
    had_wal = wal_of(file).exists()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(statement)
        connection.commit()
    if had_wal:
        wal_of(file).touch()


async def test_a_start_that_fails_does_not_make_a_copy_of_what_crashed(sqlite_file_url):
    """The last connection that is closed removes the WAL file, but not what is marked."""
    file = file_in(sqlite_file_url)
    process = ServerProcess(sqlite_file_url)
    process.wait_until_ready()
    execute_in_file(file, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    process.kill()
    for _ in range(2):
        assert "has schema 9999" in await refusal_of(sqlite_file_url)
    execute_in_file(file, f"UPDATE {VERSION_TABLE} SET version_num = '{revisions()[-1]}'")
    async with InProcessServer(sqlite_file_url):
        pass


async def test_a_server_that_can_not_mark_the_file_as_closed(sqlite_file_url):
    file = file_in(sqlite_file_url)
    async with InProcessServer(sqlite_file_url):
        execute_in_file(
            file,
            "CREATE TRIGGER full BEFORE UPDATE ON log BEGIN SELECT raise(ABORT, 'no room'); END",
        )
    assert wal_of(file).read_bytes() == b""
    execute_in_file(file, "DROP TRIGGER full")
    async with InProcessServer(sqlite_file_url):
        pass


async def test_a_second_server_is_told_of_the_first_whatever_is_in_the_lock_file(sqlite_file_url):
    lock = file_in(f"{sqlite_file_url}.lock")
    for content in ("", "x" * 500, f"{2**40}\n{uuid.uuid4()} {2**63}\nmore\n", "\n\n"):
        lock.write_text(content)
        async with InProcessServer(sqlite_file_url):
            assert f"(pid {os.getpid()})" in await refusal_of(sqlite_file_url)


# --- PostgreSQL


async def test_no_server_at_the_address():
    sentence = await refusal_of(f"postgresql://me:secret@127.0.0.1:{free_port()}/treering")
    assert "can't be used" in sentence
    assert "secret" not in sentence


async def test_a_database_that_is_not_there(postgres_url):
    assert "does not exist" in await refusal_of(f"{postgres_url}_not")


@pytest.fixture
def role(postgres: Postgres) -> Iterator[str]:
    """A role that may do nothing yet."""
    postgres.execute("CREATE ROLE treering_guest LOGIN")
    yield "treering_guest"
    postgres.execute("DROP OWNED BY treering_guest")
    postgres.execute("DROP ROLE treering_guest")


async def test_a_role_that_may_not_make_tables(postgres_url, role):
    guest_url = postgres_url.replace("//postgres@", f"//{role}@")
    assert "permission denied" in await refusal_of(guest_url)


async def test_a_role_that_only_reads(postgres_url):
    migrate_database(postgres_url)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        database = connection.info.dbname
        connection.execute(
            f"ALTER ROLE postgres IN DATABASE {database} "
            "SET default_transaction_read_only = on".encode()
        )
    assert "takes no writes" in await refusal_of(postgres_url)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_an_encoding_that_is_not_utf8(postgres, encoding):
    name = f"treering_{encoding.lower()}"
    postgres.execute(
        f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 "
        "LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    url = postgres._url.rpartition("/")[0] + f"/{name}"
    try:
        assert f"encoding is {encoding}: UTF8 is needed" in await refusal_of(url)
    finally:
        postgres.drop_database(url)


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
async def test_a_server_that_would_lose_acknowledged_events(setting):
    with PostgresServer({setting: "off"}) as server:
        assert "fsync or full_page_writes off" in await refusal_of(server.create_database())


async def test_a_standby(own_postgres):
    url = own_postgres.create_database()
    migrate_database(url)
    with own_postgres.standby() as standby:
        standby_url = url.replace(f":{own_postgres.port}/", f":{standby.port}/")
        assert "takes no writes (a standby?)" in await refusal_of(standby_url)


# --- URLs, and how the command line says it


@pytest.mark.parametrize(
    "url", ["mysql://me@there/db", "sqlite://", "sqlite:///:memory:", "treering.db", "", "://"]
)
async def test_a_url_that_names_no_database_of_ours(url):
    assert "expected sqlite:///FILE" in await refusal_of(url)


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_the_command_line_says_it_in_one_line_and_ends_with_1(tmp_path, command):
    file = tmp_path / "treering.db"
    file.write_bytes(b"no database at all " * 100)
    done = subprocess.run(
        [sys.executable, "-m", "treering", command, "--database-url", f"sqlite:///{file}"],
        capture_output=True,
        check=False,
        text=True,
        env=environment(),
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "is no SQLite database" in done.stderr
