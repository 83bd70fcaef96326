"""Backups of a log in SQLite, and their way back.

Both copy page by page through SQLite, inside one read transaction: so the copy is of one moment,
whoever writes meanwhile, and commits do not make it begin again (as they do to a backup between
whose steps no transaction is open). A backup of a log that is being served reads only, so it
never checkpoints, not even when it is the last to have the file open.
"""

import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa

from treering_server.storage import files, incarnations, migrations, sqlite
from treering_server.storage.database import parse_url
from treering_server.storage.files import DatabaseInUse, LogFile
from treering_server.storage.migrations import DatabaseUnusable
from treering_server.storage.schema import incarnations as incarnations_table
from treering_server.storage.statements import last_position

PAGES_PER_STEP = 256
"""What is copied between two chances to be interrupted."""
MARKED_SINCE = "0002"
"""The schema that says whether a file is being served."""
PARTIAL = ".partial"


class Incarnation(NamedTuple):
    """A row of the table of that name."""

    log_id: UUID
    first_position: int
    began_at: int
    cause: str


OnProgress = Callable[[int, int], None]
"""Is told how many bytes are copied, and of how many."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What a backup holds."""

    log_id: UUID
    head: int
    size: int
    """In bytes."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What became of a log."""

    path: Path
    log_id_before: UUID
    """Of the file that was restored."""
    log_id: UUID
    head: int
    kept: Path | None
    """Where the file is that was there before."""


def backup(database_url: str, target: Path, on_progress: OnProgress) -> Copied:
    """Copies a log into a new file, also while it is being served.

    Raises:
        DatabaseUnusable: There is nothing to copy, or nowhere to put it.
        OSError: Likewise.
    """
    source = _file_in(database_url)
    if not source.exists():
        raise DatabaseUnusable(f"{source} is not there: there is no log to back up")
    for each in (target, *_sidecars(target)):
        if os.path.lexists(each):
            raise DatabaseUnusable(f"{each} is there already: name a new file")
    # No other backup's, whose end this one could spoil.
    partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}{PARTIAL}")
    with _in_words(source, target), _opened(source) as connection:
        connection.execute("BEGIN")
        schema = _schema_of(connection, source)
        log_id, head = _end_of(connection, source)
        with _removed_unless_renamed(partial):
            _create_like(source, partial)
            _copy(connection, partial, on_progress)
            _mark_as_copy(partial, is_marked=schema >= MARKED_SINCE)
            _sync(partial)
            if os.path.lexists(target):
                raise DatabaseUnusable(f"{target} is there already: name a new file")
            partial.rename(target)
            _sync(target.parent)
    return Copied(log_id, head, target.stat().st_size)


def restore(database_url: str, source: Path, on_progress: OnProgress) -> Restored:
    """Puts a log in the place of the one that is there, which is kept beside it, and begins a new
    incarnation.

    Raises:
        DatabaseUnusable: The file is none to restore, or a server runs.
        OSError: It can't be read, or the log can't be put in its place.
    """
    target = _file_in(database_url)
    if not source.exists():
        raise DatabaseUnusable(f"{source} is not there")
    if target.exists() and target.samefile(source):
        raise DatabaseUnusable(f"{source} is the log's own file: name a backup of it")
    files.check(files.real(source))
    lock = LogFile(target)
    try:
        # Nobody else makes one of this name while we have the log. One that is there was left by
        # a restore that was killed.
        partial = target.with_name(target.name + PARTIAL)
        with _in_words(source, target), _removed_unless_renamed(partial):
            _remove(partial)
            with _opened_as_it_is(files.real(source)) as connection:
                connection.execute("BEGIN")
                _schema_of(connection, source)
                log_id_before, head = _end_of(connection, source)
                _create_like(target if target.exists() else source, partial)
                _copy(connection, partial, on_progress)
            _check_quickly(partial, source)
            log_id = _begin_anew(partial, _history_of(target))
            _sync(partial)
            kept = _set_aside(target)
            partial.replace(target)
            _sync(target.parent)
            lock.note(log_id, head)
    finally:
        lock.release()
    return Restored(target, log_id_before, log_id, head, kept)


