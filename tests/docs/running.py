"""Runs what a page says, and compares what comes of it."""

import asyncio
import contextlib
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pages
import terminal
from databases import sqlite_url
from pages import ADDRESS, Block
from servers import InProcessServer


class ServerThread:
    """A server on SQLite in a thread of its own: a page has one for itself, at little cost."""

    def __init__(self, directory: Path, listen: str = "127.0.0.1:0") -> None:
        self.address = ""
        self.directory = directory
        self._listen = listen
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        assert self.address, "the server did not start"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        try:
            async with InProcessServer(sqlite_url(self.directory), listen=self._listen) as server:
                self.address = server.address
                self._ready.set()
                await self._ended.wait()
        finally:
            self._ready.set()


@dataclass
class Shown:
    """What a command or a program showed, and what the page says that it does."""

    what: str
    first: int
    """Index, in the page, of the first line of what is said."""
    said: list[str]
    shown: str

    @property
    def agrees(self) -> bool:
        return pages.agrees(pages.comparable("\n".join(self.said)), pages.comparable(self.shown))


class PageRun:
    """Runs one page, block after block."""

    def __init__(
        self, page: str, address: str, directory: Path, server_directory: Path | None = None
    ) -> None:
        self._page = page
        self._address = address
        self._server_directory = server_directory or directory
        self._directory = directory
        self._namespace: dict[str, Any] = {"__name__": "page"}
        self._code = 0

    def run(self, block: Block) -> list[Shown]:
        """Runs a block; gives what each of its commands showed."""
        return self._run_console(block) if block.language == "console" else [self._python(block)]

    def _run_console(self, block: Block) -> list[Shown]:
        found = []
        for command in pages.commands(block):
            text = command.text.replace(ADDRESS, self._address)
            self._code, shown = terminal.run(
                f"(exit {self._code})\n{text}",
                directory=self._directory,
                environment=terminal.environment(self._address)
                | {"TREERING_DATABASE_URL": sqlite_url(self._server_directory)},
            )
            shown = self._as_said(terminal.screen(shown))
            first = command.first + len(command.text.split("\n"))
            found.append(Shown(f"$ {command.text}", first, command.output, shown))
        return found

    def _python(self, block: Block) -> Shown:
        printed: list[str] = []

        def keep(*values: object, sep: str = " ", end: str = "\n", **_: object) -> None:
            printed.append(sep.join(map(str, values)) + end)

        self._namespace["print"] = keep
        # Empty lines before it, so that a traceback names the page's own line.
        source = "\n" * block.first + block.code.replace(ADDRESS, self._address)
        try:
            with contextlib.chdir(self._directory):
                exec(compile(source, self._page, "exec"), self._namespace)
        except Exception:  # noqa: BLE001 - whatever it is, it is what the program shows
            printed.append(traceback.format_exc())
        said = block.expected
        return Shown(
            what=f"the program in line {block.first + 1}",
            first=said.first if said else block.first + len(block.lines) + 1,
            said=said.lines if said else [],
            shown=self._as_said("".join(printed)),
        )

    def _as_said(self, text: str) -> str:
        """With the names that the page has for what is ours."""
        for ours, said in (
            (self._address, ADDRESS),
            (str(self._directory), "/srv/demo"),
            (str(self._server_directory), "/var/lib/treering"),
        ):
            text = text.replace(ours, said)
        return text


def run_page(
    page: Path, directory: Path, on_shown: Callable[[Shown], None], *, server: ServerThread
) -> None:
    """Runs all of a page."""
    run = PageRun(pages.name_of(page), server.address, directory, server.directory)
    for block in pages.runnable(page.read_text(encoding="utf-8").split("\n")):
        for shown in run.run(block):
            on_shown(shown)
