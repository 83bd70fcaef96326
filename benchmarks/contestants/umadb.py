"""UmaDB: its own server and client. A stream is a tag; the expected version is a condition that
no event with the tag is after the last that the caller knows."""

import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from contestants.contestant import Contestant, NewEvent, Place, Received, Stored

READ = "/umadb.v1.DCB/Read"


class UmaDB(Contestant):
    """One client for all threads, which is faster than one for each."""

    name = "umadb"
    durable = "defaults: two fdatasync for each group of appends"

    def __init__(self, place: Place) -> None:
        import umadb

        super().__init__(place)
        self._umadb = umadb
        self._client: Any = None
        self._last: dict[str, int] = {}
        """Position of the last event of each stream."""

    @classmethod
    def server(cls, place: Place, programs: Path) -> Sequence[str | Path]:
        """Command of the server."""
        directory = place.directory / "uma.db"
        return (programs / "umadb", "--listen", place.address, "--db-path", directory)

    async def open(self) -> None:
        """Connects."""
        self._client = self._umadb.Client(f"http://{self.place.address}")

    async def append(self, events: Sequence[NewEvent]) -> int:
        """If the stream has no event after the last one known."""
        stream = events[0].stream
        query = self._umadb.Query([self._umadb.QueryItem(tags=[stream])])
        condition = self._umadb.AppendCondition(query, self._last.get(stream))
        position: int = self._client.append([self._event(each) for each in events], condition)
        self._last[stream] = position
        return position

    async def append_mixed(self, events: Sequence[NewEvent]) -> None:
        """Without a condition."""
        self._client.append([self._event(each) for each in events])

    async def append_if_none(self, event: NewEvent, after: int) -> int:
        """With a condition on type and tags."""
        query = self._umadb.Query(
            [self._umadb.QueryItem(types=[event.type], tags=list(event.tags))]
        )
        condition = self._umadb.AppendCondition(query, after or None)
        position: int = self._client.append([self._event(event)], condition)
        return position

    async def read_log(self) -> int:
        """Event by event."""
        return sum(map(_looked_at, self._client.read()))

    async def read_wire(self) -> int:
        """Messages as bytes, in a connection of its own; an empty request asks for all."""
        from grpc import insecure_channel

        with insecure_channel(self.place.address) as channel:
            return sum(map(len, channel.unary_stream(READ)(b"")))

    async def load(self, stream: str) -> int:
        """Events with the stream's tag."""
        query = self._umadb.Query([self._umadb.QueryItem(tags=[stream])])
        return sum(map(_looked_at, self._client.read(query)))

    async def load_many(self, streams: Sequence[str]) -> int:
        """Events with any of the tags."""
        items = [self._umadb.QueryItem(tags=[stream]) for stream in streams]
        return sum(map(_looked_at, self._client.read(self._umadb.Query(items))))

    async def read_type(self, type: str) -> int:
        """A query."""
        query = self._umadb.Query([self._umadb.QueryItem(types=[type])])
        return sum(map(_looked_at, self._client.read(query)))

    async def follow(self, received: Received) -> None:
        """A subscription after the last event."""
        for each in self._client.subscribe(after=self._client.head()):
            if received(bytes(each.event.data)):
                return

    async def log(self, after: int) -> Iterable[Stored]:
        """One read."""
        return [
            Stored(each.position, None, bytes(each.event.data))
            for each in self._client.read(start=after + 1)
        ]

    def _event(self, event: NewEvent) -> Any:
        return self._umadb.Event(
            event.type, event.data, tags=event.tags or [event.stream], uuid=uuid.uuid4()
        )


def _looked_at(sequenced: Any) -> bool:
    event = sequenced.event
    return bool(sequenced.position and event.event_type and event.data)
