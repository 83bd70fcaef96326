"""Erasure: soon after events were removed their content is gone from the database, while
their rows, and with them positions, streams, versions and ids, stay.

The servers here are processes of their own: a test that opened and closed the file of a
SQLite in its own process would take away the locks that the server holds there.
"""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest

from calls import (
    ALL,
    append,
    append_all,
    append_to,
    fail_if,
    head_of,
    make_event,
    matching,
    new_id,
    read,
    refused,
    to_stream,
)
from changes import A_MOMENT, delete, eventually, info_of, keep
from servers import ServerProcess
from treering.v1.event_pb2 import Event
from treering.v1.event_store_service_pb2 import AppendRequest
from treering.v1.event_store_service_pb2_grpc import EventStoreServiceStub
from treering.v1.stream_service_pb2_grpc import StreamServiceStub

pytestmark = pytest.mark.timeout(300)

ERASED_SECONDS = 60.0
"""How long a test waits for an erasure, on a machine that is busy with others."""

MANY = 20_000


class Database:
    """Looks into a database beside the server that is at work on it."""

    def __init__(self, url: str) -> None:
        self._url = url

    @property
    def is_sqlite(self) -> bool:
        """Which of the two it is."""
        return self._url.startswith("sqlite")

    @property
    def file(self) -> Path:
        """SQLite's."""
        return Path(self._url.removeprefix("sqlite:///"))

    def rows(self, statement: str, *parameters: Any) -> Sequence[tuple[Any, ...]]:
        """What a query gives. Parameters are written as SQLite does, and so is the rest."""
        if self.is_sqlite:
            with closing(sqlite3.connect(f"file:{self.file}?mode=ro", uri=True)) as connection:
                return connection.execute(statement, parameters).fetchall()
        with psycopg.connect(self._url) as postgres:
            return postgres.execute(statement.replace("?", "%s").encode(), parameters).fetchall()

    def left(self, stream: str | None = None) -> int:
        """How many events there are with content: in all, or in a stream."""
        if stream is None:
            [(count,)] = self.rows("SELECT count(*) FROM events WHERE record IS NOT NULL")
        else:
            [(count,)] = self.rows(
                "SELECT count(*) FROM events e JOIN streams s ON s.id = e.stream_id"
                " WHERE s.name = ? AND e.record IS NOT NULL",
                stream,
            )
        return int(count)

    def count(self, table: str) -> int:
        """How many rows a table has."""
        [(count,)] = self.rows(f"SELECT count(*) FROM {table}")
        return int(count)

    def has(self, secret: str) -> bool:
        """Whether the secret is anywhere: in a byte of SQLite's files, in a row of
        PostgreSQL's tables. The names of types aside, which may stay."""
        return bool(self.places(secret))

    def places(self, secret: str) -> list[str]:
        """Where the secret is."""
        if self.is_sqlite:
            files = self.file, self.file.with_name(self.file.name + "-wal")
            return [f.name for f in files if f.exists() and secret.encode() in f.read_bytes()]
        with psycopg.connect(self._url) as connection:
            columns = connection.execute(
                "SELECT table_name, column_name, data_type FROM information_schema.columns"
                " WHERE table_schema = current_schema()"
            ).fetchall()
            found = []
            for table, column, type in columns:
                if type == "bytea":
                    condition = f'position(%s::bytea in "{column}") > 0'
                    parameter: Any = secret.encode()
                else:
                    condition = f'position(%s in "{column}"::text) > 0'
                    parameter = secret
                statement = f'SELECT count(*) FROM "{table}" WHERE {condition}'
                row = connection.execute(statement.encode(), [parameter]).fetchone()
                if row and row[0]:
                    found.append(f"{table}.{column}")
            return found


