"""Erasure over real databases: what is removed loses its content, whatever comes between."""

import asyncio
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from plans.logs import delete, erase, erased, keep, make_event, opened, write
from treering_server.core import eraser as eraser_module
from treering_server.core.eraser import ERASED_BYTES, ERASED_EVENTS, Eraser
from treering_server.core.errors import StorageUnavailable
from treering_server.core.query import QueryItem
from treering_server.core.storage import CommitUnknown
from treering_server.storage import schema
from treering_server.storage.postgresql import ERASURE_LOCK_KEY

SECONDS = 20.0


@pytest.fixture
def storage(database_url):
    with opened(database_url, readers=2) as storage:
        yield storage


@pytest.fixture
def lone_storage(sqlite_file_url):
    with opened(sqlite_file_url) as storage:
        yield storage


@asynccontextmanager
async def erasing(storage):
    eraser = Eraser(storage)
    eraser.start()
    try:
        yield eraser
    finally:
        await eraser.stop()


async def until(holds):
    async with asyncio.timeout(SECONDS):
        while not await asyncio.to_thread(holds):  # noqa: ASYNC110 - whatever it is
            await asyncio.sleep(0.01)


def some(stream, count, **event):
    return [(stream, make_event(tags=[f"of:{stream}", "shared"], **event)) for _ in range(count)]


def rows(storage, *columns):
    with storage._engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.select(*columns).order_by(columns[0]))]


def with_content(storage):
    """Positions of events that have any, wherever it is looked for."""
    events, tags = schema.events.c, schema.event_tags.c
    tagged = sa.exists().where(tags.position == events.position)
    # In one statement, as it may be erased meanwhile.
    found = []
    for position, record, type_id, category, stream, is_tagged in rows(
        storage,
        events.position,
        events.record.is_not(None),
        events.type_id,
        events.category_id,
        events.stream_id,
        tagged,
    ):
        has = bool(record)
        assert bool(type_id) == bool(is_tagged) == has
        assert bool(category) == (has and stream is not None)
        found += [position] if has else []
    return found


def listed(storage):
    """Streams that events are, or may be, removed of."""
    names = dict(rows(storage, schema.streams.c.id, schema.streams.c.name))
    return sorted(names[id] for (id,) in rows(storage, schema.removals.c.stream_id))


def found(storage, **parts):
    item = QueryItem(**{part: frozenset(names) for part, names in parts.items()})
    return storage.matching(item, 0, 10**6, backwards=False, max_postings=10**6).positions


def make_log(storage):
    """One with something removed by each of the ways; gives the positions that are not."""
    write(
        storage,
        [
            *some("floor-1", 40),
            *some("count-1", 40),
            *some("age-1", 40),
            *some("gone-1", 40),
            *some("again-1", 40),
            *some("kept-1", 3),
            *some("", 3),
        ],
    )
    keep(storage, "floor-1", truncate_before=38)
    keep(storage, "count-1", max_count=2)
    keep(storage, "age-1", max_age=1)
    delete(storage, "gone-1", permanent=True)
    delete(storage, "again-1")
    write(storage, some("again-1", 2))
    return [38, 39, 40, 79, 80, *range(201, 209)]


def check_reads(storage, there):
    """As the removal tells, whether or not it is erased."""
    every = storage.records(0, 10**6, backwards=False, max_bytes=10**7)
    assert [position for position, _, record in every if record] == there
    assert found(storage) == found(storage, tags=["shared"]) == there
    assert found(storage, types=["Happened"]) == there
    for name in ("floor", "count", "age", "gone", "again", "kept"):
        due = found(storage, streams=[f"{name}-1"])
        assert due == [position for position in there if position in due]
        assert found(storage, categories=[name]) == found(storage, tags=[f"of:{name}-1"]) == due


# --- what is erased


async def test_content_type_category_and_tags_of_what_is_removed_go_and_rows_stay(storage):
    there = make_log(storage)
    ids = rows(storage, *(schema.events.c[name] for name in ("position", "id", "version")))
    last = storage.head()
    await erased(storage)
    assert with_content(storage) == there
    check_reads(storage, there)
    assert ids == rows(storage, *(schema.events.c[name] for name in ("position", "id", "version")))
    assert storage.head() == last
    assert storage.event_id(1) == ids[0][1]


