"""Promise 9: a log id names one unbroken history. Whatever may have lost the end of it goes on
under another, and says so to whoever knows of more."""

import subprocess
import uuid
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest

from calls import (
    ALL,
    BACKWARDS,
    append,
    append_many,
    append_to,
    fail_if,
    head_of,
    matching,
    read,
    reason_of,
    refused,
    subscribed,
)
from checks import check_log
from servers import InProcessServer
from treering.v1.event_store_service_pb2 import ReadRequest, SubscribeRequest
from treering.v1.event_store_service_pb2_grpc import EventStoreServiceStub
from treering_server.storage.copies import backup, restore
from treering_server.storage.forks import fork


async def test_every_answer_tells_the_same_log_id(event_store):
    ids = {(await head_of(event_store)).log_id}
    ids.add((await append(event_store, append_to("a"))).log_id)
    ids.add((await read(event_store)).log_id)
    async with subscribed(event_store) as subscription:
        _, started = await subscription.next()
    ids.add(started.log_id)

    [log_id] = ids
    assert str(uuid.UUID(log_id)) == log_id


async def test_a_restart_is_no_new_incarnation(database_url):
    heads = []
    for _ in range(3):
        async with (
            InProcessServer(database_url) as server,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            event_store = EventStoreServiceStub(channel)
            await append(event_store, append_to("a"))
            heads.append(await head_of(event_store))

    assert {head.log_id for head in heads} == {heads[0].log_id}
    assert [head.head_position for head in heads] == [1, 2, 3]


async def test_two_logs_have_two_ids(event_store, tmp_path, postgres):
    other_url = f"sqlite:///{tmp_path / 'other.db'}"
    async with (
        InProcessServer(other_url) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        other = await head_of(EventStoreServiceStub(channel))

    assert other.log_id != (await head_of(event_store)).log_id


# --- after it may have lost its end


@asynccontextmanager
async def serving(url):
    """A server's stub."""
    async with (
        InProcessServer(url) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield EventStoreServiceStub(channel)


async def fill(event_store, count):
    await append(event_store, *(append_to("filled") for _ in range(count)))


def back_up(file: Path, copy: Path) -> None:
    backup(f"sqlite:///{file}", copy, lambda *_: None)


def copy_file(file: Path, copy: Path) -> None:
    # By another process, as this one's SQLite would lose its locks by it. Over a file that is
    # there it keeps the inode.
    subprocess.run(["cp", file, copy], check=True)


def copy_with_wal(file: Path, copy: Path) -> None:
    copy_file(file, copy)
    copy_file(Path(f"{file}-wal"), Path(f"{copy}-wal"))


class Way(NamedTuple):
    """How the end of a log in a file may be lost."""

    take: Callable[[Path, Path], None]
    """Makes a copy of it."""
    while_served: bool
    put: Callable[[Path, Path], None] | None
    """Puts the copy in its place. None: the copy is served where it is."""


WAYS = {
    "a copy is served": Way(copy_file, False, None),
    "a copy with its WAL file is served": Way(copy_with_wal, True, None),
    "a backup is served": Way(back_up, True, None),
    "a copy is put over it": Way(copy_file, False, lambda file, copy: copy_file(copy, file)),
    "a backup is moved into its place": Way(back_up, False, lambda file, copy: copy.replace(file)),
    "a backup is restored": Way(
        back_up, True, lambda file, copy: restore(f"sqlite:///{file}", copy, lambda *_: None)
    ),
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_file_that_lost_its_end(way, tmp_path):
    file, copy = tmp_path / "treering.db", tmp_path / "copy.db"
    url = f"sqlite:///{file}"
    take, while_served, put = WAYS[way]
    async with serving(url) as event_store:
        await fill(event_store, 10)
        if while_served:
            take(file, copy)
    if not while_served:
        take(file, copy)
    async with serving(url) as event_store:
        await fill(event_store, 5)
        old = await read(event_store)
    if put is not None:
        put(file, copy)
    new_url = f"sqlite:///{copy}" if put is None else url
    new_id = await check_new_incarnation(new_url, old, 10)

    # It is one for good.
    async with serving(new_url) as event_store:
        assert (await head_of(event_store)).log_id == new_id
    if put is None:
        async with serving(url) as event_store:
            assert await read(event_store) == old


async def test_a_backup_that_is_restored_twice(tmp_path):
    """Who came to know the log after the first time is told as well."""
    file, copy, later = (tmp_path / name for name in ("treering.db", "copy.db", "later.db"))
    url = f"sqlite:///{file}"
    restore_it = WAYS["a backup is restored"].put
    async with serving(url) as event_store:
        await fill(event_store, 10)
        back_up(file, copy)
        await fill(event_store, 5)
        old = await read(event_store)
    restore_it(file, copy)
    async with serving(url) as event_store:
        await fill(event_store, 7)
        back_up(file, later)
        second = await read(event_store)
    restore_it(file, copy)
    await check_new_incarnation(url, old, 10)
    async with serving(url) as event_store:
        for known in (old, second):
            await check_who_knows_the_old_id(event_store, known, 10)
        third = await read(event_store)
    # What comes back now has more in common with the second than the third has.
    restore_it(file, later)
    await check_new_incarnation(url, second, 17)
    async with serving(url) as event_store:
        for known in (old, third):
            await check_who_knows_the_old_id(event_store, known, 10)


async def test_a_log_that_is_forked_by_hand(database_url):
    async with serving(database_url) as event_store:
        await fill(event_store, 15)
        old = await read(event_store)
    forked = fork(database_url)
    told = (str(forked.log_id_before), forked.last_common_position)
    assert told == (old.log_id, 15)
    new_id = await check_new_incarnation(database_url, old, 15)
    assert new_id == str(forked.log_id)

    # Each caller knows of one incarnation, and is told of what is common with now.
    async with serving(database_url) as event_store:
        second = await read(event_store)
    fork(database_url)
    await check_new_incarnation(database_url, second, len(second.events))
    async with serving(database_url) as event_store:
        for log_id, common in ((old.log_id, 15), (second.log_id, len(second.events))):
            answer = await read(event_store, after_position=common, expected_log_id=log_id)
            assert answer.positions[0] == common + 1
            asked = ReadRequest(stream="filled", after_position=common + 1, expected_log_id=log_id)
            refusal = await refused(event_store.Read(asked), "LOG_DIVERGED")
            assert refusal.failure.log_state.last_common_position == common


async def test_a_fork_under_a_server(postgres_url):
    """An open subscription goes on, as nothing was lost; decisions are made again."""
    async with serving(postgres_url) as event_store:
        await fill(event_store, 3)
        old = await head_of(event_store)
        async with subscribed(event_store, expected_log_id=old.log_id) as subscription:
            await subscription.until("caught_up")
            forked = fork(postgres_url)
            request = append_to("filled")
            request.expected_log_id = old.log_id
            await refused(event_store.Append(request), "LOG_DIVERGED")
            request.expected_log_id = str(forked.log_id)
            assert (await append(event_store, request)).first_position == 4
            await subscription.until_received(4)
        assert (await read(event_store)).log_id == str(forked.log_id)


async def check_new_incarnation(url, old, fork):
    """What is promised of a log that is what it was up to a fork; its new id."""
    async with serving(url) as event_store:
        head = await head_of(event_store)
        assert head.log_id != old.log_id
        assert head.head_position == fork
        await check_who_knows_the_old_id(event_store, old, fork)
        await fill(event_store, 8)
        log = await read(event_store)
        assert log.log_id == head.log_id
        assert log.events[:fork] == old.events[:fork]
        check_log(log.events)
        await check_who_knows_the_old_id(event_store, old, fork)
        assert (await head_of(event_store)).head_position == fork + 8
    return head.log_id


async def check_who_knows_the_old_id(event_store, old, fork):
    """Positions up to the fork are served, later ones refused, and so are all decisions."""
    log = await read(event_store)
    for position in (0, 1, fork - 1, fork):
        due = log.events[position:]
        for expected in (old.log_id, old.log_id.upper(), log.log_id):
            known = {"after_position": position, "expected_log_id": expected}
            answer = await read(event_store, **known)
            assert (answer.events, answer.log_id) == (due, log.log_id)
            event_id = old.events[position - 1].id if position else ""
            async with subscribed(event_store, after_event_id=event_id, **known) as subscription:
                assert (await subscription.until("started")).log_id == log.log_id
                assert await subscription.until_received(len(due)) == due
    for position in (fork + 1, fork + 5, 10**12):
        for call in (
            event_store.Read(
                ReadRequest(query=ALL, after_position=position, expected_log_id=old.log_id)
            ),
            event_store.Read(
                ReadRequest(
                    stream="filled",
                    after_position=position,
                    direction=BACKWARDS,
                    expected_log_id=old.log_id,
                )
            ),
            event_store.Subscribe(
                SubscribeRequest(query=ALL, after_position=position, expected_log_id=old.log_id)
            ),
        ):
            check_diverged(await refused(call, "LOG_DIVERGED"), log, fork)
    await check_decisions(event_store, old, log, fork)
    never = str(uuid.uuid4())
    await refused(event_store.Read(ReadRequest(query=ALL, expected_log_id=never)), "LOG_MISMATCH")


async def check_decisions(event_store, old, log, fork):
    """Whatever they looked at: they are to be made again."""
    plain = append_to("filled")
    guarded = append_to("filled", expected_version=len(log.events))
    guarded.conditions.append(fail_if(matching(types=["Never"]), after=1))
    for request in (plain, guarded):
        request.expected_log_id = old.log_id
        check_diverged(await refused(event_store.Append(request), "LOG_DIVERGED"), log, fork)
        [result] = await append_many(event_store, request)
        assert reason_of(result.failure) == "LOG_DIVERGED"
    assert (await head_of(event_store)).head_position == len(log.events)


def check_diverged(refusal, log, fork):
    """The caller is told where to go on."""
    state = refusal.failure.log_state
    told = (state.log_id, state.head_position, state.last_common_position)
    assert told == (log.log_id, log.head_position, fork)
