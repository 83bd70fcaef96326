"""The SQLite log as a file: who has it, whether it is whole, and whether it is the one it was.

A log must notice where it may have lost its end. Three things tell, each kept where the others
can't be lost with it:

- `log.system_id` in the database: which file it is in, as device and inode. A copy is another.
- Beside the process id in the lock file: the log id and head that were last seen here. An older
  file that was copied over this one keeps the inode, but ends before.
- `log.served` in the database: that a server has the file open. While one has, the end of the log
  may be in the WAL file alone; so a file that says so, and has none, was copied without it.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import sqlalchemy as sa
import structlog

from treering_server.storage import incarnations, sqlite
from treering_server.storage.migrations import DatabaseUnusable
from treering_server.storage.schema import incarnations as incarnations_table
from treering_server.storage.schema import log
from treering_server.storage.statements import last_position

COPY = "copy"
"""Stands for the file's identity in a backup: whichever file that is put into, it is another."""
CHECKPOINT_WAIT_MILLISECONDS = 500
"""How long a start waits for a backup that is under way, before it goes on without emptying the
WAL file."""

_log = structlog.get_logger("treering.files")

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_EMPTY_WAL_BYTES = 32
_SEEN = re.compile(r"([0-9a-f-]{36}) (\d+)")


class DatabaseInUse(DatabaseUnusable):
    """Another process has the file."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The end of a log, as it was once."""

    log_id: UUID
    head: int


