"""Defaults of a role that would weaken promises: the server sets what it needs itself."""

import asyncio
import time
from contextlib import AsyncExitStack

import psycopg
import pytest

from calls import append, append_to, head_of, refused
from plans.logs import opened
from servers import InProcessServer
from traffic import Follower, Traffic, connect, stub
from treering_server.core.errors import StorageUnavailable
from treering_server.storage import postgresql


def set_defaults(url, **settings):
    with psycopg.connect(url, autocommit=True) as connection:
        for name, value in settings.items():
            statement = f"ALTER ROLE postgres IN DATABASE {connection.info.dbname} SET {name}"
            connection.execute(f"{statement} = '{value}'".encode())


def in_transaction(url, setting):
    """What holds inside of an append's transaction."""
    with opened(url) as storage, storage.write(1) as transaction:
        (value,) = transaction._cursor.execute(f"SHOW {setting}").fetchone()
    return value


@pytest.mark.parametrize(
    ("default", "effective"),
    [
        ("off", "on"),
        ("local", "on"),
        ("remote_write", "on"),
        ("on", "on"),
        ("remote_apply", "remote_apply"),
    ],
)
def test_synchronous_commit_is_raised_and_never_lowered(postgres_url, default, effective):
    set_defaults(postgres_url, synchronous_commit=default)
    assert in_transaction(postgres_url, "synchronous_commit") == effective


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_appends_run_in_read_committed(postgres_url, isolation):
    set_defaults(postgres_url, default_transaction_isolation=isolation)
    assert in_transaction(postgres_url, "transaction_isolation") == "read committed"


@pytest.mark.parametrize(
    "name", ["lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"]
)
def test_time_outs_hold_in_the_transaction_and_not_after_it(postgres_url, name):
    set_defaults(postgres_url, **{name: "77s"})
    with opened(postgres_url) as storage:
        with storage.write(1) as transaction:
            [(inside,)] = transaction._cursor.execute(f"SHOW {name}").fetchall()
        with storage._engine.connect() as connection:
            after = connection.exec_driver_sql(f"SHOW {name}").scalar()
    assert (inside != "77s", after) == (True, "77s")


def limit_transactions(url, monkeypatch):
    with psycopg.connect(url) as connection:
        if connection.info.server_version < 170_000:
            pytest.skip("PostgreSQL has had this time-out since version 17")
    set_defaults(url, transaction_timeout="200ms")


def limit_idling(url, monkeypatch):
    monkeypatch.setattr(postgresql, "IDLE_SECONDS", 0.2)


@pytest.mark.parametrize("limit", [limit_idling, limit_transactions])
def test_an_append_that_the_database_ends_for_taking_too_long_may_be_repeated(
    postgres_url, monkeypatch, limit
):
    """As when a server was stopped, or starved, while it held the append lock."""
    limit(postgres_url, monkeypatch)
    with opened(postgres_url) as storage, psycopg.connect(postgres_url, autocommit=True) as watcher:

        def stop_within():
            with storage.write(1) as transaction:
                pid = transaction._driver.info.backend_pid
                alive = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
                deadline = time.monotonic() + 10
                while watcher.execute(alive, (pid,)).fetchone() != (0,):
                    assert time.monotonic() < deadline
                transaction.state([], [])

        with pytest.raises(StorageUnavailable):
            stop_within()


async def test_two_servers_keep_the_order_whatever_the_defaults(postgres_url):
    set_defaults(
        postgres_url,
        default_transaction_isolation="repeatable read",
        synchronous_commit="off",
        statement_timeout="20s",
        search_path="public",
    )
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(InProcessServer(postgres_url)) for _ in "ab"]
        stores = [
            stub(await stack.enter_async_context(connect(server.address))) for server in servers
        ]
        follower = Follower(stores[0])
        async with Traffic(stores, writers=8) as traffic:
            following = asyncio.create_task(follower.follow(300))
            await traffic.more(150)
        assert not traffic.repeated
        await follower.follow((await head_of(stores[0])).head_position)
        following.cancel()
        follower.check(await traffic.check(stores[1]))
        for n in range(10):
            await append(stores[n % 2], append_to(f"c-{n}", expected_version=0))
            again = stores[(n + 1) % 2].Append(append_to(f"c-{n}", expected_version=0))
            await refused(again, "VERSION_CONFLICT")
