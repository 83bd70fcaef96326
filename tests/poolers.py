"""A connection pooler between a server and PostgreSQL: Debian's PgBouncer, in transaction mode."""

import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import psycopg

from databases import ENVIRONMENT, START_SECONDS, STOP_SECONDS, PostgresServer, free_port, owner

PROGRAM = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
MISSING = "" if PROGRAM else "PgBouncer is not installed (Debian: apt install pgbouncer)"

SETTINGS = """
[databases]
* = host=127.0.0.1 port={server} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 12
max_client_conn = 500
"""


class Pooler:
    """Shares few connections to a PostgreSQL out among many. Use as a context."""

    def __init__(self, server: PostgresServer) -> None:
        self.port = free_port()
        self._directory = Path(tempfile.mkdtemp(prefix="treering-pooler-"))
        self._log = self._directory / "log"
        settings = self._directory / "settings.ini"
        settings.write_text(SETTINGS.format(server=server.port, port=self.port), encoding="utf-8")
        user = owner()["user"]
        if user is not None:
            for path in (self._directory, settings):
                shutil.chown(path, user)
        self._command = [str(PROGRAM), str(settings)]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._directory)

    def start(self) -> None:
        """Starts it and waits until it listens."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                env=ENVIRONMENT,
                start_new_session=True,
                **owner(),
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(f"postgresql://postgres@127.0.0.1:{self.port}/postgres").close()
            except psycopg.OperationalError as error:
                if self._process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                message = f"PgBouncer did not start ({error}):\n{self._log.read_text()}"
                raise RuntimeError(message) from error
            else:
                return

    def kill(self) -> None:
        """Kills it, with every connection through it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(STOP_SECONDS)
            self._process = None