async def test_streams_of_which_nothing_is_left_to_do_are_looked_at_no_more(storage):
    make_log(storage)
    assert listed(storage) == ["again-1", "age-1", "count-1", "floor-1", "gone-1"]
    await erased(storage)
    assert listed(storage) == ["age-1", "count-1"], "more will be removed of them"
    keep(storage, "count-1")
    keep(storage, "age-1")
    await erased(storage)
    assert listed(storage) == []
    columns = schema.streams.c
    versions = dict(rows(storage, columns.name, columns.erased_version))
    assert versions == dict(rows(storage, columns.name, columns.floor_version))
    assert versions == {
        "floor-1": 37,
        "count-1": 38,
        "age-1": 40,
        "gone-1": 40,
        "again-1": 40,
        "kept-1": 0,
    }


async def test_what_is_removed_later_is_erased_later(storage):
    make_log(storage)
    await erased(storage)
    write(storage, [*some("count-1", 1), *some("age-1", 1), *some("again-1", 1)])
    keep(storage, "floor-1", truncate_before=40)
    await erased(storage)
    assert with_content(storage) == [40, 80, *range(201, 209), 209, 211]
    assert listed(storage) == ["age-1", "count-1"]


async def test_nothing_is_erased_of_what_is_not_removed(storage):
    write(storage, [*some("a", 3), *some("b", 3)])
    keep(storage, "a", max_count=3, max_age=10**12, truncate_before=1)
    with capture_logs() as logs:
        await erased(storage)
    assert with_content(storage) == [1, 2, 3, 4, 5, 6]
    assert not logs


async def test_more_streams_than_are_looked_at_at_a_time(storage, monkeypatch):
    monkeypatch.setattr(eraser_module, "STREAMS", 2)
    names = [f"a-{n}" for n in range(7)]
    write(storage, [each for name in names for each in some(name, 2)])
    for name in names[:-1]:
        delete(storage, name)
    await erased(storage)
    assert with_content(storage) == [13, 14]
    assert listed(storage) == []


async def test_what_is_removed_while_it_is_erased_stays_to_be_done(storage):
    """Of a stream that has more to erase by the time that it is settled nothing is forgotten."""
    write(storage, some("a", 4))
    keep(storage, "a", truncate_before=2)
    eraser = Eraser(storage)
    [stream] = storage.removing(0, 10)
    eraser._erase_window(stream)
    keep(storage, "a", truncate_before=3)
    eraser._settle([stream.id])
    assert listed(storage) == ["a"]
    eraser._raise_floors({stream.id: 1})
    await erased(storage)
    assert with_content(storage) == [3, 4]
    assert listed(storage) == []


async def test_a_stream_that_gets_a_bound_while_it_is_erased_stays_to_be_done(storage):
    write(storage, some("a", 4))
    keep(storage, "a", truncate_before=2)
    eraser = Eraser(storage)
    [stream] = storage.removing(0, 10)
    eraser._erase_window(stream)
    keep(storage, "a", max_count=2)
    eraser._settle([stream.id])
    assert listed(storage) == ["a"]
    await erased(storage)
    assert with_content(storage) == [3, 4]


async def test_the_log_tells_of_it(storage):
    make_log(storage)
    with capture_logs() as logs:
        await erased(storage)
    [line] = logs
    assert line.pop("seconds") >= 0
    assert line == {"event": "erased", "events": 195, "streams": 5, "log_level": "info"}


# --- interrupted


class Interrupted:
    """Lets one of a storage's transactions fail, before or after its commit."""

    def __init__(self, storage, at, how, monkeypatch):
        self.at = at
        self.how = how
        for name in ("removing", "erasable", "erase"):
            monkeypatch.setattr(storage, name, self.failing(getattr(storage, name)))
        write = storage.write

        @contextmanager
        def failing_write(seconds):
            with self.step(), write(seconds) as transaction:
                yield transaction

        monkeypatch.setattr(storage, "write", failing_write)

    def failing(self, work):
        def fails(*arguments, **named):
            with self.step():
                return work(*arguments, **named)

        return fails

    @contextmanager
    def step(self):
        """One more is done."""
        mine = self.at == 0
        self.at -= 1
        if mine and self.how == "before":
            raise StorageUnavailable("away")
        yield
        if mine:
            raise CommitUnknown


@pytest.mark.parametrize("how", ["before", "after"])
async def test_it_can_be_interrupted_anywhere_and_goes_on_from_there(database_url, storage, how):
    there = make_log(storage)
    steps = 0
    while True:
        steps += 1
        with pytest.MonkeyPatch.context() as monkeypatch:
            # As a server that is killed and begins again; a little further each time.
            Interrupted(storage, steps % 7, how, monkeypatch)
            try:
                done = not await Eraser(storage)._erase_all()
            except (StorageUnavailable, CommitUnknown):
                done = False
        check_reads(storage, there)
        if done:
            break
        assert steps < 100
    assert steps > 5
    assert with_content(storage) == there
    assert listed(storage) == ["age-1", "count-1"]


