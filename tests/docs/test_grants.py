"""The permissions that the guide asks for are enough, and the server needs no others."""

import re
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from pages import DOCS
from servers import InProcessServer
from treering import AsyncClient, Condition, Event, Query
from treering_server.config import Settings
from treering_server.server import Server, StartError
from treering_server.storage.database import migrate_database

GRANTS = re.search(
    r"```sql\n(.*?)```", (DOCS / "guide" / "operating.md").read_text("utf-8"), re.DOTALL
)


ROLE = "treering_serve"


def _execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


async def test_the_grants_of_the_guide_are_enough(postgres_url: str) -> None:
    assert GRANTS is not None
    migrate_database(postgres_url)
    _execute(
        postgres_url,
        f"DROP ROLE IF EXISTS {ROLE}",
        f"CREATE ROLE {ROLE} LOGIN PASSWORD 'secret'",
        GRANTS[1],
    )
    parts = urlsplit(postgres_url)
    place = parts.netloc.rpartition("@")[2]
    url = urlunsplit(parts._replace(netloc=f"{ROLE}:secret@{place}"))

    try:
        async with (
            InProcessServer(url, migrate=False) as server,
            AsyncClient(server.address) as client,
        ):
            event = Event("Happened", {"n": 1}, tags="a")
            await client.append("s-1", event, expected_version=0)
            repeated = await client.append("s-1", event)
            found = await client.read(query=Query(tags="a")).to_list()
            condition = Condition(Query(tags="b"), 0)
            await client.append(None, Event("Other", tags="b"), conditions=[condition])
            assert (repeated.duplicate, len(found)) == (True, 1)
            assert [each.name async for each in client.streams()] == ["s-1"]
        _execute(postgres_url, f"REVOKE UPDATE ON log FROM {ROLE}")
        with pytest.raises(StartError, match="permission denied"):
            await Server(Settings(database_url=url, listen="127.0.0.1:0", migrate=False)).start()
    finally:
        _execute(postgres_url, f"DROP OWNED BY {ROLE}", f"DROP ROLE {ROLE}")
