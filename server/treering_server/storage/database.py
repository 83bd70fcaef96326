"""Opens the database that a URL names, as storage that is ready to be used."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from treering_server.core.storage import Storage
from treering_server.storage import files, migrations, sqlite
from treering_server.storage.migrations import DatabaseUnusable

POSTGRESQL_NAMES = {"postgresql", "postgres", "postgresql+psycopg"}
POSTGRESQL_PORT = 5432
_SEVERAL_HOSTS = re.compile(r"^(postgres[a-z+]*://)([^@/]*@)?([^/?@]*,[^/?@]*)(.*)$")
FIRST_SAFE_SQLITE = (3, 51, 3)


@dataclass(frozen=True, slots=True)
class Database:
    """A log's storage, and what it runs on, for people."""

    storage: Storage
    kind: str
    """Product and version."""
    place: str
    """File, or host and database. Never a password."""
    durability: str
    """What an acknowledged append survives."""
    warnings: tuple[str, ...]
    url: sa.URL
    """As it was read."""

    @property
    def is_shared(self) -> bool:
        """Whether other servers may write to the same log."""
        return self.url.drivername != "sqlite"


def parse_url(database_url: str) -> sa.URL:
    """Reads a database URL.

    Raises:
        DatabaseUnusable: It names no database that Treering works with.
    """
    try:
        url = sa.make_url(_SEVERAL_HOSTS.sub(_hosts_as_parameters, database_url))
    except (sa.exc.ArgumentError, ValueError):
        raise DatabaseUnusable(
            "database_url can't be read: expected sqlite:///FILE or postgresql://HOST/DATABASE"
        ) from None
    if url.drivername == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise DatabaseUnusable("database_url names no file: expected sqlite:///FILE")
        return url
    if url.drivername in POSTGRESQL_NAMES:
        return url.set(drivername="postgresql+psycopg")
    raise DatabaseUnusable(
        f"database_url names {url.drivername!r}: expected sqlite:///FILE or "
        "postgresql://HOST/DATABASE"
    )


def _hosts_as_parameters(match: re.Match[str]) -> str:
    """Several hosts, as libpq takes them, in the form that SQLAlchemy does."""
    scheme, user, hosts, rest = match.groups()
    places = [host.rpartition(":") if ":" in host else (host, "", "") for host in hosts.split(",")]
    names = ",".join(name for name, _, _ in places)
    ports = ",".join(port or str(POSTGRESQL_PORT) for _, _, port in places)
    joint = "&" if "?" in rest else "?"
    return f"{scheme}{user or ''}{rest}{joint}host={names}&port={ports}"


def open_database(database_url: str, *, readers: int, migrate: bool) -> Database:
    """Opens a database for serving: checks it, and migrates it unless told not to.

    Raises:
        DatabaseUnusable: It can't be served from; the message says why in one sentence.
    """
    url = parse_url(database_url)
    with in_words(url):
        if url.drivername == "sqlite":
            return _open_sqlite(url, readers=readers, migrate=migrate)
        return _open_postgresql(url, readers=readers, migrate=migrate)


def migrate_database(database_url: str) -> None:
    """Brings a database up to date, and is done.

    Raises:
        DatabaseUnusable: It can't be.
    """
    database = open_database(database_url, readers=1, migrate=True)
    database.storage.close()


@contextmanager
def in_words(url: sa.URL) -> Iterator[None]:
    """Turns every error into one sentence.

    Raises:
        DatabaseUnusable: It.
    """
    try:
        yield
    except DatabaseUnusable:
        raise
    except Exception as error:
        raise DatabaseUnusable(_sentence(url, error)) from error


def _sentence(url: sa.URL, error: Exception) -> str:
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) and error.orig else error
    reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    return f"{url.render_as_string(hide_password=True)} can't be used: {reason}"


def _open_sqlite(url: sa.URL, *, readers: int, migrate: bool) -> Database:
    file = files.LogFile(Path(url.database or ""))
    path = file.path
    try:
        files.check(path)
        engine = sqlite.make_engine(path, connections=1, checkpoints=True)
        try:
            _bring_up(engine, migrate=migrate)
            file.begin_serving(engine)
            try:
                storage = sqlite.SqliteStorage(file, readers=readers)
            except BaseException:
                file.end_serving()
                raise
        finally:
            # Not before another connection is open: the last one to be closed removes the WAL
            # file, without which a file that is marked as served is taken for a copy.
            engine.dispose()
    except BaseException:
        file.release()
        raise
    version = tuple(int(part) for part in sqlite.SQLITE_VERSION.split("."))
    warnings = []
    if version < FIRST_SAFE_SQLITE:
        warnings.append(
            f"SQLite {sqlite.SQLITE_VERSION} has the WAL-reset defect (mended in 3.51.3); only "
            "one connection checkpoints here, which avoids it; do not open the file with other "
            "programs"
        )
    return Database(
        storage=storage,
        kind=f"SQLite {sqlite.SQLITE_VERSION}",
        place=str(path),
        durability="flushed to this machine's disk at every commit (WAL, synchronous=FULL)",
        warnings=tuple(warnings),
        url=url,
    )


def _open_postgresql(url: sa.URL, *, readers: int, migrate: bool) -> Database:
    # Here, as those who keep their log in SQLite need not wait for its driver.
    from treering_server.storage import postgresql

    engine = postgresql.make_engine(url, connections=readers + 2)
    try:
        facts = postgresql.examine(engine)
        if facts.refusal is not None:
            raise DatabaseUnusable(facts.refusal)
        _bring_up(engine, migrate=migrate)
        postgresql.probe_append_lock(engine)
    except BaseException:
        engine.dispose()
        raise
    return Database(
        storage=postgresql.PostgresqlStorage(engine),
        kind=f"PostgreSQL {facts.version}",
        place=f"{_hosts(url)}/{facts.database}",
        durability=facts.durability,
        warnings=(),
        url=url,
    )


def _hosts(url: sa.URL) -> str:
    several = url.query.get("host")
    if several is not None:
        return several if isinstance(several, str) else ",".join(several)
    return f"{url.host or 'local socket'}:{url.port or POSTGRESQL_PORT}"


def _bring_up(engine: sa.Engine, *, migrate: bool) -> None:
    if migrate:
        migrations.migrate(engine)
    else:
        migrations.check(engine)