class Running:
    """A server and all that is needed to talk to it and to look into its database."""

    def __init__(self, process: ServerProcess, channel: grpc.aio.Channel) -> None:
        self.process = process
        self.events: Any = EventStoreServiceStub(channel)
        self.streams: Any = StreamServiceStub(channel)
        self.database = Database(process.database_url)

    async def until_erased(self, *streams: str) -> None:
        """Waits until no event of these streams has any content."""

        async def are_erased() -> bool:
            return not any([await asyncio.to_thread(self.database.left, s) for s in streams])

        await eventually(are_erased, ERASED_SECONDS)

    async def until_gone(self, *secrets: str) -> None:
        """Waits until none of these is to be found."""

        async def are_gone() -> bool:
            return not any([await asyncio.to_thread(self.database.has, s) for s in secrets])

        try:
            await eventually(are_gone, ERASED_SECONDS)
        except AssertionError as error:
            places = {secret: self.database.places(secret) for secret in secrets}
            raise AssertionError(f"still there: {places}") from error


Start = Callable[[], Any]


@pytest.fixture
def running(database_url: str, server_process: Callable[..., ServerProcess]) -> Start:
    """Starts a server over the one database."""

    @asynccontextmanager
    async def start() -> AsyncIterator[Running]:
        process = await asyncio.to_thread(server_process, database_url)
        async with grpc.aio.insecure_channel(process.address) as channel:
            yield Running(process, channel)
        await asyncio.to_thread(process.kill)

    return start


class Secret:
    """Something that must be gone afterwards, in every part of an event that can hold it."""

    def __init__(self, name: str) -> None:
        self.data, self.tag, self.key, self.value, self.content_type = (
            f"{name}-{part}-{new_id()}" for part in ("data", "tag", "key", "value", "media")
        )

    @property
    def all(self) -> tuple[str, ...]:
        """All of it."""
        return self.data, self.tag, self.key, self.value, self.content_type

    def event(self, type: str = "T", padding: int = 0) -> Event:
        """An event that holds it."""
        return make_event(
            type,
            self.tag,
            "shared",
            data=self.data.encode() + b" " * padding,
            metadata={self.key: self.value},
            content_type=self.content_type,
        )


async def write(running: Running, stream: str, count: int, size: int = 5_000) -> None:
    """Appends many small events with tags."""
    for n in range(0, count, size):
        events = [make_event("T", "many") for _ in range(min(size, count - n))]
        await append(running.events, append_to(stream, *events))


# --- what is gone, and what stays

WAYS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "deletion": lambda s: delete(s, "a"),
    "permanent deletion": lambda s: delete(s, "a", permanent=True),
    "truncation": lambda s: keep(s, "a", truncate_before=4),
    "max_count": lambda s: keep(s, "a", max_count=1),
    "max_age": lambda s: keep(s, "a", max_age=A_MOMENT),
}


@pytest.mark.parametrize("way", WAYS)
async def test_content_is_gone_soon_after_a_removal(running, way):
    """While the server runs and without a word to it: on SQLite from every byte of its files,
    on PostgreSQL from every row."""
    secret, kept = Secret("secret"), Secret("kept")
    async with running() as here:
        last = [] if way != "max_count" else [kept.event()]
        events = [secret.event() for _ in range(3)]
        await append(here.events, append_to("a", *events, *last), append_to("b", kept.event()))
        for one in (*secret.all, *kept.all):
            assert here.database.has(one), "the test can see it"

        await WAYS[way](here.streams)

        await here.until_gone(*secret.all)
        assert all(here.database.has(one) for one in kept.all)
        assert (await read(here.events, query=matching(tags=["shared"]))).positions == (
            [4, 5] if way == "max_count" else [4]
        )


async def test_large_content_is_gone(running):
    """Events that SQLite keeps in pages of their own, of many sizes."""
    secret = Secret("secret")
    sizes = [0, 100, 1_000, 4_000, 5_000, 20_000, 200_000, 1_000_000]
    async with running() as here:
        for size in sizes:
            event = secret.event(padding=size)
            event.data += secret.data.encode()
            await append(here.events, append_to("a", event), append_to("b"))

        await delete(here.streams, "a")

        await here.until_gone(*secret.all)
        assert (await read(here.events, stream="b")).stream_version == len(sizes)


