"""Export: the log as lines of CloudEvents, to a file that is there whole or not at all."""

import contextlib
import gzip
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def output_file(name: str) -> Iterator[IO[bytes]]:
    """Opens what to write to: `-` is standard output; a name that ends in `.gz` is compressed.

    A file gets its name when all is written and on the disk, so that whoever finds it finds
    all of it, and an export that is broken off leaves no half of one behind, nor takes the
    place of an older one.
    """
    if name == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    # Through links to where the file is, so that they stay.
    path = Path(os.path.realpath(name))
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        # A pipe, a device: there is nothing to take the place of.
        with path.open("wb") as device, _compressed(name, device) as output:
            yield output
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with _new_file(temporary, name) as file:
            with _compressed(name, file) as output:
                yield output
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)


def _new_file(path: Path, name: str) -> IO[bytes]:
    try:
        return path.open("xb")
    except OSError as error:
        error.filename = name  # nobody knows it by the other one
        raise


@contextmanager
def _compressed(name: str, file: IO[bytes]) -> Iterator[IO[bytes]]:
    if not name.endswith(".gz"):
        yield file
        return
    # No name and no time inside: the same log gives the same file.
    with gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as output:
        yield output  # type: ignore[misc]


def _sync_directory(path: Path) -> None:
    """Puts the new name on the disk, where the system lets us."""
    try:
        directory = os.open(path, os.O_RDONLY)
    except OSError:
        return
    with contextlib.suppress(OSError):
        os.fsync(directory)
    os.close(directory)
