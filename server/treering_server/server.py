"""Puts the parts together; starts, drains and stops them."""

import asyncio
import ctypes
import gc
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Self

import structlog
from grpc import aio
from grpc_health.v1 import health

from treering_server import logs, transport, unknown_methods
from treering_server.config import Settings
from treering_server.core.eraser import Eraser
from treering_server.core.errors import Refusal
from treering_server.core.feed import Feed
from treering_server.core.model import Head
from treering_server.core.reader import Reader
from treering_server.core.removal import RuleChange
from treering_server.core.streams import StreamChanges
from treering_server.core.writer import LOOKS, Committed, Writer
from treering_server.services import event_store, reflection, streams
from treering_server.services.calls import Calls
from treering_server.services.health import Health
from treering_server.services.intake import Intake
from treering_server.storage.database import Database, open_database, parse_url
from treering_server.storage.migrations import DatabaseUnusable

if TYPE_CHECKING:
    from treering_server.storage.notifications import Notifications

RECEIVE_FACTOR = 4
"""The transport takes so many times the request limit, so that limits are refused by name."""
OTHER_READERS = LOOKS + 1
"""Connections for reading that are left to append conditions and to the feed."""
OTHER_THREADS = OTHER_READERS + 4
"""Those that use these connections; and others decode requests, change streams, start and stop."""
HEALTH_SECONDS = 0.25
DRAIN_SECONDS = 0.5
"""How long new calls are still answered, with a refusal, after a signal to stop."""
MALLOPT_ARENA_MAX = -8
"""What glibc's `mallopt` calls it."""
CLOSE_SECONDS = 5.0
"""How long the ends of a commit and of reads are waited for when all calls have ended."""
FIRST_WRITE_SECONDS = 2.0
"""How long the start waits for the append lock before it says that it goes on without."""

OTHER_FILES = 64
"""Open files that a server needs beside connections and readers."""
FILES_OF_A_READER = 4
"""With SQLite: the database, its WAL, and what SQLite opens for a moment."""

_log = structlog.get_logger("treering")


class StartError(Exception):
    """Why the server can't start, in one sentence."""


