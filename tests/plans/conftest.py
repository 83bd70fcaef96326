"""Large logs on each database, loaded once for all tests of costs: one of which nothing is
removed, and one of which most is, erased or not."""

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

import biglog
import removedlog
from databases import Postgres, database_name, sqlite_url
from logs import erase, opened
from treering_server.core.storage import Storage

STORES = {
    "sqlite": "sqlite_log_url",
    "postgresql, never analyzed": "never_analyzed_url",
    "postgresql, analyzed": "analyzed_url",
}
TABLES = ["events", "event_tags", "streams", "types", "categories", "removals"]


Load = Callable[[Storage], None]


def load_unnoticed(url: str, load: Load) -> None:
    """Loads a log, and lets PostgreSQL's planner know nothing of what is in its tables, now or
    later."""
    with opened(url) as storage:
        with psycopg.connect(url) as connection:
            for table in TABLES:
                connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
        load(storage)


def analyze(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


@pytest.fixture(scope="session")
def sqlite_log_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = sqlite_url(tmp_path_factory.mktemp("plans"))
    with opened(url) as storage:
        biglog.load(storage)
    return url


@pytest.fixture(scope="session")
def never_analyzed_url(postgres: Postgres) -> Iterator[str]:
    """The planner knows nothing of what is in the tables, nor will it learn it."""
    url = postgres.create_database()
    load_unnoticed(url, biglog.load)
    yield url
    postgres.drop_database(url)


@pytest.fixture(scope="session")
def analyzed_url(postgres: Postgres, never_analyzed_url: str) -> Iterator[str]:
    url = postgres.create_database(template=database_name(never_analyzed_url))
    analyze(url)
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


@pytest.fixture(scope="session")
def removed_url(postgres: Postgres) -> Iterator[str]:
    """Never analyzed, as above."""
    url = postgres.create_database()
    load_unnoticed(url, removedlog.load)
    yield url
    postgres.drop_database(url)


@pytest.fixture(scope="session")
def erased_url(postgres: Postgres, removed_url: str) -> Iterator[str]:
    url = postgres.create_database(template=database_name(removed_url))
    with opened(url) as storage:
        erase(storage)
    # Rows as they were before they were erased would be passed over, once.
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM")
    yield url
    postgres.drop_database(url)


@pytest.fixture(scope="session", params=["removed", "erased"])
def is_erased(request: pytest.FixtureRequest) -> bool:
    """Whether what is removed of the log is erased as well."""
    return bool(request.param == "erased")


@pytest.fixture(scope="session")
def removed_log(
    request: pytest.FixtureRequest,
    store: str,
    is_erased: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Storage]:
    """A storage with the log of `removedlog.py`."""
    if store == "sqlite":
        with opened(sqlite_url(tmp_path_factory.mktemp("removed"))) as storage:
            removedlog.load(storage)
            if is_erased:
                erase(storage)
            yield storage
        return
    url: str = request.getfixturevalue("erased_url" if is_erased else "removed_url")
    if store == "postgresql, never analyzed":
        with opened(url) as storage:
            yield storage
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    url = postgres.create_database(template=database_name(url))
    analyze(url)
    with opened(url) as storage:
        yield storage
    postgres.drop_database(url)