def _file_in(database_url: str) -> Path:
    url = parse_url(database_url)
    if url.drivername != "sqlite":
        raise DatabaseUnusable(
            "PostgreSQL is backed up and restored with its own programs, pg_basebackup or pg_dump: "
            "see docs/guide/backup-and-restore.md"
        )
    return files.real(Path(url.database or ""))


def _sidecars(path: Path) -> list[Path]:
    """What SQLite may keep beside a database."""
    return [path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal")]


@contextmanager
def _in_words(source: Path, target: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite.Error, sa.exc.DBAPIError) as error:
        cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        raise DatabaseUnusable(f"{source} can't be copied to {target}: {cause}") from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A connection to a log that may be being served."""
    try:
        lock = LogFile(path)
    except DatabaseInUse:
        with closing(sqlite.connect(path, mode="ro")) as connection:
            yield connection
        return
    try:
        files.check(path)
        # One that only reads would leave an empty WAL file behind, where there was none.
        with closing(sqlite.connect(path, mode="rw")) as connection:
            yield connection
    finally:
        lock.release()


@contextmanager
def _opened_as_it_is(path: Path) -> Iterator[Any]:
    """A connection to a file that is to stay as it is, perhaps on a medium that can't change."""
    is_alone = not files.wal_of(path).exists()
    with closing(sqlite.connect(path, mode="ro", immutable=is_alone)) as connection:
        yield connection


def _schema_of(connection: Any, path: Path) -> str:
    try:
        row = connection.execute(f"SELECT version_num FROM {migrations.VERSION_TABLE}").fetchone()
    except sqlite.Error as error:
        if "no such table" not in str(error):
            raise
        row = None
    if row is None:
        raise DatabaseUnusable(f"{path} is no Treering log")
    schema, known = str(row[0]), migrations.revisions()
    if schema not in known:
        raise DatabaseUnusable(
            f"{path} has schema {schema}, newer than this version's {known[-1]}: upgrade Treering"
        )
    return schema


def _end_of(connection: Any, path: Path) -> tuple[UUID, int]:
    row = connection.execute(
        "SELECT log_id, (SELECT coalesce(max(position), 0) FROM events) FROM log"
    ).fetchone()
    if row is None:
        raise DatabaseUnusable(f"{path} is no Treering log: it has no id")
    return UUID(bytes=row[0]), row[1]


def _create_like(model: Path, path: Path) -> None:
    """Makes an empty file that is open to no more people than another one, and is the same
    owner's where we may say so."""
    status = model.stat()
    file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, stat.S_IMODE(status.st_mode) & 0o666)
    with suppress(OSError):
        os.fchown(file, status.st_uid, status.st_gid)
    os.close(file)


def _copy(source: Any, partial: Path, on_progress: OnProgress) -> None:
    (page_bytes,) = source.execute("PRAGMA page_size").fetchone()

    def on_step(_status: int, remaining: int, total: int) -> None:
        on_progress((total - remaining) * page_bytes, total * page_bytes)

    with closing(sqlite.connect(partial, mode="rw")) as target:
        # Whatever goes wrong, the file is thrown away.
        for setting in ("journal_mode = OFF", "synchronous = OFF"):
            target.execute(f"PRAGMA {setting}").fetchall()
        source.backup(target, pages=PAGES_PER_STEP, progress=on_step)


def _mark_as_copy(path: Path, *, is_marked: bool) -> None:
    """Whichever file it is put into is another one, and nothing is missing from it."""
    with closing(sqlite.connect(path, mode="rw")) as connection:
        # Not WAL: it needs no other file then, nor one that can be written to.
        for setting in ("locking_mode = EXCLUSIVE", "journal_mode = MEMORY", "synchronous = OFF"):
            connection.execute(f"PRAGMA {setting}").fetchall()
        served = ", served = 0" if is_marked else ""
        connection.execute(f"UPDATE log SET system_id = ?{served}", (files.COPY,))


