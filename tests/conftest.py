"""Databases, servers and stubs for every test.

A test that asks for `database_url`, or for anything that is made from it (`server`,
`channel`, the stubs), runs once on SQLite and once on PostgreSQL.
"""

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So it is in the background of a shell, and so it would be in all processes that are to be
    # interrupted.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Each of the many processes that tests start would compile everything that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Tests start processes while gRPC runs in this one; its handlers at a fork crash the child.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
import grpc.aio
import hypothesis
import pytest

pytest.register_assert_rewrite("calls", "checks")

from databases import Postgres, PostgresServer, sqlite_url  # noqa: E402
from runs import LONG  # noqa: E402
from servers import InProcessServer, ServerProcess  # noqa: E402
from treering.v1.event_store_service_pb2_grpc import EventStoreServiceStub  # noqa: E402
from treering.v1.stream_service_pb2_grpc import StreamServiceStub  # noqa: E402
from treering_server.storage import removal  # noqa: E402

hypothesis.settings.register_profile("default", deadline=None, max_examples=50, print_blob=True)
hypothesis.settings.register_profile("long", deadline=None, max_examples=2000, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("TREERING_TEST_PROFILE", "default"))


@pytest.fixture(autouse=True)
def own_latest_time() -> None:
    """A server's process has one log, whose latest time it keeps. Each test has logs of its own,
    and some of them are ahead of the clock."""
    removal._latest = 0


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The PostgreSQL that all tests share: `TREERING_TEST_POSTGRES_URL`, or one of our own."""
    url = os.environ.get("TREERING_TEST_POSTGRES_URL")
    if url:
        yield Postgres(url)
        return
    with PostgresServer() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL for one test alone, which may stop, kill and freeze it."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """A fresh PostgreSQL database."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture
def sqlite_file_url(tmp_path: Path) -> str:
    """A fresh SQLite database, its file not there yet."""
    return sqlite_url(tmp_path)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh database of either kind."""
    fixture = "sqlite_file_url" if request.param == "sqlite" else "postgres_url"
    url: str = request.getfixturevalue(fixture)
    return url


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[InProcessServer]:
    """A server with default settings in the test's event loop."""
    async with InProcessServer(database_url) as server:
        yield server


@pytest.fixture
async def channel(server: InProcessServer) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the server."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture
def event_store(channel: grpc.aio.Channel) -> Any:
    """The stub to append, read and subscribe by."""
    return EventStoreServiceStub(channel)


@pytest.fixture
def stream_service(channel: grpc.aio.Channel) -> Any:
    """The stub for streams, their retention and deletion."""
    return StreamServiceStub(channel)


@pytest.fixture
def server_process() -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers as processes, as `ServerProcess(...)` does, and waits until they listen.
    What is left of them at the end of the test is killed."""
    processes = []

    def start(database_url: str, *arguments: str, **settings: Any) -> ServerProcess:
        process = ServerProcess(database_url, *arguments, **settings)
        processes.append(process)
        process.wait_until_ready()
        return process

    yield start
    for process in processes:
        process.kill()


class RanTests:
    """Fails a run in which no test ran: all skipped, or none found, is no success."""

    def __init__(self) -> None:
        self.count = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Counts tests whose body was run to its end, or to its failure."""
        if report.when == "call" and (not report.skipped or hasattr(report, "wasxfail")):
            self.count += 1

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Turns success into failure if there was nothing to succeed in."""
        is_success = exitstatus == pytest.ExitCode.OK
        if is_success and self.count == 0 and not session.config.option.collectonly:
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


class ToldAtOnce:
    """Says of each test, once it has ended, what it noted and how it failed: the end of a long
    run is far away."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Says it below the test's name."""
        writer = self._config.get_terminal_writer()
        if report.when == "call":
            for name, value in report.user_properties:
                writer.line(f"\n{name}: {value}")
        if report.failed:
            writer.line(f"\n{report.longreprtext}")


def pytest_configure(config: pytest.Config) -> None:
    """Registers the watch over empty runs, and whoever tells of a long one."""
    config.pluginmanager.register(RanTests(), "ran-tests")
    if LONG:
        config.pluginmanager.register(ToldAtOnce(config), "told-at-once")
