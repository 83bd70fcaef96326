"""Databases that can't be served from: each is refused in one sentence that says why."""

import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa

from databases import Postgres, PostgresServer, free_port
from servers import InProcessServer, environment
from treering_server.server import StartError
from treering_server.storage.database import migrate_database
from treering_server.storage.migrations import VERSION_TABLE


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