async def test_content_of_what_max_count_leaves_behind_is_gone(running):
    """It moves with each append, without any change of the stream."""
    async with running() as here:
        await append(here.events, append_to("a"))
        await keep(here.streams, "a", max_count=2)
        secrets = [Secret(f"secret{n}") for n in range(5)]
        for secret in secrets:
            await append(here.events, append_to("a", secret.event()))

        await here.until_gone(*(part for secret in secrets[:3] for part in secret.all))
        assert all(here.database.has(part) for secret in secrets[3:] for part in secret.all)
        await append(here.events, append_to("a"), append_to("a"))
        await here.until_gone(*(part for secret in secrets for part in secret.all))


async def test_content_of_what_grows_too_old_is_gone(running):
    """It was recorded after the retention was set."""
    secret = Secret("secret")
    async with running() as here:
        await append(here.events, append_to("a"))
        await keep(here.streams, "a", max_age=A_MOMENT)
        await append(here.events, append_to("a", secret.event(), secret.event()))

        await here.until_gone(*secret.all)


async def test_rows_of_removed_events_stay(running):
    """With their positions, streams, versions and ids, and nothing that is found by content."""
    types = ["OnlyInA" + new_id(), "InBoth"]
    async with running() as here:
        events = [make_event(types[n % 2], f"tag:{n}", "shared") for n in range(6)]
        await append(here.events, append_to("a", *events))
        await append(here.events, append_to("b", make_event(types[1], "shared")))
        before = here.database.rows("SELECT position, version, stream_id, id FROM events")

        await delete(here.streams, "a")
        await here.until_erased("a")

        after = here.database.rows("SELECT position, version, stream_id, id FROM events")
        assert sorted(after) == sorted(before)
        assert here.database.rows("SELECT tag, position FROM event_tags") == [("shared", 7)]
        told = here.database.rows(
            "SELECT count(*) FROM events e JOIN types t ON t.id = e.type_id WHERE e.position < 7"
        )
        assert told == [(0,)], "no row tells the type"
        category = "SELECT count(*) FROM events e JOIN categories c ON c.id = e.category_id"
        assert here.database.rows(category) == [(1,)], "nor the category"


async def test_after_the_erasure_all_answers_are_the_same(running):
    """Reads, versions, conditions, repeats and conflicts are what they were before it."""
    removed = [make_event("T", "x", data=b"1") for _ in range(3)]
    kept = make_event("T", "x")
    request = append_to("a", *removed, expected_version=0)
    async with running() as here:
        first = await append(here.events, request)
        await append(here.events, append_to("a", kept), append_to("b", make_event("T", "x")))
        await keep(here.streams, "a", truncate_before=4)
        stream = await info_of(here.streams, "a")

        async def erased() -> bool:
            return await asyncio.to_thread(here.database.left) == 2

        await eventually(erased, ERASED_SECONDS)

        assert await info_of(here.streams, "a") == stream
        for fields in ({}, {"query": matching(types=["T"])}, {"query": matching(tags=["x"])}):
            assert (await read(here.events, **fields)).positions == [4, 5]
        answer = await read(here.events, stream="a", until_position=2)
        assert (answer.events, answer.stream_version) == ([], 2)
        repeat = await append(here.events, request)
        assert repeat.duplicate
        repeat.duplicate = False
        assert repeat == first
        other = [Event(id=event.id, type="Other") for event in removed]
        assert (await append(here.events, append_to("a", *other, kept))).duplicate
        refusal = await refused(here.events.Append(append_to("b", removed[1])), "EVENT_ID_CONFLICT")
        assert refusal.failure.event_id_conflict.position == 2
        changed = Event(id=kept.id, type="Other")
        await refused(here.events.Append(append_to("a", changed)), "EVENT_ID_CONFLICT")
        request = append_all(to_stream("c", make_event()), conditions=[fail_if(ALL)])
        refusal = await refused(here.events.Append(request), "CONDITION_FAILED")
        assert refusal.failure.condition_failed.position == 4
        await append(here.events, append_to("a", expected_version=4))


