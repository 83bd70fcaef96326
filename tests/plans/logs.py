"""A log written straight into a storage: decided as the writer decides, without a server."""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from treering.v1.event_pb2 import Event
from treering_server.core import streams
from treering_server.core.decide import BatchState, decide
from treering_server.core.eraser import Eraser
from treering_server.core.model import (
    Append,
    AppendCondition,
    DeleteStream,
    NewEvent,
    Retention,
    Stream,
    StreamAppend,
    UpdateStream,
)
from treering_server.core.query import Terms
from treering_server.core.record import EnvelopeEncoder, encode_body
from treering_server.core.removal import RuleChange
from treering_server.core.storage import Incarnation, Storage
from treering_server.core.streams import StreamChanges, Verdict
from treering_server.core.tail import Tail
from treering_server.core.writer import Committed
from treering_server.storage import incarnations
from treering_server.storage.database import open_database
from treering_server.storage.schema import event_tags, events

LOCK_SECONDS = 10.0


@contextmanager
def opened(database_url: str, *, readers: int = 1) -> Iterator[Storage]:
    """The storage of a database, migrated."""
    storage = open_database(database_url, readers=readers, migrate=True).storage
    try:
        yield storage
    finally:
        storage.close()


def make_event(
    type: str = "Happened",
    tags: Iterable[str] = (),
    *,
    id: bytes | None = None,
    data: bytes = b"",
) -> NewEvent:
    """An event with an id of its own unless one is given."""
    id = id or uuid.uuid4().bytes
    text = str(uuid.UUID(bytes=id))
    event = Event(id=text, type=type, content_type="application/json", tags=tags, data=data)
    return NewEvent(id, type, frozenset(tags), encode_body(event))


def event_like(terms: Terms) -> NewEvent:
    """An event that a query finds by these terms."""
    return make_event(terms.type, terms.tags)


def append_of(*placed: tuple[str, NewEvent], conditions: Sequence[AppendCondition] = ()) -> Append:
    """An append of events, each with its stream; those of no stream come last."""
    return Append(
        streams=tuple(StreamAppend(stream, None, (event,)) for stream, event in placed if stream),
        events=tuple(event for stream, event in placed if not stream),
        conditions=tuple(conditions),
        expected_log_id=None,
        size=sum(len(event.body) for _, event in placed),
    )


def write(storage: Storage, placed: Sequence[tuple[str, NewEvent]]) -> Committed:
    """Records events, each with its stream, in their order and in one transaction."""
    encoder = EnvelopeEncoder()
    with storage.write(LOCK_SECONDS) as transaction:
        locked = transaction.state({stream for stream, _ in placed if stream}, [])
        head = locked.head
        state = BatchState(locked, [Incarnation(head.log_id, 1)], Tail(head.position))
        for each in placed:
            decide(state, append_of(each), (), time.time_ns() // 1000, encoder)
        transaction.insert(state.records)
        transaction.commit()
    return Committed(state.log_id, head.generation, state.records, state.moving_rules())


Change = tuple[RuleChange, int]
"""What the feed is told of a change: its arguments."""


def keep(storage: Storage, stream: str, **retention: int) -> Change:
    """Sets a stream's retention."""
    asked = UpdateStream(stream, Retention(**retention))
    return _change(storage, stream, lambda before: streams.update(before, asked))


def delete(storage: Storage, stream: str, *, permanent: bool = False) -> Change:
    """Deletes a stream that is not deleted yet."""
    asked = DeleteStream(stream, None, permanent)
    return _change(storage, stream, lambda before: streams.delete(before, asked))


def _change(storage: Storage, stream: str, decide: Callable[[Stream | None], Verdict]) -> Change:
    _, change, until = StreamChanges(storage, lambda *_: None)._record(stream, decide)
    assert change is not None, "it was so before"
    return change, until


def erase(storage: Storage) -> None:
    """Erases all that is removed now. Not within an event loop."""
    asyncio.run(erased(storage))


async def erased(storage: Storage) -> None:
    """Erases all that is removed now."""
    eraser = Eraser(storage)
    while await eraser._erase_all():
        pass


def lose_end(storage: Any, position: int) -> uuid.UUID:
    """Takes away what comes after a position, as a failover may, and begins a new incarnation;
    gives its id."""
    with getattr(storage, "_writing", storage._engine).connect() as connection:
        for table in (events, event_tags):
            connection.execute(sa.delete(table).where(table.c.position > position))
        return incarnations.begin(connection, "test").log_id
