"""The writer over real databases, where another server has done something meanwhile."""

import asyncio
import time
from contextlib import asynccontextmanager, suppress

import pytest

from plans import logs
from plans.logs import append_of, delete, erased, keep, lose_end, make_event, opened, write
from treering_server.core.errors import (
    ConditionFailed,
    LogDiverged,
    Refusal,
    StorageUnavailable,
    StreamDeleted,
)
from treering_server.core.model import AppendCondition
from treering_server.core.query import EVERYTHING, Query, QueryItem
from treering_server.core.removal import Rule
from treering_server.core.tail import FEW_RULES
from treering_server.core.writer import FETCHED_EVENTS, AppendCall, Writer
from treering_server.storage.postgresql import PostgresqlTransaction
from treering_server.storage.sqlite import SqliteStorage, SqliteTransaction

SECONDS = 30.0


@pytest.fixture
def storage(database_url):
    with opened(database_url, readers=2) as storage:
        yield storage


@asynccontextmanager
async def writing(storage, published=lambda committed: None):
    writer = Writer(storage, published, lambda: 0)
    try:
        yield writer
    finally:
        await writer.close(SECONDS)


def fail_if_tagged(tag, after=0):
    return AppendCondition(Query((QueryItem(tags=frozenset({tag})),)), after)


async def submitted(writer, *conditions):
    return await recorded(writer, append_of(("mine", make_event()), conditions=conditions))


async def recorded(writer, append):
    async with asyncio.timeout(SECONDS):
        return await (await writer.submit(append, AppendCall(), None))


async def first_match(writer, query=EVERYTHING, after=0):
    """Which event a condition fails by."""
    append = append_of(("", make_event()), conditions=[AppendCondition(query, after)])
    with pytest.raises(ConditionFailed) as refusal:
        await recorded(writer, append)
    return refusal.value.position


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


# --- removal by other servers


def some(stream, count, tags=()):
    return [(stream, make_event(tags=tags)) for _ in range(count)]


def in_streams(*streams):
    return Query((QueryItem(streams=frozenset(streams)),))


async def test_conditions_do_not_meet_what_others_removed_of_what_this_server_wrote(storage):
    async with writing(storage) as writer:
        for _ in range(4):
            await submitted(writer)
        assert await first_match(writer) == 1
        keep(storage, "mine", truncate_before=3)
        assert await first_match(writer) == 3
        await erased(storage)
        assert await first_match(writer) == 3
        delete(storage, "mine")
        answer = await submitted(writer, AppendCondition(EVERYTHING, 0))
        assert [each.version for each in answer.versions] == [5]
        assert await first_match(writer) == 5
        delete(storage, "mine", permanent=True)
        with pytest.raises(StreamDeleted):
            await submitted(writer)


async def test_conditions_do_not_meet_what_others_removed_of_what_they_wrote(storage):
    async with writing(storage) as writer:
        await submitted(writer)
        write(storage, [*some("a", 3), *some("b", 2)])
        delete(storage, "a")
        assert await first_match(writer, after=1) == 5
        write(storage, some("a", 1))
        assert await first_match(writer, in_streams("a")) == 7


async def test_what_is_removed_moves_as_others_and_this_server_write(storage):
    async with writing(storage) as writer:
        write(storage, [*some("mine", 3), *some("theirs", 3)])
        keep(storage, "mine", max_count=2)
        keep(storage, "theirs", max_count=2)
        assert await first_match(writer, in_streams("mine")) == 2
        assert await first_match(writer, in_streams("theirs")) == 5
        write(storage, [*some("theirs", 1), *some("mine", 1)])
        assert await first_match(writer, in_streams("mine")) == 3
        assert await first_match(writer, in_streams("theirs")) == 6
        await submitted(writer)
        assert await first_match(writer, in_streams("mine")) == 8
        assert await first_match(writer, in_streams("theirs")) == 6
        keep(storage, "mine", max_count=5)
        await submitted(writer)
        assert await first_match(writer, in_streams("mine")) == 8, "what was removed stays so"


async def test_conditions_do_not_meet_what_grew_too_old(storage):
    async with writing(storage) as writer:
        write(storage, [*some("theirs", 2), *some("mine", 1)])
        keep(storage, "theirs", max_age=200_000)
        write(storage, some("theirs", 1))
        await submitted(writer)
        assert await first_match(writer, in_streams("theirs"), after=3) == 4
        await asyncio.sleep(0.25)
        await submitted(writer, AppendCondition(in_streams("theirs"), 0))
        write(storage, some("theirs", 1))
        assert await first_match(writer, in_streams("theirs")) == 7


async def test_others_wrote_to_very_many_streams_whose_events_are_soon_removed(storage):
    names = [f"a-{n}" for n in range(2 * FEW_RULES)]
    write(storage, [(name, make_event()) for name in names])
    for name in names:
        keep(storage, name, max_count=1)
    async with writing(storage) as writer:
        base = len(names)
        write(storage, [each for name in names for each in some(name, 2)])
        assert await first_match(writer, after=base) == base + 2


