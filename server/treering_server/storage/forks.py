"""Begins a new incarnation where an operator says that the log may have lost its end."""

from pathlib import Path

import sqlalchemy as sa

from treering_server.storage import files, incarnations, migrations, sqlite
from treering_server.storage.database import in_words, parse_url
from treering_server.storage.files import LogFile
from treering_server.storage.incarnations import Fork
from treering_server.storage.migrations import DatabaseUnusable

CAUSE = "forked by hand"


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
                    forked = incarnations.begin(connection, CAUSE)
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
            identity = postgresql.identity_statement(connection)
            with postgresql.taking_over(connection, identity):
                forked = incarnations.begin(connection, CAUSE)
    finally:
        engine.dispose()
    return forked
