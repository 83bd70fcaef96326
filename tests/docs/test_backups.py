"""What the guide says of backups of PostgreSQL is what there is to do, and all of it."""

import asyncio
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from databases import PostgresServer, url_at, wait_for
from pages import DOCS, Block, blocks
from servers import InProcessServer, environment
from treering import AsyncClient, Checkpoint, Event, LogDiverged

GUIDE = DOCS / "guide" / "backup-and-restore.md"
BLOCKS = list(blocks(GUIDE.read_text("utf-8").split("\n")))


def block(language: str, *, containing: str) -> Block:
    [found] = [each for each in BLOCKS if each.language == language and containing in each.code]
    return found


def settings(containing: str, **paths: str) -> dict[str, str]:
    """Settings that the guide shows, with our paths in them."""
    found = {}
    for line in block("conf", containing=containing).lines:
        name, value = line.split(" = ", 1)
        for theirs, ours in paths.items():
            value = value.replace(f"/{theirs}/", f"{ours}/")
        found[name] = value.strip("'")
    return found


def run_shown(server: PostgresServer, containing: str, *, replacing: dict[str, str]) -> None:
    """Runs the commands of a block, with ours in the place of what is the reader's own."""
    for line in block("sh", containing=containing).lines:
        for theirs, ours in replacing.items():
            line = line.replace(theirs, ours)  # noqa: PLW2901
        assert "db.internal" not in line
        program, *arguments = shlex.split(line)
        if program == "treering":
            subprocess.run(
                [sys.executable, "-m", "treering", *arguments],
                check=True,
                env=environment(),
                capture_output=True,
            )
        else:
            server.run(program, *arguments)


async def fill(url: str, count: int) -> Checkpoint:
    """Serves a log, and appends to it."""
    async with InProcessServer(url) as server, AsyncClient(server.address) as client:
        for _ in range(count):
            last = await client.append("a", Event("A"))
    return last.checkpoint


async def check_restored(url: str, fork: int, known: Checkpoint) -> None:
    """It has its events up to the fork, and tells of it whoever knows of more."""
    async with InProcessServer(url) as server, AsyncClient(server.address) as client:
        head = await client.head()
        assert head.position == fork < known.position
        assert head.log_id != known.log_id
        with pytest.raises(LogDiverged) as caught:
            await client.read(after_position=known.position, expected_log_id=known.log_id).to_list()
        assert caught.value.last_common_position == fork
        with pytest.raises(LogDiverged):
            await client.append("a", Event("A"), expected_log_id=known.log_id)


@pytest.mark.parametrize("where", ["where it came from", "elsewhere"])
async def test_a_dump(where: str) -> None:
    with PostgresServer() as source, PostgresServer() as other:
        url = source.create_database()
        await fill(url, 5)
        dump = str(source.directory / "events.dump")
        replacing = {"postgresql://treering@db.internal:5432/events": url, "events.dump": dump}
        await asyncio.to_thread(run_shown, source, "pg_dump", replacing=replacing)
        known = await fill(url, 3)
        target = source if where == "where it came from" else other
        restored = target.create_database()
        replacing["postgresql://treering@db.internal:5432/restored"] = restored
        await asyncio.to_thread(run_shown, source, "pg_restore", replacing=replacing)
        await check_restored(restored, 5, known)


@pytest.fixture
def archived(tmp_path: Path) -> Iterator[PostgresServer]:
    """A primary whose WAL is archived as the guide says."""
    server = PostgresServer()
    archive = server.directory / "archive"
    archive.mkdir(mode=0o777)
    archive.chmod(0o777)
    server.settings |= settings("archive_mode", archive=str(archive))
    with server:
        yield server


async def backed_up(server: PostgresServer, target: PostgresServer) -> None:
    """Takes a base backup as the guide says, to where another one is going to run."""
    base = f"postgresql://postgres@127.0.0.1:{server.port}/postgres"
    replacing = {
        "/backups/monday": str(target.data),
        "postgresql://backup@db.internal:5432/postgres": base,
    }
    await asyncio.to_thread(run_shown, target, "pg_basebackup", replacing=replacing)


async def test_a_point_in_time(archived: PostgresServer) -> None:
    restored = PostgresServer()
    try:
        url = archived.create_database()
        await fill(url, 5)
        await backed_up(archived, restored)
        await fill(url, 5)
        until = datetime.now(UTC)
        time.sleep(0.1)  # noqa: ASYNC251
        known = await fill(url, 5)
        archived.execute("SELECT pg_switch_wal()")
        is_archived = "SELECT last_archived_wal IS NOT NULL AND failed_count = 0 AND NOT EXISTS ("
        is_archived += "SELECT FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready')"
        await asyncio.to_thread(wait_for, url, f"{is_archived} FROM pg_stat_archiver")

        archive = str(archived.directory / "archive")
        recovery = settings("restore_command", archive=archive)
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00", recovery["recovery_target_time"])
        recovery["recovery_target_time"] = f"{until:%Y-%m-%d %H:%M:%S.%f+00}"
        restored.settings |= recovery
        signal_file = restored.data / "recovery.signal"
        signal_file.touch()
        shutil.copystat(restored.data / "PG_VERSION", signal_file)
        await asyncio.to_thread(restored.start)
        restored_url = url_at(url, restored.port)
        await asyncio.to_thread(wait_for, restored_url, "SELECT NOT pg_is_in_recovery()")
        await check_restored(restored_url, 10, known)
    finally:
        restored.remove()


async def test_a_base_backup_that_is_just_started(archived: PostgresServer) -> None:
    """It can't be told from the log that it is of."""
    restored = PostgresServer()
    try:
        url = archived.create_database()
        before = await fill(url, 5)
        await backed_up(archived, restored)
        known = await fill(url, 5)
        await asyncio.to_thread(restored.start)
        restored_url = url_at(url, restored.port)
        async with (
            InProcessServer(restored_url) as server,
            AsyncClient(server.address) as client,
        ):
            assert (await client.head()).log_id == before.log_id
        replacing = {"postgresql://treering@db.internal:5432/events": restored_url}
        await asyncio.to_thread(
            run_shown, restored, "treering fork --database-url postgresql://treering@db.internal"
            ":5432/events", replacing=replacing,
        )  # fmt: skip
        await check_restored(restored_url, 5, known)
    finally:
        restored.remove()
