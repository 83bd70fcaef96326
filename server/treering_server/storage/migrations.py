"""Brings a database up to the schema that this server works with."""

import time
from pathlib import Path
from uuid import uuid4

import alembic.command
import alembic.config
import alembic.migration
import alembic.script
import sqlalchemy as sa
import treering_migrations

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
        connection.exec_driver_sql("BEGIN" if postgresql else "BEGIN IMMEDIATE")
        try:
            if postgresql:
                connection.execute(_MIGRATION_LOCK)
            if _pending(connection):
                alembic.command.upgrade(_config(connection), "head")
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


def _config(connection: sa.Connection | None = None) -> alembic.config.Config:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(treering_migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _pending(connection: sa.Connection) -> bool:
    """Whether migrations are to be run; refuses what none of them leads to."""
    script = alembic.script.ScriptDirectory.from_config(_config())
    context = alembic.migration.MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE}
    )
    current = context.get_current_revision()
    if current is None:
        foreign = metadata.tables.keys() & set(sa.inspect(connection).get_table_names())
        if foreign:
            raise DatabaseUnusable(
                f"the database is not Treering's: it has a table {min(foreign)!r} that Treering "
                "did not make; name another database or schema"
            )
        return True
    if current not in {revision.revision for revision in script.walk_revisions()}:
        raise DatabaseUnusable(
            f"the database has schema {current}, newer than this server's "
            f"{script.get_current_head()}: upgrade Treering"
        )
    return current != script.get_current_head()


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
