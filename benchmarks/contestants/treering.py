"""Treering on each of its databases: `treering serve` with all settings at their defaults, and
`AsyncClient`."""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from concurrency import Concurrency, Tasks
from contestants.contestant import Contestant, Kind, NewEvent, Place, Received, Stored

if TYPE_CHECKING:
    from treering import RecordedEvent

READ = "/treering.v1.EventStoreService/Read"
JSON = "application/json"


class Treering(Contestant):
    """What both have in common."""

    kind: ClassVar[Kind] = "treering"
    tools = "own"
    concurrency: ClassVar[type[Concurrency]] = Tasks

    def __init__(self, place: Place) -> None:
        from treering import AsyncClient

        super().__init__(place)
        self._client = AsyncClient(place.address)

    @classmethod
    def server(cls, place: Place, programs: Path) -> Sequence[str | Path]:
        """Command of the server."""
        url = place.database or f"sqlite:///{place.directory / 'treering.db'}"
        serve = (programs / "python", "-m", "treering", "serve")
        return (*serve, "--database-url", url, "--listen", place.address)

    async def close(self) -> None:
        """Closes the connection."""
        await self._client.close()

    async def append(self, events: Sequence[NewEvent]) -> int:
        """With the version as expectation."""
        from treering import Event

        stream, version = events[0].stream, events[0].version
        appended = await self._client.append(
            stream,
            [Event(each.type, each.data, content_type=JSON, tags=each.tags) for each in events],
            expected_version=version - 1,
        )
        return appended.last_position

    async def append_mixed(self, events: Sequence[NewEvent]) -> None:
        """One append to many streams."""
        from treering import Event, StreamAppend

        await self._client.append(
            [
                StreamAppend(
                    each.stream, Event(each.type, each.data, content_type=JSON, tags=each.tags)
                )
                for each in events
            ]
        )

    async def append_if_none(self, event: NewEvent, after: int) -> int:
        """With a condition."""
        from treering import Condition, Event, Query

        condition = Condition(Query(types=event.type, tags=event.tags), after)
        new = Event(event.type, event.data, content_type=JSON, tags=event.tags)
        return (await self._client.append(None, new, conditions=[condition])).last_position

    async def import_file(self, file: Path) -> int:
        """By `treering import`, its start included."""
        command = (sys.executable, "-m", "treering", "import", str(file))
        done = subprocess.run(  # noqa: ASYNC221
            [*command, "--server", self.place.address, "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=True,
        )
        counts = json.loads(done.stdout)
        recorded: int = counts["recorded"]
        if recorded != counts["read"]:
            raise RuntimeError(f"treering import did not record every line: {counts}")
        return recorded

    async def read_log(self) -> int:
        """Event by event."""
        count = 0
        async for event in self._client.read():
            count += _looked_at(event)
        return count

    async def read_wire(self) -> int:
        """Messages as bytes, in a connection of its own."""
        from grpc.aio import insecure_channel

        from treering.v1.event_store_service_pb2 import ReadRequest
        from treering.v1.query_pb2 import Query

        request = ReadRequest(query=Query(all=True)).SerializeToString()
        size = 0
        async with insecure_channel(self.place.address) as channel:
            async for message in channel.unary_stream(READ)(request):
                size += len(message)
        return size

    async def load(self, stream: str) -> int:
        """One read."""
        return sum(map(_looked_at, await self._client.read(stream).to_list()))

    async def load_many(self, streams: Sequence[str]) -> int:
        """One read that names them."""
        from treering import Query

        events = await self._client.read(query=Query(streams=streams)).to_list()
        return sum(map(_looked_at, events))

    async def read_type(self, type: str) -> int:
        """A query."""
        from treering import Query

        events = await self._client.read(query=Query(types=type)).to_list()
        return sum(map(_looked_at, events))

    async def read_category(self, category: str) -> int:
        """A query."""
        from treering import Query

        events = await self._client.read(query=Query(categories=category)).to_list()
        return sum(map(_looked_at, events))

    async def follow(self, received: Received) -> None:
        """A subscription from the end of the log."""
        async with self._client.subscribe(from_head=True) as subscription:
            async for event in subscription.events():
                if received(event.data):
                    return

    async def log(self, after: int) -> Iterable[Stored]:
        """One read."""
        events = await self._client.read(after_position=after).to_list()
        return [Stored(event.position, event.version or None, event.data) for event in events]


def _looked_at(event: "RecordedEvent") -> bool:
    return bool(event.position and event.type and event.data)


class TreeringSqlite(Treering):
    """On SQLite."""

    name = "treering-sqlite"
    durable = "SQLite, WAL, synchronous=FULL: one flush for all appends that wait"


class TreeringPostgresql(Treering):
    """On PostgreSQL."""

    name = "treering-postgresql"
    durable = "PostgreSQL, fsync and synchronous_commit on: one commit for all appends that wait"
    on_postgresql = True
