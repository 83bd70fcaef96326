"""A log written straight into a storage: decided as the writer decides, without a server."""

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from treering.v1.event_pb2 import Event
from treering_server.core.decide import BatchState, decide
from treering_server.core.model import Append, AppendCondition, NewEvent, StreamAppend
from treering_server.core.query import Terms
from treering_server.core.record import EnvelopeEncoder, encode_body
from treering_server.core.storage import Incarnation, NewRecord, Storage
from treering_server.core.tail import Tail
from treering_server.storage.database import open_database

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
    id: uuid.UUID | None = None,
    data: bytes = b"",
) -> NewEvent:
    """An event with an id of its own unless one is given."""
    id = id or uuid.uuid4()
    event = Event(id=str(id), type=type, content_type="application/json", tags=tags, data=data)
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


def write(storage: Storage, placed: Sequence[tuple[str, NewEvent]]) -> Sequence[NewRecord]:
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
    return state.records
