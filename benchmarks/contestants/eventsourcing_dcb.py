"""Python's library `eventsourcing` again: its recorder for dynamic consistency boundaries on
PostgreSQL. A stream is a tag, as with UmaDB."""

from collections.abc import Iterable, Sequence
from typing import Any

from contestants.contestant import Contestant, NewEvent, Received, Stored
from contestants.eventsourcing import CONNECTIONS, SUBSCRIBERS, datastore

BEHIND_ALL = 2**62


class EventsourcingDcb(Contestant):
    """`PostgresDCBRecorderTT`."""

    name = "eventsourcing-dcb"
    durable = "PostgreSQL, fsync and synchronous_commit on: one commit for each append"
    on_postgresql = True

    async def open(self) -> None:
        """Makes the tables."""
        from eventsourcing.dcb import api
        from eventsourcing.dcb.postgres_tt import PostgresDCBRecorderTT

        self._api = api
        self._datastores = [datastore(self.place, each) for each in (CONNECTIONS, SUBSCRIBERS)]
        self._recorder: Any = PostgresDCBRecorderTT(self._datastores[0])
        self._recorder.create_table()
        self._followed: Any = PostgresDCBRecorderTT(self._datastores[1])
        self._last: dict[str, int] = {}
        """Position of the last event of each stream."""

    async def close(self) -> None:
        """Closes the pools."""
        for each in self._datastores:
            each.close()

    async def append(self, events: Sequence[NewEvent]) -> int:
        """If the stream has no event after the last one known."""
        stream = events[0].stream
        condition = self._api.DCBAppendCondition(self._query(tags=[stream]), self._last.get(stream))
        position: int = self._recorder.append([self._event(each) for each in events], condition)
        self._last[stream] = position
        return position

    async def append_mixed(self, events: Sequence[NewEvent]) -> None:
        """Without a condition."""
        self._recorder.append([self._event(each) for each in events])

    async def append_if_none(self, event: NewEvent, after: int) -> int:
        """With a condition on type and tags."""
        query = self._query(types=[event.type], tags=list(event.tags))
        condition = self._api.DCBAppendCondition(query, after or None)
        position: int = self._recorder.append([self._event(event)], condition)
        return position

    async def read_log(self) -> int:
        """One read, since it has no pages."""
        return sum(1 for _ in self._recorder.read())

    async def load(self, stream: str) -> int:
        """Events with the stream's tag."""
        return len(list(self._recorder.read(self._query(tags=[stream]))))

    async def read_type(self, type: str) -> int:
        """A query."""
        return len(list(self._recorder.read(self._query(types=[type]))))

    async def follow(self, received: Received) -> None:
        """A subscription after the last event."""
        head = self._recorder.read(after=BEHIND_ALL).head
        with self._followed.subscribe(after=head) as subscription:
            for each in subscription:
                if received(each.event.data):
                    return

    async def log(self, after: int) -> Iterable[Stored]:
        """One read."""
        found = self._recorder.read(after=after)
        return [Stored(each.position, None, each.event.data) for each in found]

    def _query(self, types: Sequence[str] = (), tags: Sequence[str] = ()) -> Any:
        item = self._api.DCBQueryItem(types=list(types), tags=list(tags))
        return self._api.DCBQuery(items=[item])

    def _event(self, event: NewEvent) -> Any:
        tags = list(event.tags or (event.stream,))
        return self._api.DCBEvent(type=event.type, data=event.data, tags=tags)