async def test_a_stream_that_lives_again_keeps_its_new_content(running):
    secret, kept = Secret("secret"), Secret("kept")
    async with running() as here:
        for n in range(3):
            await append(here.events, append_to("a", secret.event(), secret.event()))
            await delete(here.streams, "a")
            await append(here.events, append_to("a", kept.event()))
            if n < 2:
                await delete(here.streams, "a")
        await here.until_gone(*secret.all)

        assert (await read(here.events, stream="a")).versions == [9]
        assert here.database.left("a") == 1
        assert all(here.database.has(one) for one in kept.all)


# --- many events


async def test_the_erasure_of_many_events_does_not_block_appends(running):
    """Nor reads. Each append, to the same stream too, gets through while it goes on."""
    async with running() as here:
        await write(here, "a", MANY)
        before = here.database.left("a")
        assert before == MANY

        await delete(here.streams, "a")

        slowest, count = 0.0, 0
        erased = asyncio.create_task(here.until_erased("a"))
        while not erased.done() or count < 20:
            began = time.monotonic()
            request = AppendRequest(events=[make_event("T", "many")])
            await here.events.Append(request, timeout=10)
            assert (await read(here.events, query=matching(tags=["many"]), limit=1)).events
            slowest = max(slowest, time.monotonic() - began)
            count += 1
        await erased

        assert slowest < 5
        assert here.database.count("events") == MANY + count
        assert here.database.count("event_tags") == count
        assert (await head_of(here.events)).head_position == MANY + count
        assert len((await read(here.events)).events) == count


async def test_content_is_gone_although_others_never_rest(running):
    """Reads and appends without a pause: on SQLite they keep the write-ahead log in use."""
    secret = Secret("secret")
    done = asyncio.Event()
    async with running() as here:

        async def write_on() -> None:
            while not done.is_set():
                await append(here.events, append_to("b", make_event(data=b"x" * 1_000)))

        async def read_on() -> None:
            while not done.is_set():
                await read(here.events, query=matching(streams=["b"]))

        async def erase() -> None:
            await append(here.events, append_to("a", *(secret.event() for _ in range(20))))
            await delete(here.streams, "a")
            await here.until_gone(*secret.all)
            done.set()

        await asyncio.gather(write_on(), write_on(), read_on(), read_on(), read_on(), erase())


async def test_an_erasure_that_was_broken_off_goes_on_after_a_restart(running):
    """The server is killed in the middle, again and again; what was removed never shows."""
    left = []
    for n, delay in enumerate((0.0, 0.05, 0.2)):
        async with running() as here:
            assert (await read(here.events)).events == []
            await write(here, f"s-{n}", 10_000)
            await delete(here.streams, f"s-{n}")
            await asyncio.sleep(delay)
            await asyncio.to_thread(here.process.kill)
            left.append(here.database.left())
    assert any(left), "at least one was killed before the end"

    async with running() as here:
        assert (await read(here.events)).events == []
        await here.until_erased("s-0", "s-1", "s-2")
        assert here.database.count("events") == 30_000
        assert here.database.count("event_tags") == 0
        assert (await append(here.events, append_to("s-0"))).versions[0].version == 10_001


async def test_content_is_gone_when_the_server_was_killed_right_after_the_deletion(running):
    secret = Secret("secret")
    async with running() as here:
        await append(here.events, append_to("a", *(secret.event() for _ in range(3))))
        await delete(here.streams, "a")
        await asyncio.to_thread(here.process.kill)

    async with running() as here:
        await here.until_gone(*secret.all)
        assert (await info_of(here.streams, "a")).next_version == 4
