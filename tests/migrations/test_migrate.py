"""Migrations: what they leave is what the code declares, whatever happens on the way."""

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import alembic.autogenerate
import alembic.migration
import alembic.op
import psycopg
import pytest
import sqlalchemy as sa

from databases import sqlite_url
from plans.logs import make_event, opened, write
from servers import environment
from treering_server.storage import schema
from treering_server.storage.database import migrate_database
from treering_server.storage.migrations import VERSION_TABLE, DatabaseUnusable

MIGRATION_LOCK = "x'7472656572696e67'::bigint"
SECONDS = 30


def tables_of(engine):
    return set(sa.inspect(engine).get_table_names())


def rows(engine, statement):
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(statement))]


def test_an_empty_database_is_made_a_log(database_url, engine):
    migrate_database(database_url)
    assert tables_of(engine) == {*schema.metadata.tables, VERSION_TABLE}
    [(log_id,)] = rows(engine, "SELECT log_id FROM log")
    assert rows(engine, "SELECT ordinal, log_id, first_position, cause FROM incarnations") == [
        (1, log_id, 1, "created")
    ]


def test_migrating_again_changes_nothing(database_url, engine):
    migrate_database(database_url)
    with opened(database_url) as storage:
        write(storage, [("a", make_event())])
        before = storage.head()
    facts = facts_of(engine)
    migrate_database(database_url)
    with opened(database_url) as storage:
        assert storage.head() == before
    assert facts_of(engine) == facts


# --- what was migrated is what is declared


def test_alembic_sees_no_difference(database_url, engine):
    migrate_database(database_url)
    assert differences(engine, schema.metadata) == []


def test_alembic_would_see_a_difference(database_url, engine):
    migrate_database(database_url)
    changed = sa.MetaData()
    for table in schema.metadata.tables.values():
        table.to_metadata(changed)
    changed.tables["events"].append_column(sa.Column("more", sa.Integer))
    changed.tables["log"].c.system_id.nullable = False
    assert len(differences(engine, changed)) == 2


def differences(engine, metadata):
    with engine.connect() as connection:
        context = alembic.migration.MigrationContext.configure(
            connection,
            opts={
                "version_table": VERSION_TABLE,
                "compare_type": True,
                "compare_server_default": True,
            },
        )
        return alembic.autogenerate.compare_metadata(context, metadata)


def test_the_databases_see_no_difference(database_url, engine, other_engine):
    """Alembic passes over collations, checks, the columns that an index only carries, and
    what keeps a table without row ids; so here is what the databases say themselves."""
    migrate_database(database_url)
    schema.metadata.create_all(other_engine)
    migrated, declared = facts_of(engine), facts_of(other_engine)
    assert migrated == declared
    assert len(migrated) > 50


@pytest.fixture
def other_engine(request, engine, tmp_path):
    """Another empty database of the same kind."""
    if engine.dialect.name == "sqlite":
        (tmp_path / "other").mkdir()
        other = sa.create_engine(sqlite_url(tmp_path / "other"))
        yield other
        other.dispose()
        return
    postgres = request.getfixturevalue("postgres")
    url = postgres.create_database()
    other = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
    yield other
    other.dispose()
    postgres.drop_database(url)