class FileLock:
    """Keeps a second process from serving the same file, for as long as it is held.

    An OS lock on a file beside the database, which ends with the process however that ends. Its
    first line is our process id, its second what was last seen of the log.
    """

    def __init__(self, database: Path) -> None:
        """Takes the lock.

        Raises:
            DatabaseInUse: Another process holds it; the message names its pid.
        """
        self._file = os.open(f"{database}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = self._lines()[0].strip() or "unknown"
            os.close(self._file)
            raise DatabaseInUse(
                f"{database} is served by another process (pid {holder}): "
                "one process at a time may use a SQLite log"
            ) from error
        _, second, *_ = [*self._lines(), ""]
        found = _SEEN.fullmatch(second)
        self.seen = Seen(UUID(found[1]), int(found[2])) if found else None
        if os.geteuid() == 0:
            # So that the server, which is somebody else, can take it later.
            with suppress(OSError):
                owner = database.stat()
                os.fchown(self._file, owner.st_uid, owner.st_gid)
        self._write()

    def see(self, seen: Seen) -> None:
        """Notes the end of the log for those who take the lock later."""
        self.seen = seen
        self._write()

    def release(self) -> None:
        """Lets go of it. The file stays: removing it could break another's lock."""
        os.close(self._file)

    def _lines(self) -> list[str]:
        return os.pread(self._file, 128, 0).decode("ascii", "replace").split("\n")

    def _write(self) -> None:
        lines = f"{os.getpid()}\n"
        if self.seen is not None:
            lines += f"{self.seen.log_id} {self.seen.head}\n"
        os.pwrite(self._file, lines.encode(), 0)
        os.ftruncate(self._file, len(lines))


class LogFile:
    """A log's file, which no other process of ours may serve or change until it is released."""

    def __init__(self, path: Path) -> None:
        """Locks it. It need not be there.

        Raises:
            DatabaseInUse: Another process has it.
        """
        # As SQLite does, which keeps the WAL file beside what a link leads to.
        self.path = real(path)
        self._lock = FileLock(self.path)
        self._had_wal = wal_of(self.path).exists()

    def begin_serving(self, engine: sa.Engine) -> None:
        """Sees, in a database that is up to date, whether the log is where it was: if it may have
        lost its end, it has a new id before anything else is written. Marks it as served."""
        with engine.connect() as connection:
            self._had_wal = True
            with writing(connection):
                if cause := self._why_new(connection):
                    incarnations.begin(connection, cause)
                mark(connection, self.path, served=True)
            self.see(connection)
            # Into the main file, too, which is what people copy.
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {CHECKPOINT_WAIT_MILLISECONDS}")
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def end_serving(self) -> None:
        """Marks it as whole without its WAL file. For when nothing writes to it any more; but the
        last connection is closed later, which copies the mark into the main file."""
        # Not the writer's: it may be in a commit that never ends.
        engine = sqlite.make_engine(self.path, connections=1, checkpoints=False)
        try:
            with engine.connect() as connection:
                with writing(connection):
                    mark(connection, self.path, served=False)
                self.see(connection)
        except Exception as error:  # noqa: BLE001 - a full disk, say: it must not keep us
            _log.warning("not marked as closed", file=str(self.path), reason=str(error))
        finally:
            engine.dispose()

    def see(self, connection: sa.Connection) -> None:
        """Notes the end of the log."""
        self._lock.see(_end(connection))

    def note(self, log_id: UUID, head: int) -> None:
        """Notes the end of a log that was put in its place."""
        self._lock.see(Seen(log_id, head))

    def release(self) -> None:
        """Lets others have it. All connections are closed."""
        # Closing the last one copied all that was in the WAL file, and removed it. If the mark is
        # left, for lack of room, say, the file must not pass for a copy.
        if self._had_wal and not wal_of(self.path).exists() and _is_marked(self.path):
            with suppress(OSError):
                wal_of(self.path).touch()
        self._lock.release()

    def _why_new(self, connection: sa.Connection) -> str | None:
        identity = connection.scalar(sa.select(log.c.system_id))
        if identity not in (None, identity_of(self.path)):
            return "file copied"
        seen, now = self._lock.seen, _end(connection)
        if seen is None or (seen.log_id == now.log_id and seen.head <= now.head):
            return None
        ids = connection.scalars(sa.select(incarnations_table.c.log_id)).all()
        is_older = seen.log_id == now.log_id or (
            # Not a log that was begun anew, nor one that went on under another id.
            seen.log_id not in ids and now.head > 0
        )
        return "file replaced by an older one" if is_older else None


def mark(connection: sa.Connection, path: Path, *, served: bool) -> None:
    """Notes in a log which file it is in, and whether it may be there in part only."""
    values = {log.c.system_id: identity_of(path), log.c.served: int(served)}
    connection.execute(sa.update(log).values(values))


def check(path: Path, *, may_lack_wal: bool = False) -> None:
    """Refuses a file that no log can be gone on with in. For before it is opened, which would
    make a WAL file.

    Raises:
        DatabaseUnusable: It is no SQLite database, or a part of it is missing.
    """
    check_whole(path)
    if not may_lack_wal and not wal_of(path).exists() and _is_marked(path):
        raise DatabaseUnusable(
            f"{path} was copied or moved from a running or crashed server without its -wal file, "
            "and may lack the last events: copy with `treering backup`, or accept the loss with "
            "`treering fork`"
        )


def check_whole(path: Path) -> None:
    """Refuses what is no SQLite database, or has lost its end, as far as its header tells.

    Raises:
        DatabaseUnusable: It is.
    """
    wal = wal_of(path)
    has_frames = wal.exists() and wal.stat().st_size > _EMPTY_WAL_BYTES
    size = path.stat().st_size if path.exists() else 0
    if not size:
        if has_frames:
            # SQLite would take it for a new database, and delete the WAL file.
            raise DatabaseUnusable(
                f"{wal} is there, but {path} is {'empty' if path.exists() else 'not there'}: "
                "put the database back that it belongs to, or move it away"
            )
        return
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    page_bytes = int.from_bytes(header[16:18])
    page_bytes = 65_536 if page_bytes == 1 else page_bytes
    is_size = page_bytes >= 512 and not page_bytes & (page_bytes - 1)
    if not header.startswith(_MAGIC[: len(header)]) or (len(header) >= 18 and not is_size):
        raise DatabaseUnusable(f"{path} is no SQLite database: name another file")
    pages = int.from_bytes(header[28:32])
    # Otherwise the number is none that SQLite goes by.
    is_number = header[24:28] == header[92:96]
    if size < _HEADER_BYTES or (is_number and not has_frames and size < pages * page_bytes):
        raise DatabaseUnusable(
            f"{path} is cut off: it has {size:,} bytes of {pages * page_bytes:,}; "
            "restore a backup with `treering restore`"
        )


def real(path: Path) -> Path:
    """The file that a path leads to."""
    return Path(os.path.realpath(path))


def wal_of(path: Path) -> Path:
    """Where SQLite keeps the WAL file of a database."""
    return path.with_name(f"{path.name}-wal")


def identity_of(path: Path) -> str:
    """Which file of this machine it is."""
    status = path.stat()
    return f"{status.st_dev}:{status.st_ino}"


@contextmanager
def writing(connection: sa.Connection) -> Iterator[None]:
    """A transaction that is committed at its end."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.invalidate()
        raise
    connection.exec_driver_sql("COMMIT")


def _end(connection: sa.Connection) -> Seen:
    log_id = connection.scalar(sa.select(log.c.log_id))
    assert log_id is not None
    return Seen(log_id, last_position(connection))


def _is_marked(path: Path) -> bool:
    if not path.exists():
        return False
    with closing(sqlite.connect(path, mode="ro", immutable=True)) as connection:
        try:
            row = connection.execute("SELECT served FROM log").fetchone()
        except sqlite.Error:
            return False  # no log, or one of before there was the mark
    return row is not None and row[0] == 1
