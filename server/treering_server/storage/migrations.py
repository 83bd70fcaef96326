"""Brings a database up to the schema that this server works with."""

import pkgutil
import time
from pathlib import Path
from uuid import uuid4

import sqlalchemy as sa

import treering_migrations
from treering_migrations import versions
from treering_server.storage.schema import incarnations, log, metadata

VERSION_TABLE = "treering_schema"

# Before there is a table to make a key of. Only migrations take it. What they write needs no
# standby's word: nothing was acknowledged yet, and the first append waits for all of it.
_MIGRATION_LOCK = sa.text("""
    SELECT set_config('lock_timeout', '60s', true),
      set_config('synchronous_commit', 'local', true),
      pg_advisory_xact_lock(x'7472656572696e67'::bigint)
""")


class DatabaseUnusable(Exception):
    """A database that can't be served from; the message is one sentence for the operator."""


def migrate(engine: sa.Engine) -> None:
    """Makes the schema, or brings it up to date. Two servers may do so at once.

    Raises:
        DatabaseUnusable: The database is newer than this server, or not Treering's.
    """
    with engine.connect() as connection:
        postgresql = connection.dialect.name == "postgresql"
        # By hand: SQLite's driver would leave the making of tables outside of a transaction.
        begin = "BEGIN ISOLATION LEVEL READ COMMITTED" if postgresql else "BEGIN IMMEDIATE"
        connection.exec_driver_sql(begin)
        try:
            if postgresql:
                connection.execute(_MIGRATION_LOCK)
            if _pending(connection):
                _upgrade(connection)
            if connection.scalar(sa.select(log.c.log_id)) is None:
                _begin_log(connection)
        except BaseException:
            connection.invalidate()
            raise
        connection.exec_driver_sql("COMMIT")


def check(engine: sa.Engine) -> None:
    """Refuses a database whose schema is not this server's.

    Raises:
        DatabaseUnusable: It is older, newer, or not Treering's.
    """
    with engine.connect() as connection:
        if _pending(connection):
            raise DatabaseUnusable(
                "the database has not been migrated to this version: run `treering migrate`"
            )


def revisions() -> list[str]:
    """Ids of all migrations that this server has, oldest first: `0001` is in `v0001_….py`."""
    modules = sorted(module.name for module in pkgutil.iter_modules(versions.__path__))
    return [name[1:].partition("_")[0] for name in modules]


def _upgrade(connection: sa.Connection) -> None:
    # Here, as a start with nothing to migrate should not wait for Alembic.
    import alembic.command
    import alembic.config

    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(treering_migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    alembic.command.upgrade(config, "head")


def _pending(connection: sa.Connection) -> bool:
    """Whether migrations are to be run; refuses what none of them leads to."""
    tables = set(sa.inspect(connection).get_table_names())
    if VERSION_TABLE not in tables:
        foreign = metadata.tables.keys() & tables
        if foreign:
            raise DatabaseUnusable(
                f"the database is not Treering's: it has a table {min(foreign)!r} that Treering "
                "did not make; name another database or schema"
            )
        return True
    current = connection.scalar(sa.text(f"SELECT version_num FROM {VERSION_TABLE}"))
    known = revisions()
    if current not in known:
        raise DatabaseUnusable(
            f"the database has schema {current}, newer than this server's {known[-1]}: "
            "upgrade Treering"
        )
    return bool(current != known[-1])


def _begin_log(connection: sa.Connection) -> None:
    log_id = uuid4()
    connection.execute(sa.insert(log).values(one=1, log_id=log_id))
    connection.execute(
        sa.insert(incarnations).values(
            ordinal=1,
            log_id=log_id,
            first_position=1,
            began_at=time.time_ns() // 1000,
            cause="created",
        )
    )
