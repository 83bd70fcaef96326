"""What faults are made with works: a PostgreSQL that is stopped, killed, frozen and doubled."""

import psycopg
import pytest

from databases import PostgresServer, is_alive


@pytest.fixture
def url(own_postgres):
    url = own_postgres.create_database()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept (number int)")
        connection.execute("INSERT INTO kept VALUES (1)")
    return url


def kept(url):
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT number FROM kept").fetchall()


def test_what_was_committed_is_there_after_each_stop(own_postgres, url):
    for mode in ("smart", "fast", "immediate"):
        own_postgres.restart(mode)
        assert kept(url) == [(1,)]

    own_postgres.kill()
    assert not own_postgres.is_running
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)
    own_postgres.start()
    assert kept(url) == [(1,)]


def test_it_runs_durably(own_postgres, url):
    with psycopg.connect(url) as connection:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            assert connection.execute(f"SHOW {setting}").fetchone() == ("on",)


def test_a_frozen_server_answers_when_it_goes_on(own_postgres, url):
    own_postgres.pause()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url, connect_timeout=2)

    own_postgres.resume()
    assert kept(url) == [(1,)]


def test_a_promoted_standby_begins_a_timeline(own_postgres, url):
    with own_postgres.standby() as standby:
        standby_url = url.replace(f":{own_postgres.port}/", f":{standby.port}/")
        with psycopg.connect(standby_url) as connection:
            assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)

        standby.promote()

        with psycopg.connect(standby_url) as connection:
            connection.execute("INSERT INTO kept VALUES (2)")
            [(name,)] = connection.execute(
                "SELECT pg_walfile_name(pg_current_wal_insert_lsn())"
            ).fetchall()
        assert name.startswith("00000002")
        assert kept(standby_url) == [(1,), (2,)]
        assert kept(url) == [(1,)]


def test_nothing_of_it_is_left():
    with PostgresServer() as server:
        processes = server._processes()

    assert not any(is_alive(process) for process in processes)
    assert not server.directory.exists()
