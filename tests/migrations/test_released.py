"""A log that any release left is gone on with: nothing lost, all found, appends accepted.

The dumps of releases are in `released/`. One of the schema of now is made here each time, so
that what loads and compares dumps is never idle.
"""

import dataclasses
import json
import os
import sqlite3
import uuid
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import alembic.script
import pytest
import sqlalchemy as sa

import treering_migrations
from dumps import RELEASED, REVISIONS, Made, load_postgresql, load_sqlite, released
from plans.logs import delete, erase, keep, make_event, opened, write
from treering_server.core.model import MAX_POSITION, ListStreams
from treering_server.core.query import QueryItem, category_of
from treering_server.core.record import parse
from treering_server.core.storage import Storage
from treering_server.storage.database import migrate_database, parse_url
from treering_server.storage.migrations import revisions
from treering_server.storage.schema import log

SCRIPT = alembic.script.ScriptDirectory(str(Path(treering_migrations.__file__).parent))
NOW = str(SCRIPT.get_current_head())
KEEP = "TREERING_KEEP_DUMPS"


def id_of(n: int) -> bytes:
    return uuid.UUID(int=n, version=4).bytes


def sample(storage: Storage) -> None:
    """A log with something of everything."""
    write(storage, [(f"order-{n % 3}", make_event(f"T{n % 4}", id=id_of(n))) for n in range(20)])
    write(
        storage,
        [
            ("invoice", make_event("Größe", ["region:eu", "a%b_'c'"], id=id_of(100))),
            ("", make_event("Loose", ["region:eu"], id=id_of(101), data=bytes(range(256)))),
            ("-\U0010ffff", make_event("T1", id=id_of(102), data=b"x" * 100_000)),
            *(("gone", make_event("T2", ["region:eu"], id=id_of(n))) for n in (103, 104)),
        ],
    )
    keep(storage, "order-1", truncate_before=4)
    delete(storage, "gone")
    erase(storage)
    # What follows is removed, and not erased yet.
    keep(storage, "order-2", max_count=5, max_age=MAX_POSITION // 100, truncate_before=2)
    delete(storage, "never-written", permanent=True)


def contents(storage: Storage) -> dict[str, Any]:
    """All that a log holds, as JSON can say it."""
    head = storage.head()
    rows = storage.records(0, head.position, backwards=False, max_bytes=10**9)
    streams = storage.streams(ListStreams("", 1_000, None, True))
    return {
        "log_id": str(head.log_id),
        "incarnations": [
            [str(each.log_id), each.first_position] for each in storage.incarnations()
        ],
        "events": [[row[0], row[1], row[2] and row[2].hex()] for row in rows],
        "streams": [[each.name, each.version, each.next_version] for each in streams],
        "kept": [
            [
                *(each.name, each.first_version, each.deletion, each.deleted_version),
                *dataclasses.astuple(each.retention),
            ]
            for each in streams
        ],
        "generation": head.generation,
    }


def check_all_is_found(storage: Storage, events: list[tuple[int, int | None, str | None]]) -> None:
    """Every index leads to what the records say."""
    due: dict[QueryItem, list[int]] = defaultdict(list)
    for position, _, record in events:
        if record is None:
            continue
        recorded = parse(bytes.fromhex(record))
        terms = recorded.terms
        assert storage.event_id(position) == recorded.id
        due[QueryItem(types=frozenset({terms.type}))].append(position)
        for tag in terms.tags:
            due[QueryItem(tags=frozenset({tag}))].append(position)
        if terms.stream:
            due[QueryItem(streams=frozenset({terms.stream}))].append(position)
            due[QueryItem(categories=frozenset({category_of(terms.stream)}))].append(position)
    assert len(due) > 10
    for item, positions in due.items():
        found = storage.matching(item, 0, 10**6, backwards=False, max_postings=10**6)
        assert found.positions == positions


# --- making and loading dumps


def dump_sqlite(url: str) -> str:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        return "\n".join(connection.iterdump())


@pytest.fixture
def make_dump(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Made]:
    """Makes the dump of the schema of now."""

    def made(kind: str) -> Made:
        if kind == "sqlite":
            (tmp_path / "now").mkdir()
            url = f"sqlite:///{tmp_path}/now/treering.db"
            held = fill(url)
            return dump_sqlite(url), held
        server = request.getfixturevalue("own_postgres")
        url = server.create_database()
        held = fill(url)
        file = server.directory / "dump.sql"
        server.run("pg_dump", "--inserts", "--no-owner", f"--file={file}", f"--dbname={url}")
        return file.read_text(), held

    return made


def fill(url: str) -> dict[str, Any]:
    with opened(url) as storage:
        sample(storage)
        return contents(storage)


@pytest.mark.parametrize("revision", ["now", *REVISIONS])
def test_a_log_of_any_release_is_gone_on_with(revision, database_url, make_dump):
    kind = database_url.partition(":")[0]
    dump, held = make_dump(kind) if revision == "now" else released(kind, revision)
    if revision == "now" and KEEP in os.environ:
        keep_dump(kind, dump, held)
    (load_sqlite if kind == "sqlite" else load_postgresql)(database_url, dump)

    was_elsewhere = says_where_it_is(database_url)
    migrate_database(database_url)

    with opened(database_url) as storage:
        found = contents(storage)
        before = storage.head()
        if was_elsewhere:
            # A dump may not be all that was ever written to its log.
            assert found.pop("log_id") != held.pop("log_id")
            assert found["incarnations"].pop() == [str(before.log_id), before.position + 1]
        # What a schema did not know, its log had nothing of.
        assert {part: found[part] for part in held if part in found} == held
        check_all_is_found(storage, held["events"])
        [written] = write(storage, [("order-1", make_event("T1", ["region:eu"]))]).records
        assert written.position == before.position + 1
        assert storage.head().log_id == before.log_id


def says_where_it_is(url: str) -> bool:
    """Whether the log has noted which database it is in."""
    engine = sa.create_engine(parse_url(url))
    try:
        with engine.connect() as connection:
            return connection.scalar(sa.select(log.c.system_id)) is not None
    finally:
        engine.dispose()


def test_every_schema_that_was_followed_by_another_has_a_dump():
    earlier = {revision.revision for revision in SCRIPT.walk_revisions()} - {NOW}
    assert earlier <= set(REVISIONS), "see released/README.md"


def test_the_server_knows_the_order_of_the_schemas_as_alembic_does():
    """It goes by the names of their files, so as not to wait for Alembic at each start."""
    upwards = [revision.revision for revision in SCRIPT.walk_revisions()][::-1]
    assert revisions() == upwards


def keep_dump(kind: str, dump: str, held: dict[str, Any]) -> None:
    """Adds the schema of now to those released."""
    folder = RELEASED / NOW
    folder.mkdir(exist_ok=True)
    (folder / f"{kind}.sql").write_text(dump)
    (folder / f"{kind}.json").write_text(json.dumps(held, indent=1) + "\n")
