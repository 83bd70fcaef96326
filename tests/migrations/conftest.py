"""Databases as the migrations leave them."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from treering_server.storage.database import parse_url


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    """An engine on the database, which is empty yet, with nothing of the server's own."""
    engine = sa.create_engine(parse_url(database_url), isolation_level="AUTOCOMMIT")
    yield engine
    engine.dispose()