async def test_it_goes_on_by_itself_after_the_database_was_away(lone_storage, monkeypatch):
    monkeypatch.setattr(eraser_module, "PERIOD_SECONDS", 0.01)
    monkeypatch.setattr(eraser_module, "LEAST_REST", 0)
    there = make_log(lone_storage)
    with capture_logs() as logs:
        async with erasing(lone_storage):
            for at in range(8):
                with pytest.MonkeyPatch.context() as patch:
                    interrupted = Interrupted(lone_storage, at, "before", patch)
                    await until(lambda step=interrupted: step.at < 0)
            await until(lambda: with_content(lone_storage) == there)
    assert {line["event"] for line in logs} == {"erased"}
    assert sum(line["events"] for line in logs) == 195


async def test_a_defect_is_told_and_does_not_end_it(lone_storage, monkeypatch):
    monkeypatch.setattr(eraser_module, "PERIOD_SECONDS", 0.01)
    monkeypatch.setattr(eraser_module, "LEAST_REST", 0)

    def fail(*arguments, **named):
        raise RuntimeError

    write(lone_storage, some("a", 2))
    delete(lone_storage, "a")
    with capture_logs() as logs, monkeypatch.context() as patch:
        patch.setattr(lone_storage, "erase", fail)
        async with erasing(lone_storage):
            await until(lambda: logs)
            patch.undo()
            await until(lambda: with_content(lone_storage) == [])
    assert logs[0]["event"] == "defect in erasure"
    assert logs[-1]["event"] == "erased"


async def test_a_stop_waits_for_what_is_being_erased(lone_storage, monkeypatch):
    write(lone_storage, some("a", 2))
    delete(lone_storage, "a")
    began, may_end = threading.Event(), threading.Event()
    erase_events = lone_storage.erase

    def slow(*arguments):
        began.set()
        assert may_end.wait(SECONDS)
        return erase_events(*arguments)

    monkeypatch.setattr(lone_storage, "erase", slow)
    eraser = Eraser(lone_storage)
    eraser.start()
    assert await asyncio.to_thread(began.wait, SECONDS)
    stopping = asyncio.create_task(eraser.stop())
    await asyncio.sleep(0.05)
    assert not stopping.done()
    may_end.set()
    async with asyncio.timeout(SECONDS):
        await stopping
    assert with_content(lone_storage) == []
    assert listed(lone_storage) == ["a"], "the rest is done another time"


async def test_one_that_was_never_started_can_be_stopped(lone_storage):
    await Eraser(lone_storage).stop()


# --- when


async def test_it_begins_by_itself_and_goes_on_when_it_is_told_of_a_change(storage, monkeypatch):
    monkeypatch.setattr(eraser_module, "PERIOD_SECONDS", 1_000)
    write(storage, [*some("a", 2), *some("b", 2), *some("c", 2)])
    delete(storage, "a")
    async with erasing(storage) as eraser:
        await until(lambda: with_content(storage) == [3, 4, 5, 6])
        for stream, left in (("b", [5, 6]), ("c", [])):
            # It may still be at its look that found nothing more.
            delete(storage, stream)
            eraser.nudge()
            await until(lambda due=left: with_content(storage) == due)


async def test_it_looks_every_now_and_then_for_what_time_and_appends_removed(storage, monkeypatch):
    monkeypatch.setattr(eraser_module, "PERIOD_SECONDS", 0.01)
    monkeypatch.setattr(eraser_module, "LEAST_REST", 0)
    write(storage, [*some("a", 2), *some("b", 2)])
    keep(storage, "a", max_age=300_000)
    keep(storage, "b", max_count=2)
    async with erasing(storage):
        write(storage, some("b", 1))
        await until(lambda: with_content(storage) == [4, 5])


# --- how much at a time


async def test_a_window_holds_so_many_events(lone_storage, monkeypatch):
    write(lone_storage, some("a", 4 * ERASED_EVENTS))
    delete(lone_storage, "a")
    sizes = []
    erase_events = lone_storage.erase

    def noted(stream_id, events, tags):
        sizes.append(len(events))
        assert len(tags) == 2 * len(events)
        return erase_events(stream_id, events, tags)

    monkeypatch.setattr(lone_storage, "erase", noted)
    await erased(lone_storage)
    assert sizes == [ERASED_EVENTS] * 4


