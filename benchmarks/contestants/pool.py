"""Connections to PostgreSQL for contestants that are used through psycopg."""

from typing import Any

from contestants.contestant import Place

CONNECTIONS = 32
"""At most, for all threads of a client."""
PATIENCE_SECONDS = 120


def open_pool(place: Place, options: str = "") -> Any:
    """A pool whose connections commit each statement by itself; `options` are PostgreSQL's."""
    from psycopg_pool import ConnectionPool

    return ConnectionPool(
        place.database,
        min_size=1,
        max_size=CONNECTIONS,
        timeout=PATIENCE_SECONDS,
        kwargs={"autocommit": True, "options": options},
        open=True,
    )
