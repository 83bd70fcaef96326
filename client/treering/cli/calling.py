"""Which server a command calls, and how patiently: the same for every command that calls one."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from treering import Client, Head

DEFAULT_SERVER = "127.0.0.1:7464"

FEW_ATTEMPTS = 6
"""About a second: long enough for a server that is just starting, and short enough for a person
who named the wrong one."""

Server = Annotated[
    str,
    typer.Option(
        "--server", envvar="TREERING_SERVER", metavar="HOST:PORT", help="Which server to call."
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="JSON lines, as when the output is no terminal."),
]


def open_client(server: str) -> "Client":
    """For a command that a person waits for."""
    from treering import Client

    return Client(server, max_attempts=FEW_ATTEMPTS)


def reach(server: str) -> "Head":
    """Makes sure that the server is there, before a long run that would wait for it."""
    with open_client(server) as client:
        return client.head()