async def test_no_window_takes_more_memory_than_a_few_megabytes(lone_storage, monkeypatch):
    """Also when small events are followed by large ones."""
    write(lone_storage, some("a", 2 * ERASED_EVENTS))
    for _ in range(4):
        write(lone_storage, some("a", 80, data=bytes(100_000)))
    delete(lone_storage, "a")
    sizes = []
    erasable = lone_storage.erasable

    def noted(*arguments, **named):
        events = erasable(*arguments, **named)
        sizes.append(sum(len(event.record or b"") for event in events))
        return events

    monkeypatch.setattr(lone_storage, "erasable", noted)
    await erased(lone_storage)
    assert with_content(lone_storage) == []
    assert max(sizes) <= ERASED_BYTES + 200_000


# --- with others over the same database


async def test_only_one_server_erases_at_a_time(postgres_url, monkeypatch):
    monkeypatch.setattr(eraser_module, "PERIOD_SECONDS", 0.01)
    monkeypatch.setattr(eraser_module, "LEAST_REST", 0)
    with opened(postgres_url, readers=2) as storage, psycopg.connect(postgres_url) as other:
        there = make_log(storage)
        looked = threading.Semaphore(0)
        answers = []
        erase_events = storage.erase

        def noted(*arguments):
            answers.append(erase_events(*arguments))
            looked.release()
            return answers[-1]

        monkeypatch.setattr(storage, "erase", noted)
        other.execute(f"SELECT pg_advisory_xact_lock({ERASURE_LOCK_KEY})".encode())
        with capture_logs() as logs:
            async with erasing(storage):
                for _ in range(3):
                    assert await asyncio.to_thread(looked.acquire, timeout=SECONDS)
                assert not any(answers)
                assert len(with_content(storage)) == 208
                assert not logs, "it is nothing to tell of"
                check_reads(storage, there)
                # Appends and changes of streams do not wait for it.
                write(storage, some("kept-1", 1))
                delete(storage, "kept-1")
                other.rollback()
                await until(lambda: with_content(storage) == [*there[:5], *range(204, 209)])
                await until(lambda: listed(storage) == ["age-1", "count-1"])


async def test_two_servers_erase_by_turns(postgres_url):
    with opened(postgres_url) as one, opened(postgres_url) as other:
        there = make_log(one)
        erasers = [Eraser(one), Eraser(other)]
        while with_content(one) != there:
            for eraser in erasers:
                for stream in one.removing(0, 100):
                    if stream.removed_version > stream.floor_version:
                        eraser._raise_floors({stream.id: stream.removed_version})
                    if stream.erased_version < stream.removed_version:
                        eraser._erase_window(stream)
            check_reads(other, there)


async def test_what_another_server_has_erased_meanwhile_is_erased_again_in_vain(storage):
    """What is to be done was looked up before."""
    write(storage, some("a", 4))
    keep(storage, "a", truncate_before=4)
    [stream] = storage.removing(0, 10)
    await erased(storage)
    Eraser(storage)._erase_window(stream)
    assert with_content(storage) == [4]
    assert listed(storage) == []


# --- in the files of SQLite

CRASHES = """
import asyncio, os, sys
sys.path[:0] = {path}
from plans.logs import delete, make_event, opened, write
from treering_server.core.eraser import Eraser
with opened({url!r}) as storage:
    write(storage, [("a", make_event(data=b"secret" * 1_000)) for _ in range(20)])
    delete(storage, "a")
    storage.shred = lambda: os._exit(0)
    asyncio.run(Eraser(storage)._erase_all())
"""


def files_with(secret, folder):
    return [file.name for file in folder.iterdir() if secret in file.read_bytes()]


def test_what_a_server_erased_when_it_was_killed_goes_from_the_files_with_the_next(
    sqlite_file_url, tmp_path
):
    script = CRASHES.format(path=sys.path, url=sqlite_file_url)
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parent)
    with opened(sqlite_file_url) as storage:
        erase(storage)
        assert with_content(storage) == []
        assert files_with(b"secret", tmp_path) == []


async def test_files_are_shredded_once_no_reader_is_at_the_old_pages(lone_storage, tmp_path):
    write(lone_storage, some("a", 20, data=b"secret" * 1_000))
    delete(lone_storage, "a")
    eraser = Eraser(lone_storage)
    with lone_storage._engine.connect() as connection:
        reading = connection.connection.driver_connection
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM events").fetchall()
        assert await eraser._erase_all()
        assert files_with(b"secret", tmp_path) != []
        reading.execute("COMMIT")
    assert not await eraser._erase_all()
    assert files_with(b"secret", tmp_path) == []