POSTGRESQL_FACTS = [
    """
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
      split_part(replace(pg_get_expr(d.adbin, d.adrelid), '''', ''), '::', 1), o.collname
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    LEFT JOIN pg_collation o ON o.oid = a.attcollation
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
    """,
    "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
    """,
]
SQLITE_FACTS = [
    "SELECT name, wr FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE 'sqlite_%'",
    """
    SELECT t.name, c.name, c.type, c."notnull", replace(c.dflt_value, '''', ''), c.pk
    FROM sqlite_schema t JOIN pragma_table_info(t.name) c WHERE t.type = 'table'
    """,
    """
    SELECT t.name, i."unique", i.origin, i.partial, x.seqno, x.name, x."desc", x.coll, x.key
    FROM sqlite_schema t JOIN pragma_index_list(t.name) i JOIN pragma_index_xinfo(i.name) x
    WHERE t.type = 'table'
    """,
    """
    SELECT name, sql LIKE '%CHECK (one = 1)%', sql LIKE '%CHECK (position > 0)%',
      sql LIKE '%CHECK ((stream_id IS NULL) = (version IS NULL))%'
    FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'
    """,
]


def facts_of(engine):
    """All that the database says of the tables, but for the one that Alembic keeps."""
    statements = SQLITE_FACTS if engine.dialect.name == "sqlite" else POSTGRESQL_FACTS
    facts = [fact for statement in statements for fact in rows(engine, statement)]
    return sorted((fact for fact in facts if VERSION_TABLE not in str(fact[0])), key=repr)


# --- several at once


@dataclass
class Migrating:
    """`treering migrate`, in a process of its own."""

    process: "subprocess.Popen[str]"

    @classmethod
    def start(cls, url: str) -> "Migrating":
        return cls(
            subprocess.Popen(
                [sys.executable, "-m", "treering", "migrate", "--database-url", url],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment(),
            )
        )

    def end(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, output


async def migrate_at_once(url: str, count: int) -> list[tuple[int, str]]:
    """Lets several processes wait for the migration lock, so that all are about to migrate, and
    then lets them go."""
    with psycopg.connect(url) as holder, psycopg.connect(url, autocommit=True) as watcher:
        holder.execute(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})".encode())
        started = [Migrating.start(url) for _ in range(count)]
        async with asyncio.timeout(SECONDS):
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while watcher.execute(waiting).fetchone() != (count,):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    return [each.end() for each in started]


async def test_four_processes_may_migrate_at_once_on_postgresql(postgres_url):
    ends = await migrate_at_once(postgres_url, 4)
    assert [code for code, _ in ends] == [0] * 4, ends
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT count(*) FROM incarnations").fetchone() == (1,)


async def test_several_may_migrate_at_once_whatever_the_isolation_by_default(postgres_url):
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(
            f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'".encode()
        )
    ends = await migrate_at_once(postgres_url, 2)
    assert [code for code, _ in ends] == [0] * 2, ends


def test_on_sqlite_a_second_process_is_refused_by_the_pid_of_the_first(
    sqlite_file_url, server_process
):
    first = server_process(sqlite_file_url)
    code, output = Migrating.start(sqlite_file_url).end()
    assert code == 1
    assert f"(pid {first.pid})" in output
    assert output.count("\n") == 1
    assert first.is_running


# --- interrupted


@pytest.mark.parametrize("statement", [1, 5, 10])
def test_an_interrupted_migration_leaves_nothing_behind(
    database_url, engine, monkeypatch, statement
):
    execute, count = alembic.op.execute, 0

    def fail(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == statement:
            raise RuntimeError("Interrupted")
        execute(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(alembic.op, "execute", fail)
        with pytest.raises(DatabaseUnusable, match="Interrupted"):
            migrate_database(database_url)
    assert tables_of(engine) == set()

    migrate_database(database_url)
    assert differences(engine, schema.metadata) == []


KILLED = f"""
import os, sys
import alembic.op
from treering_server.storage.database import migrate_database
execute, count = alembic.op.execute, 0
def die(*arguments):
    global count
    count += 1
    if count == 5:
        os.kill(os.getpid(), {int(signal.SIGKILL)})
    execute(*arguments)
alembic.op.execute = die
migrate_database(sys.argv[1])
"""


def test_a_migration_that_was_killed_leaves_nothing_behind(database_url, engine):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, database_url], check=False, env=dict(os.environ)
    )
    assert done.returncode == -signal.SIGKILL
    assert tables_of(engine) == set()

    migrate_database(database_url)
    assert differences(engine, schema.metadata) == []
