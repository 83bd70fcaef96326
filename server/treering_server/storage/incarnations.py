"""Begins a new incarnation of the log, where it may have lost its end."""

import time
from dataclasses import dataclass
from uuid import UUID, uuid4

import sqlalchemy as sa
import structlog

from treering_server.storage.schema import incarnations, log
from treering_server.storage.statements import last_position

_log = structlog.get_logger("treering.incarnations")


@dataclass(frozen=True, slots=True)
class Fork:
    """A new incarnation."""

    log_id_before: UUID
    log_id: UUID
    last_common_position: int


def begin(connection: sa.Connection, cause: str) -> Fork:
    """Gives the log a new id, from its next event on. Within a transaction that is open and
    holds the append lock; where the log goes on (`system_id`, `timeline`) is the caller's.

    Args:
        connection: Where the transaction is open.
        cause: Why, for people.
    """
    log_id = uuid4()
    head = last_position(connection)
    before = connection.scalars(sa.select(log.c.log_id)).one()
    ordinal = connection.scalar(sa.select(sa.func.max(incarnations.c.ordinal))) or 0
    connection.execute(
        sa.insert(incarnations).values(
            ordinal=ordinal + 1,
            log_id=log_id,
            first_position=head + 1,
            began_at=time.time_ns() // 1000,
            cause=cause,
        )
    )
    connection.execute(sa.update(log).values(log_id=log_id))
    _log.warning("new incarnation", cause=cause, log_id=str(log_id), before=str(before), fork=head)
    return Fork(before, log_id, head)
