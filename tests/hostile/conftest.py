"""The server that is treated badly."""

from collections.abc import Callable

import pytest

from servers import ServerProcess


@pytest.fixture
def server(sqlite_file_url: str, server_process: Callable[..., ServerProcess]) -> ServerProcess:
    """One of a test's own, whose log can be read."""
    return server_process(sqlite_file_url, log_format="json")
