"""One large log on each database, loaded once for all tests of costs."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from biglog import load
from databases import Postgres, sqlite_url
from logs import opened
from treering_server.core.storage import Storage

STORES = {
    "sqlite": "sqlite_log_url",
    "postgresql, never analyzed": "never_analyzed_url",
    "postgresql, analyzed": "analyzed_url",
}
TABLES = ["events", "event_tags", "streams", "types", "categories"]


@pytest.fixture(scope="session")
def sqlite_log_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = sqlite_url(tmp_path_factory.mktemp("plans"))
    with opened(url) as storage:
        load(storage)
    return url


@pytest.fixture(scope="session")
def never_analyzed_url(postgres: Postgres) -> Iterator[str]:
    """The planner knows nothing of what is in the tables, nor will it learn it."""
    url = postgres.create_database()
    with opened(url) as storage:
        with psycopg.connect(url) as connection:
            for table in TABLES:
                connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
        load(storage)
    yield url
    postgres.drop_database(url)


@pytest.fixture(scope="session")
def analyzed_url(postgres: Postgres, never_analyzed_url: str) -> Iterator[str]:
    url = postgres.create_database(template=never_analyzed_url.rpartition("/")[2])
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
    yield url
    postgres.drop_database(url)


@pytest.fixture(scope="session", params=STORES)
def store(request: pytest.FixtureRequest) -> str:
    """Which database, and what it knows of itself."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def big_log(request: pytest.FixtureRequest, store: str) -> Iterator[Storage]:
    """A storage with the large log of `biglog.py`."""
    url: Any = request.getfixturevalue(STORES[store])
    with opened(url) as storage:
        yield storage
