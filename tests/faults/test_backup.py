"""Backups of a SQLite log while everybody writes, and what becomes of consumers after a restore."""

import asyncio
import json
import random
import signal
import sqlite3
import sys
import time
from contextlib import AsyncExitStack, closing
from pathlib import Path

import grpc
import pytest

import treering
from calls import append, append_to, head_of, make_event, read
from checks import check_atomic, check_durable, check_log
from databases import free_port
from failover import BlockingFollower, DecidingTraffic, LibraryFollower, StubFollower
from servers import InProcessServer, environment
from test_failover import Callers
from traffic import PAUSE_SECONDS, SECONDS, Traffic, connect, ids_of, stub
from treering.v1.event_pb2 import RecordedEvent
from treering.v1.stream_service_pb2 import DeleteStreamRequest
from treering.v1.stream_service_pb2_grpc import StreamServiceStub

BIG = b"x" * 500_000


@pytest.fixture
def file(tmp_path):
    """Where the log is."""
    return tmp_path / "treering.db"


async def start(*arguments, file):
    """Starts a command on the log."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "treering", *map(str, arguments)),
        *("--database-url", f"sqlite:///{file}"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )


async def finish(process):
    """Waits for a command, which ends well; what it has to say."""
    async with asyncio.timeout(SECONDS):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out or err)


async def run(*arguments, file):
    """Runs a command on the log."""
    return await finish(await start(*arguments, file=file))


async def until_copying(directory, pattern):
    """Waits until a part of a copy is there."""
    async with asyncio.timeout(SECONDS):
        while not any(each.stat().st_size for each in directory.glob(pattern)):  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def log_in(file):
    """Log id and all events, as they are in a file that nobody writes to."""
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        [log_id] = connection.execute("SELECT hex(log_id) FROM log").fetchone()
        rows = connection.execute("SELECT record FROM events ORDER BY position").fetchall()
    return log_id.lower(), [RecordedEvent.FromString(record) for (record,) in rows]


async def make_large(event_store, count=60):
    """Makes a backup take its time; gives the ids."""
    request = append_to("large", *(make_event("Large", data=BIG) for _ in range(6)))
    requests = []
    for _ in range(count // 6):
        for event in request.appends[0].events:
            event.id = make_event().id
        await append(event_store, request)
        requests.append(ids_of(request))
    return requests


def check_backup(copy, told, acknowledged, requests, log):
    """It is the log as it was at a moment after all that was acknowledged before."""
    log_id, events = log_in(copy)
    assert log_id == told["log_id"].replace("-", "")
    assert len(events) == told["head_position"]
    check_log(events)
    check_atomic(events, requests)
    check_durable(events, acknowledged)
    assert events == log[: len(events)]


async def test_backups_while_everybody_writes(file, server_process):
    process = server_process(f"sqlite:///{file}")
    copies = []
    async with connect(process.address) as channel:
        store = stub(channel)
        large = await make_large(store)
        async with Traffic([store], writers=12) as traffic:
            await traffic.more(20)
            for number in range(5):
                copy = file.with_name(f"copy-{number}.db")
                acknowledged = dict(traffic.acknowledged)
                before = traffic.answered
                copies.append((copy, acknowledged, await run("backup", copy, file=file)))
                assert traffic.answered > before, "nobody wrote meanwhile"
        log = (await read(store)).events
    requests = [*large, *map(ids_of, traffic.sent)]
    assert len({told["head_position"] for _, _, told in copies}) == 5
    for copy, acknowledged, told in copies:
        check_backup(copy, told, acknowledged, requests, log)
    assert process.terminate() == 0
    assert not list(file.parent.glob("*-wal"))


async def test_backups_that_are_killed(file, server_process):
    """The server does not notice."""
    rng = random.Random(1)
    process = server_process(f"sqlite:///{file}")
    async with connect(process.address) as channel:
        store = stub(channel)
        large = await make_large(store)
        async with Traffic([store], writers=12) as traffic:
            for number in range(5):
                copy = file.with_name(f"copy-{number}.db")
                backup = await start("backup", copy, file=file)
                await until_copying(file.parent, f"{copy.name}.*")
                await asyncio.sleep(rng.random() / 20)
                backup.kill()
                await backup.communicate()
                await traffic.more(20)
            told = await run("backup", file.with_name("whole.db"), file=file)
        log = (await read(store)).events
        check_log(log)
        check_durable(log, traffic.acknowledged)
    requests = [*large, *map(ids_of, traffic.sent)]
    check_backup(file.with_name("whole.db"), told, {}, requests, log)


@pytest.mark.parametrize("way", ["killed", "stopped"])
async def test_a_server_that_ends_and_starts_while_a_backup_runs(file, server_process, way):
    listen = f"127.0.0.1:{free_port()}"
    process = server_process(f"sqlite:///{file}", listen=listen)
    async with connect(listen) as channel:
        store = stub(channel)
        large = await make_large(store)
        async with Traffic([store], writers=4) as traffic:
            await traffic.more(20)
            acknowledged = dict(traffic.acknowledged)
            copy = file.with_name("copy.db")
            backup = await start("backup", copy, file=file)
            await until_copying(file.parent, f"{copy.name}.*")
            backup.send_signal(signal.SIGSTOP)
            await traffic.more(20)
            await asyncio.to_thread(process.kill if way == "killed" else process.terminate)
            process = await asyncio.to_thread(server_process, f"sqlite:///{file}", listen=listen)
            await traffic.more(20)
            # Whether the file is whole is seen from it, with a backup in the middle of it, too.
            await asyncio.to_thread(process.terminate)
            process = await asyncio.to_thread(server_process, f"sqlite:///{file}", listen=listen)
            backup.send_signal(signal.SIGCONT)
            told = await finish(backup)
            await traffic.more(20)
        log = (await read(store)).events
        assert (await head_of(store)).log_id == told["log_id"]
    requests = [*large, *map(ids_of, traffic.sent)]
    check_backup(copy, told, acknowledged, requests, log)
    assert process.terminate() == 0
    assert "new incarnation" not in process.text


async def test_a_backup_that_takes_long_holds_up_nobody(file):
    """Nor does it if events are erased meanwhile, which would like to empty the WAL file."""
    async with (
        InProcessServer(f"sqlite:///{file}") as server,
        connect(server.address) as channel,
    ):
        store, streams = stub(channel), StreamServiceStub(channel)
        await append(store, append_to("b"))
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM events").fetchone() == (1,)
            slowest = 0.0
            for number in range(30):
                name = f"gone-{number}"
                began = time.monotonic()
                await append(store, append_to(name, make_event(data=b"secret" * 100)))
                await streams.DeleteStream(DeleteStreamRequest(stream=name))
                slowest = max(slowest, time.monotonic() - began)
                await asyncio.sleep(0.05)
            assert reader.execute("SELECT count(*) FROM events").fetchone() == (1,)
        assert slowest < 3, "SQLite would wait for 5 s"


def is_transport(error):
    """Whether a call ended as gRPC itself ends what is sent while the server leaves."""
    if "grpc-status-details-bin" in dict(error.trailing_metadata() or ()):
        return False
    is_broken = error.code() == grpc.StatusCode.INTERNAL and "from Core" in str(error)
    return is_broken or error.code() == grpc.StatusCode.CANCELLED


class RestartedTraffic(DecidingTraffic):
    """Its servers leave."""

    async def _note_passing(self, error):
        if is_transport(error):
            await self._note_passing_reason("UNAVAILABLE")
        else:
            await super()._note_passing(error)


class RestartedFollower(StubFollower):
    """Its server leaves."""

    async def _follow_once(self):
        try:
            await super()._follow_once()
        except grpc.RpcError as error:
            if not is_transport(error):
                raise
            self.note_end("UNAVAILABLE")
            await asyncio.sleep(PAUSE_SECONDS)


async def lose_end(way, file, copy):
    """Puts the copy, which is older, in the place of the log; answers how its own log is kept."""
    kept = file.with_name("kept.db")
    if way == "restored":
        told = await run("restore", copy, file=file)
        return Path(told["kept"])
    cp = await asyncio.create_subprocess_exec("cp", file, kept)
    await cp.wait()
    if way == "put over it":
        cp = await asyncio.create_subprocess_exec("cp", copy, file)
        await cp.wait()
    else:
        await run("fork", file=file)
    return kept


@pytest.mark.parametrize("way", ["restored", "put over it", "forked"])
async def test_consumers_after_the_log_lost_its_end(file, server_process, way):
    """By everything that they were told: writers decide again, followers take back what is lost
    and go on below it."""
    listen = f"127.0.0.1:{free_port()}"
    url = f"sqlite:///{file}"
    process = server_process(url, listen=listen)
    async with AsyncExitStack() as stack:
        callers = Callers(stack)
        callers.addresses.append(listen)
        callers.stores.append(stub(await stack.enter_async_context(connect(listen))))
        store, [client] = callers.stores[0], await callers.clients()
        await append(store, append_to("quiet-1"))
        old_id = (await head_of(store)).log_id
        live = [
            RestartedFollower(store),
            LibraryFollower(client),
            BlockingFollower(callers.blocking_client()),
        ]
        quiet = RestartedFollower(store, lambda event: event.stream == "quiet-1", stream="quiet-1")
        callers.follow(*live, quiet)
        async with RestartedTraffic([store], [client]) as traffic:
            await traffic.more(60)
            copy = file.with_name("copy.db")
            told = await run("backup", copy, file=file)
            await traffic.more(60)
            await callers.until(lambda: all(each.done > told["head_position"] for each in live))
            await asyncio.to_thread(process.terminate)
            kept = await lose_end(way, file, copy)
            process = await asyncio.to_thread(server_process, url, listen=listen)
            await traffic.more(60)
        followers, last = await callers.finish()
        log = (await read(store)).events
        new_id = last.log_id
    assert process.terminate() == 0

    lost = log_in(kept)[1]
    fork = len(lost) if way == "forked" else told["head_position"]
    assert new_id != old_id
    assert lost[:fork] == log[:fork]
    assert way == "forked" or len(lost) > fork, "nothing was lost"
    logs = {old_id: lost, new_id: log}
    traffic.check_logs(logs)
    assert traffic.refused["LOG_DIVERGED"] > 0
    for follower in followers:
        follower.check(logs, {old_id: fork})
    for follower in live:
        assert len(follower.losses) == (0 if way == "forked" else 1)


async def append_one(client):
    """Appends an event and gives its id."""
    return (await client.append("a", treering.Event("A"))).last_event_id


async def test_a_checkpoint_of_before_a_restore(file):
    """A consumer that was away is told when it is back, and goes on from the fork."""
    url = f"sqlite:///{file}"
    async with InProcessServer(url) as server, treering.AsyncClient(server.address) as client:
        ids = [await append_one(client) for _ in range(10)]
        checkpoints = []
        async with client.subscribe() as subscription:
            async for _ in subscription.events():
                checkpoints.append(subscription.checkpoint)
                if len(checkpoints) == 10:
                    break
    copy = file.with_name("copy.db")
    await run("backup", copy, file=file)
    async with InProcessServer(url) as server, treering.AsyncClient(server.address) as client:
        await client.append("a", treering.Event("A"))
        async with client.subscribe(after=checkpoints[-1]) as subscription:
            async for _ in subscription.events():
                checkpoints.append(subscription.checkpoint)
                break
    await run("restore", copy, file=file)
    async with InProcessServer(url) as server, treering.AsyncClient(server.address) as client:
        new = [await append_one(client) for _ in range(3)]
        for position, known in enumerate(checkpoints, start=1):
            checkpoint, due = known, [*ids, *new][position:]
            if position > 10:
                with pytest.raises(treering.LogDiverged) as caught:
                    async for _ in client.subscribe(after=known):
                        pass
                assert caught.value.last_common_position == 10
                checkpoint = treering.Checkpoint(caught.value.log_id, 10)
                due = new
            received = []
            async with client.subscribe(after=checkpoint) as subscription:
                async for event in subscription.events():
                    received.append(str(event.id))
                    if len(received) == len(due):
                        break
            assert received == due
