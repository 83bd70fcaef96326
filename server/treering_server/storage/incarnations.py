"""Begins a new incarnation of the log, where it may have lost its end."""

import time
from uuid import UUID, uuid4

import sqlalchemy as sa
import structlog

from treering_server.storage.schema import events, incarnations, log

_log = structlog.get_logger("treering.incarnations")


def begin(connection: sa.Connection, cause: str) -> UUID:
    """Gives the log a new id, from its next event on. Within a transaction that is open and
    holds the append lock; where the log goes on (`system_id`, `timeline`) is the caller's.

    Args:
        connection: Where the transaction is open.
        cause: Why, for people.

    Returns:
        The new id.
    """
    log_id = uuid4()
    head = connection.scalar(sa.select(sa.func.max(events.c.position))) or 0
    before = connection.scalar(sa.select(log.c.log_id))
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
    return log_id