async def test_a_repeat_of_what_others_removed(storage):
    """Whether it was erased by then must not show."""
    async with writing(storage) as writer:
        event = make_event(data=b"1")
        first = await recorded(writer, append_of(("mine", event)))
        changed = make_event(id=event.id, data=b"2")
        for change in (lambda: delete(storage, "mine"), lambda: None):
            change()
            answer = await recorded(writer, append_of(("mine", changed)))
            assert answer == first._replace(duplicate=True)
            await erased(storage)


def at_lock(storage, monkeypatch, work):
    """Does something between the first look at conditions and the append lock."""
    looked, begin, matching = [], storage.write, storage.matching

    def noted(*arguments, **named):
        looked.append(arguments)
        return matching(*arguments, **named)

    def write_later(seconds):
        if looked:
            monkeypatch.setattr(storage, "write", begin)
            work()
        return begin(seconds)

    monkeypatch.setattr(storage, "matching", noted)
    monkeypatch.setattr(storage, "write", write_later)
    return looked


async def test_what_a_condition_met_may_be_removed_before_it_is_decided(storage, monkeypatch):
    write(storage, [*some("a", 2, ["old"]), *some("b", 1, ["old"])])
    async with writing(storage) as writer:
        looked = at_lock(storage, monkeypatch, lambda: delete(storage, "a"))
        with pytest.raises(ConditionFailed) as refusal:
            await submitted(writer, fail_if_tagged("old"))
        assert refusal.value.position == 3
        assert len(looked) > 1
        at_lock(storage, monkeypatch, lambda: delete(storage, "b"))
        answer = await submitted(writer, fail_if_tagged("old"))
        assert answer.first_position == 4


async def test_others_in_the_batch_of_a_condition_that_is_looked_at_again(storage, monkeypatch):
    write(storage, some("a", 2, ["old"]))
    async with writing(storage) as writer:
        at_lock(storage, monkeypatch, lambda: delete(storage, "a"))
        appends = [
            append_of(("mine", make_event())),
            append_of(("mine", make_event()), conditions=[fail_if_tagged("old")]),
            append_of(("mine", make_event())),
        ]
        answers = await asyncio.gather(*(recorded(writer, append) for append in appends))
    assert sorted(answer.first_position for answer in answers) == [3, 4, 5]


async def test_what_is_too_old_by_another_servers_clock_only(storage, monkeypatch):
    """Whichever clock it is decided by, it is decided: nobody looks at it again and again."""

    class AheadClock:
        @staticmethod
        def time_ns():
            return time.time_ns() + 3_600 * 10**9

    write(storage, some("a", 1, ["old"]))
    keep(storage, "a", max_age=1_800 * 10**6)
    with monkeypatch.context() as patch:
        patch.setattr(logs, "time", AheadClock)
        write(storage, some("b", 1))
    async with writing(storage) as writer, asyncio.timeout(10):
        with suppress(ConditionFailed):
            await submitted(writer, fail_if_tagged("old"))
        assert storage.head().position in (2, 3)


async def test_what_is_told_of_a_commit(storage):
    told = []
    async with writing(storage, told.append) as writer:
        await submitted(writer)
        keep(storage, "mine", max_count=3, max_age=10**12)
        await submitted(writer)
        await recorded(writer, append_of(("", make_event())))
        keep(storage, "mine")
        await submitted(writer)
    log_id = storage.head().log_id
    assert [(each.log_id, each.generation, each.rules) for each in told] == [
        (log_id, 0, {}),
        (log_id, 1, {"mine": (Rule(0, 3, 10**12), 2)}),
        (log_id, 1, {}),
        (log_id, 2, {}),
    ]
    assert [record.position for each in told for record in each.records] == [1, 2, 3, 4]


# --- a new incarnation


async def test_the_log_lost_its_end(storage):
    told = []
    async with writing(storage, told.append) as writer:
        before = storage.head().log_id
        for tag in ("kept", "lost"):
            await recorded(writer, append_of(("mine", make_event(tags=[tag]))))
        fork_condition = fail_if_tagged("lost")
        with pytest.raises(ConditionFailed):
            await submitted(writer, fork_condition)
        log_id = lose_end(storage, 1)
        answer = await submitted(writer, fork_condition)
        assert (answer.first_position, answer.log_id) == (2, log_id)
        assert [each.version for each in answer.versions] == [2]
        with pytest.raises(ConditionFailed):
            await submitted(writer, fail_if_tagged("kept"))
        with pytest.raises(LogDiverged) as refusal:
            await recorded(
                writer, append_of(("mine", make_event()))._replace(expected_log_id=before)
            )
        assert refusal.value.last_common_position == 1
    assert [each.log_id for each in told] == [before, before, log_id]


async def test_what_was_looked_at_of_the_history_before_is_looked_at_again(storage, monkeypatch):
    """The log may lose its end between a look at conditions and the append lock."""
    async with writing(storage) as writer:
        write(storage, [*some("a", 3), *some("a", FETCHED_EVENTS, ["theirs"])])

        def lose():
            lose_end(storage, 3)
            write(storage, some("a", 2, ["new"]))

        looked = at_lock(storage, monkeypatch, lose)
        with pytest.raises(ConditionFailed) as refusal:
            await submitted(writer, fail_if_tagged("new"))
        assert looked and refusal.value.position == 4
        answer = await submitted(writer, fail_if_tagged("theirs"))
        assert answer.first_position == 6