class Server:
    """One server over one database. Use as `async with Server(settings) as server`."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is opened yet.

        Raises:
            StartError: The settings contradict one another.
        """
        try:
            self._limits = settings.limits
        except ValueError as error:
            raise StartError(f"the settings contradict one another: {error}") from error
        self._settings = settings
        self.address = ""
        """Where it listens, once it does."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Opens the database, then the port.

        Raises:
            StartError: Why not.
        """
        loop = asyncio.get_running_loop()
        self._stopping: asyncio.Future[None] = loop.create_future()
        loop.set_default_executor(ThreadPoolExecutor(OTHER_THREADS, thread_name_prefix="other"))
        try:
            self._database = await asyncio.to_thread(
                open_database,
                self._settings.database_url,
                readers=self._settings.readers,
                migrate=self._settings.migrate,
            )
        except DatabaseUnusable as error:
            raise StartError(str(error)) from error
        try:
            await self._serve()
        except BaseException as error:
            await asyncio.to_thread(self._database.storage.close)
            if isinstance(error, Refusal):
                raise StartError(str(error)) from error
            raise

    async def _serve(self) -> None:
        storage = self._database.storage
        head = await asyncio.to_thread(storage.head)
        self._feed = Feed(
            storage,
            head,
            ring_bytes=self._settings.feed_bytes,
            poll_seconds=self._settings.poll_seconds,
            is_shared=self._database.is_shared,
        )
        self._server = self._make_server()
        self._health = Health()
        self._health.add_to(self._server)
        self.address = self._bind()
        self._writer = Writer(
            storage,
            self._published,
            lambda: self._feed.head,
            queue_bytes=self._settings.queue_bytes,
        )
        self._eraser = Eraser(storage)
        self._add_services()
        # From here on nothing fails that would leave something running.
        self._notifications = self._start_notifications()
        self._feed.start()
        self._eraser.start()
        await self._server.start()
        if not await asyncio.to_thread(self._writer.wait_until_available, FIRST_WRITE_SECONDS):
            _log.warning("can't write yet", reason=self._writer.unavailable_because)
        self._watching = asyncio.create_task(self._watch_health())
        self._say_what_it_runs_on(self._database, head)

    def _start_notifications(self) -> "Notifications | None":
        if not (self._settings.notify and self._database.is_shared):
            return None
        from treering_server.storage.notifications import Notifications

        loop = asyncio.get_running_loop()
        url = self._database.url
        listen_url = parse_url(self._settings.listen_url) if self._settings.listen_url else url

        def heard() -> None:
            loop.call_soon_threadsafe(self._feed.nudge)

        return Notifications(url, listen_url, heard)

    def _published(self, committed: Committed) -> None:
        self._feed.published(committed)
        if self._notifications is not None:
            self._notifications.tell(committed.records[-1].position)

    def _stream_changed(self, change: RuleChange, head: int) -> None:
        self._feed.changed(change, head)
        self._eraser.nudge()

    def _make_server(self) -> aio.Server:
        options = transport.server_options(
            receive_bytes=RECEIVE_FACTOR * self._limits.append_bytes,
            connections=self._room_for_connections(),
        )
        return unknown_methods.make_server(options)

    def _room_for_connections(self) -> int:
        """How many connections there may be, such that the database keeps the files it needs."""
        wanted = self._settings.max_connections
        others = OTHER_FILES + FILES_OF_A_READER * self._settings.readers
        room = max(1, transport.open_files_allowed(wanted + others) - others)
        if room < wanted:
            _log.warning("few open files allowed", connections=room, max_connections=wanted)
        return room

    def _bind(self) -> str:
        listen = self._settings.listen
        try:
            port = self._server.add_insecure_port(listen)
        except RuntimeError as error:
            raise StartError(f"can't listen on {listen}: is it in use?") from error
        return listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"

    def _add_services(self) -> None:
        self._reader = Reader(
            self._database.storage, at_a_time=max(1, self._settings.readers - OTHER_READERS)
        )
        intake = Intake(self._limits)
        calls = Calls(self._stopping, intake)
        event_store_service = event_store.EventStoreService(
            self._writer,
            self._reader,
            self._feed,
            intake,
            self._stopping,
            most_subscriptions=self._limits.subscriptions,
        )
        changes = StreamChanges(self._database.storage, self._stream_changed)
        stream_service = streams.StreamService(self._reader, changes)
        for name, handlers in (
            (event_store.NAME, event_store_service.handlers(calls)),
            (streams.NAME, stream_service.handlers(calls)),
        ):
            self._server.add_registered_method_handlers(name, handlers)
        reflection.add_to(self._server, (event_store.NAME, streams.NAME, health.SERVICE_NAME))

    async def _watch_health(self) -> None:
        """Tells of the database: without it nothing is served."""
        was: bool | None = None
        while True:
            available = self._feed.available and self._writer.available
            if available != was:
                for name in ("", event_store.NAME, streams.NAME):
                    await self._health.set(name, serving=available)
                if was is not None:
                    reason = self._writer.unavailable_because
                    _log.warning("database back" if available else "database away", reason=reason)
                was = available
            await asyncio.sleep(HEALTH_SECONDS)

    def _say_what_it_runs_on(self, database: Database, head: Head) -> None:
        _log.info(
            "database",
            kind=database.kind,
            place=database.place,
            durability=database.durability,
            log_id=str(head.log_id),
            head=head.position,
        )
        for warning in database.warnings:
            _log.warning("database", warning=warning)
        _log.info("listening", address=self.address)

    async def drain(self) -> None:
        """Ends subscriptions and refuses new calls by name, for as long as callers may need to
        notice: once the transport stops, what they send is cancelled."""
        await self._refuse_calls()
        await asyncio.sleep(DRAIN_SECONDS)

    async def _refuse_calls(self) -> None:
        if not self._stopping.done():
            self._watching.cancel()
            await self._health.enter_graceful_shutdown()
            self._stopping.set_result(None)
            self._feed.wake_all()

    async def stop(self) -> None:
        """Ends subscriptions, lets other calls finish for a while, and closes everything."""
        await self._refuse_calls()
        await self._server.stop(self._settings.stop_seconds)
        if not await self._writer.close(CLOSE_SECONDS):
            _log.warning("left a commit", reason=self._writer.unavailable_because)
        await self._eraser.stop()
        await self._feed.stop()
        if self._notifications is not None:
            await asyncio.to_thread(self._notifications.close)
        if not await asyncio.to_thread(self._reader.close, CLOSE_SECONDS):
            _log.warning("left a read")
        await asyncio.to_thread(self._database.storage.close)
        _log.info("stopped", head=self._feed.head)


def run(settings: Settings) -> int:
    """Serves until a signal comes. Returns the exit code.

    Raises:
        StartError: Why it can't start.
    """
    logs.configure(settings.log_level, settings.log_format)
    share_freed_memory()
    return asyncio.run(_run(settings))


def share_freed_memory() -> None:
    """Lets all threads take memory from one place. glibc gives each its own, and what large
    requests leave in one of them is of no use to the others: a server that had many of them would
    stay twice as large. They seldom wait for one another here, as Python runs one at a time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MALLOPT_ARENA_MAX, 1)


def look_for_garbage_rarely() -> None:
    """What is there now stays. Looking at all objects for cycles stops the whole server, for a
    tenth of a second once the ring is full; few cycles are made, so it is done rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 100)


async def _run(settings: Settings) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stop.is_set():
            # Nothing acknowledged is lost by this: it was flushed before.
            sys.stderr.flush()
            os._exit(128 + number)
        _log.info("stopping", signal=signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    server = Server(settings)
    async with server:
        look_for_garbage_rarely()
        await stop.wait()
        await server.drain()
    return 0
