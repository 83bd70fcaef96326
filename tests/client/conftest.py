"""What the tests of the Python client need.

Most run against one real server, a process shared by all of them, and keep apart by the names
of their streams and tags. What a real server does not do on demand is done by `ScriptedServer`
(it fails as a test has written down) and `Proxy` (it breaks connections to the real one).

Tests in `test_async_*.py` are written once; tools/sync_client.py makes `test_sync_*.py` of
them for the blocking client.
"""

import socket
import uuid
from collections.abc import Iterator

import pytest

from databases import sqlite_url
from servers import ServerProcess

pytest.register_assert_rewrite("scripted")

from proxy import Proxy  # noqa: E402
from scripted import ScriptedServer  # noqa: E402


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server."""
    with ServerProcess(sqlite_url(tmp_path_factory.mktemp("client"))) as server:
        yield server.address


@pytest.fixture
def proxy(address: str) -> Iterator[Proxy]:
    """A connection to the real server that can be broken."""
    with Proxy(address) as proxy:
        yield proxy


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    """A server that does what the test writes down."""
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def name() -> str:
    """A name that no other test has, for streams and tags."""
    return f"test-{uuid.uuid4()}"


@pytest.fixture
def free_port() -> int:
    """A port to start a server on, stop it and start it again."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
