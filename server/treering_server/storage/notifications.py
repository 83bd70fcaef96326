"""Tells other servers over one PostgreSQL of a new head, and hears of theirs.

Only a hint that saves them the wait for their next look at the head: a lost one costs
latency, never an event. Sent outside of the append's transaction (there, it would make
all appends of a cluster wait in one more line), at most once in a while, and always the
latest head.

Two threads, each with a connection of its own; both end with `close`.
"""

import threading
from collections.abc import Callable

import psycopg
import sqlalchemy as sa

QUIET_SECONDS = 0.005
"""Heads within this time travel together."""
PAUSE_SECONDS = 1.0
"""Between attempts to connect."""
LISTEN_SECONDS = 0.1
"""How soon the listener notices that it is to end."""

# Named after the log's table, so that logs in other schemas have other channels.
CHANNEL = "'treering_' || 'log'::regclass::oid"


class Notifications:
    """The latest heads of all servers over one database."""

    def __init__(self, url: sa.URL, listen_url: sa.URL, heard: Callable[[], None]) -> None:
        """Starts both threads.

        Args:
            url: Where to tell.
            listen_url: Where to hear: a session of its own, not behind a transaction pooler.
            heard: Called, in the listener's thread, when a server told of a head.
        """
        self._heard = heard
        self._closing = threading.Event()
        self._told = threading.Event()
        self._head = 0
        self._threads = [
            threading.Thread(target=self._tell, args=(_conninfo(url),), name="notifier"),
            threading.Thread(target=self._listen, args=(_conninfo(listen_url),), name="listener"),
        ]
        for thread in self._threads:
            thread.start()

    def tell(self, head: int) -> None:
        """Tells of a head soon. Never waits."""
        self._head = head
        self._told.set()

    def close(self) -> None:
        """Ends both threads, and waits for them."""
        self._closing.set()
        self._told.set()
        for thread in self._threads:
            thread.join()

    def _tell(self, conninfo: str) -> None:
        while not self._closing.is_set():
            try:
                with _connect(conninfo) as connection:
                    self._tell_all(connection)
            except psycopg.Error:
                self._closing.wait(PAUSE_SECONDS)

    def _tell_all(self, connection: "psycopg.Connection[tuple[object, ...]]") -> None:
        while True:
            self._told.wait()
            self._told.clear()
            if self._closing.is_set():
                return
            connection.execute(f"SELECT pg_notify({CHANNEL}, %s)", (str(self._head),))
            self._closing.wait(QUIET_SECONDS)

    def _listen(self, conninfo: str) -> None:
        while not self._closing.is_set():
            try:
                with _connect(conninfo) as connection:
                    (channel,) = connection.execute(f"SELECT {CHANNEL}").fetchone() or ("",)
                    connection.execute(f"LISTEN {channel}")
                    while not self._closing.is_set():
                        for notification in connection.notifies(timeout=LISTEN_SECONDS):
                            if int(notification.payload) > self._head:
                                self._heard()
            except psycopg.Error:
                self._closing.wait(PAUSE_SECONDS)


def _conninfo(url: sa.URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def _connect(conninfo: str) -> "psycopg.Connection[tuple[object, ...]]":
    return psycopg.connect(
        conninfo,
        autocommit=True,
        prepare_threshold=None,
        connect_timeout=5,
        application_name="treering notifications",
    )