def _check_quickly(path: Path, source: Path) -> None:
    """Refuses a copy of a damaged file."""
    with (
        closing(sqlite.connect(path, mode="ro", immutable=True)) as connection,
        ThreadPoolExecutor(1) as thread,
    ):
        checking = thread.submit(lambda: connection.execute("PRAGMA quick_check(1)").fetchone())
        try:
            # It is one call of SQLite's, in which no signal would be heard.
            (answer,) = checking.result()
        except BaseException:
            connection.interrupt()
            raise
    if answer != "ok":
        raise DatabaseUnusable(f"{source} is damaged: {' '.join(answer.split())}")


def _begin_anew(path: Path, replaced: Sequence[Incarnation]) -> UUID:
    """Brings a copy up to date and begins a new incarnation in it."""
    engine = sqlite.make_engine(path, connections=1, checkpoints=True)
    try:
        migrations.migrate(engine)
        with engine.connect() as connection, files.writing(connection):
            _keep_history(connection, replaced)
            log_id = incarnations.begin(connection, "restored").log_id
            files.mark(connection, path, served=False)
    finally:
        engine.dispose()
    return log_id


def _history_of(path: Path) -> list[Incarnation]:
    """What a log has gone through, as far as its file can be read."""
    if not path.exists():
        return []
    # It may be what is wrong with it that it is replaced for.
    with suppress(sqlite.Error), _opened_as_it_is(path) as connection:
        rows = connection.execute(
            "SELECT log_id, first_position, began_at, cause FROM incarnations ORDER BY ordinal"
        ).fetchall()
        return [Incarnation(UUID(bytes=log_id), *rest) for log_id, *rest in rows]
    return []


def _keep_history(connection: sa.Connection, replaced: Sequence[Incarnation]) -> None:
    """Keeps the ids that a log has had, in the copy that takes its place."""
    head = last_position(connection)
    rows = connection.execute(sa.select(incarnations_table).order_by(incarnations_table.c.ordinal))
    known = [Incarnation(row.log_id, row.first_position, row.began_at, row.cause) for row in rows]
    kept = with_lost(known, replaced, head)
    if kept != known:
        connection.execute(sa.delete(incarnations_table))
        values = [{"ordinal": n} | each._asdict() for n, each in enumerate(kept, start=1)]
        connection.execute(sa.insert(incarnations_table), values)


def with_lost(
    known: Sequence[Incarnation], replaced: Sequence[Incarnation], head: int
) -> Sequence[Incarnation]:
    """What a copy has gone through, and the log that it takes the place of: so that who knows an
    id that is of that one alone is told up to where it is right.

    What a log has in common with any of its ids ends where the lowest later one begins. So the
    lost ones come behind those that both logs share, as long as they have all of that in common
    with what the copy has behind them.
    """
    ids = [each.log_id for each in known]
    lost = [each for each in replaced if each.log_id not in ids]
    for shared in range(len(known), 0, -1):
        fork = min([head + 1, *(each.first_position for each in known[shared:])])
        if [each.log_id for each in replaced[:shared]] == ids[:shared] and all(
            each.first_position >= fork for each in replaced[shared:]
        ):
            return [*known[:shared], *lost, *known[shared:]]
    return known


def _set_aside(path: Path) -> Path | None:
    """Gives what is in the way another name. At no moment is there no log, or one with another
    one's WAL file."""
    if not any(map(os.path.lexists, (path, *_sidecars(path)))):
        return None
    number = 1
    while any(map(os.path.lexists, _names_beside(path, number))):
        number += 1
    kept, *kept_sidecars = _names_beside(path, number)
    is_there = path.exists()
    try:
        if is_there:
            os.link(path, kept)
        is_linked = True
    except OSError:  # a file system that has no links
        is_linked = False
    # Before the database itself gets another name: without its WAL file it is refused, whereas a
    # WAL file without its database would be lost.
    for sidecar, new_name in zip(_sidecars(path), kept_sidecars, strict=True):
        if sidecar.exists():
            sidecar.rename(new_name)
    if not is_linked:
        path.rename(kept)
    return kept


def _names_beside(path: Path, number: int) -> list[Path]:
    kept = path.with_name(f"{path.name}.replaced-{number}")
    return [kept, *_sidecars(kept)]


@contextmanager
def _removed_unless_renamed(partial: Path) -> Iterator[None]:
    try:
        yield
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    for each in (path, *_sidecars(path)):
        each.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Puts a file on the disk, or the names in a directory."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
