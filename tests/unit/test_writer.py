"""The writer over real databases, where another server has written much meanwhile."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from plans.logs import append_of, make_event, opened, write
from treering_server.core.errors import ConditionFailed, Refusal, StorageUnavailable
from treering_server.core.model import AppendCondition
from treering_server.core.query import Query, QueryItem
from treering_server.core.writer import FETCHED_EVENTS, AppendCall, Writer
from treering_server.storage.postgresql import PostgresqlTransaction
from treering_server.storage.sqlite import SqliteStorage, SqliteTransaction

SECONDS = 30.0


@pytest.fixture
def storage(database_url):
    with opened(database_url, readers=2) as storage:
        yield storage


@asynccontextmanager
async def writing(storage):
    writer = Writer(storage, lambda committed: None, lambda: 0)
    try:
        yield writer
    finally:
        await writer.close(SECONDS)


def fail_if_tagged(tag, after=0):
    return AppendCondition(Query((QueryItem(tags=frozenset({tag})),)), after)


async def submitted(writer, *conditions):
    append = append_of(("mine", make_event()), conditions=conditions)
    async with asyncio.timeout(SECONDS):
        return await (await writer.submit(append, AppendCall(), None))


def write_much(storage, tag):
    """As another server: more than is read under the append lock. One event has the tag."""
    write(storage, [("other", make_event(tags=[tag]))])
    write(storage, [("other", make_event()) for _ in range(FETCHED_EVENTS)])


async def test_a_condition_is_decided_however_much_others_wrote_since(storage):
    async with writing(storage) as writer:
        write_much(storage, "theirs")
        answer = await submitted(writer, fail_if_tagged("nobody's"))
        assert answer.first_position == FETCHED_EVENTS + 2
        write_much(storage, "theirs again")
        with pytest.raises(ConditionFailed) as refusal:
            await submitted(writer, fail_if_tagged("theirs again", answer.first_position))
        assert refusal.value.position == answer.first_position + 1
        await submitted(writer, fail_if_tagged("theirs", answer.first_position))


async def test_the_writer_outlives_a_database_that_fails_while_conditions_are_looked_at(
    storage, monkeypatch
):
    """That look is made by the writer's own thread, after it found that it is far behind."""
    async with writing(storage) as writer:
        write_much(storage, "theirs")

        def fail(*arguments, **named):
            raise StorageUnavailable("away")

        with monkeypatch.context() as patch:
            patch.setattr(storage, "matching", fail)
            with pytest.raises(Refusal):
                await submitted(writer, fail_if_tagged("nobody's"))
        await submitted(writer, fail_if_tagged("nobody's"))


async def test_little_is_read_under_the_append_lock_however_large_the_events_are(
    storage, monkeypatch
):
    """Others wrote few events, but large ones: what must be known of them is no reason to hold
    all of it in memory while every server waits."""
    fetched = 0
    transaction_type = (
        SqliteTransaction if isinstance(storage, SqliteStorage) else (PostgresqlTransaction)
    )
    records = transaction_type.records

    def counted(self, *arguments, **named):
        nonlocal fetched
        rows = records(self, *arguments, **named)
        fetched += sum(len(record) for _, _, record in rows)
        return rows

    monkeypatch.setattr(transaction_type, "records", counted)
    async with writing(storage) as writer:
        for _ in range(4):
            write(storage, [("other", make_event(data=bytes(1_000_000))) for _ in range(8)])
        await submitted(writer, fail_if_tagged("nobody's"))
    assert fetched <= 16_000_000
