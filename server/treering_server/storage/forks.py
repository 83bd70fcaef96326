"""Begins a new incarnation where an operator says that the log may have lost its end."""

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import sqlalchemy as sa

from treering_server.storage import files, incarnations, migrations, sqlite
from treering_server.storage.database import in_words, parse_url
from treering_server.storage.files import LogFile
from treering_server.storage.migrations import DatabaseUnusable
from treering_server.storage.schema import events, log

LOCK_SECONDS = 5.0
"""How long the append lock is waited for."""


@dataclass(frozen=True, slots=True)
class Fork:
    """A new incarnation."""

    log_id_before: UUID
    log_id: UUID
    last_common_position: int


def fork(database_url: str) -> Fork:
    """Gives a log a new id from its next event on. On SQLite no server may run; a file that
    lacks its WAL file is taken for whole.

    Raises:
        DatabaseUnusable: It can't be; the message says why in one sentence.
    """
    url = parse_url(database_url)
    with in_words(url):
        return _fork_sqlite(url) if url.drivername == "sqlite" else _fork_postgresql(url)


def _fork_sqlite(url: sa.URL) -> Fork:
    path = files.real(Path(url.database or ""))
    if not path.exists():
        raise DatabaseUnusable(f"{path} is not there: there is no log to fork")
    file = LogFile(path)
    try:
        files.check(path, may_lack_wal=True)
        engine = sqlite.make_engine(path, connections=1, checkpoints=True)
        try:
            if not sa.inspect(engine).has_table(migrations.VERSION_TABLE):
                raise DatabaseUnusable(f"{path} is no Treering log")
            # Otherwise neither this nor `migrate` could come first.
            migrations.migrate(engine)
            with engine.connect() as connection:
                with files.writing(connection):
                    forked = _begin(connection)
                    files.mark(connection, path, served=False)
                file.see(connection)
        finally:
            engine.dispose()
    finally:
        file.release()
    return forked


def _fork_postgresql(url: sa.URL) -> Fork:
    from treering_server.storage import postgresql

    engine = postgresql.make_engine(url, connections=1)
    try:
        refusal = postgresql.examine(engine).refusal
        if refusal is not None:
            raise DatabaseUnusable(refusal)
        migrations.check(engine)
        with engine.connect() as connection:
            may_ask = connection.exec_driver_sql(postgresql.MAY_ASK).scalar()
            identity = postgresql.IDENTITY.format(
                system_id=postgresql.SYSTEM_ID if may_ask else "''"
            )
            connection.exec_driver_sql(
                postgresql.BEGIN.format(
                    lock=round(LOCK_SECONDS * 1000),
                    statement=round(postgresql.STATEMENT_SECONDS * 1000),
                    idle=round(postgresql.IDLE_SECONDS * 1000),
                    key=postgresql.APPEND_LOCK_KEY,
                )
            )
            # As after a failover: the first append waits for the standbys.
            connection.exec_driver_sql("SET LOCAL synchronous_commit = 'local'")
            forked = _begin(connection)
            found = connection.exec_driver_sql(identity).one()
            connection.execute(
                sa.update(log).values(system_id=found.system_id_now, timeline=found.timeline_now)
            )
            connection.exec_driver_sql("COMMIT")
    finally:
        engine.dispose()
    return forked


def _begin(connection: sa.Connection) -> Fork:
    before = connection.scalar(sa.select(log.c.log_id))
    assert before is not None
    log_id = incarnations.begin(connection, "forked by hand")
    head = connection.scalar(sa.select(sa.func.max(events.c.position))) or 0
    return Fork(before, log_id, head)
