"""What takes part: how its server is started, and what its client can do.

One class says both, so that all that is known about a store is in one file. It is used in two
programs: the one that measures starts the server, and a process of its own for each cell, maybe
with another Python, makes an instance, which is the client. So what a client needs is imported
where it is made.
"""

from abc import ABC
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from concurrency import Concurrency, Threads

Kind = Literal["treering", "peer", "floor"]

Received = Callable[[bytes], bool]
"""Takes an event's content, and says whether that was enough."""


class NewEvent(NamedTuple):
    """An event to append."""

    stream: str
    version: int
    """That it will have in its stream, counted from 1."""
    type: str
    data: bytes
    tags: tuple[str, ...] = ()


class Stored(NamedTuple):
    """An event read back to be checked."""

    position: int
    version: int | None
    """None: the store has none, or the event is in no stream."""
    data: bytes


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contestant's data is, and where it answers."""

    directory: Path
    port: int
    """Of its server; of PostgreSQL, if it has none of its own; 0 if it is a library."""
    database: str
    """URL of a PostgreSQL database, or empty."""

    @property
    def address(self) -> str:
        """Of its server."""
        return f"127.0.0.1:{self.port}"


class Contestant(ABC):
    """One of those that are measured. What a subclass does not override, it can't do."""

    name: ClassVar[str]
    kind: ClassVar[Kind] = "peer"
    durable: ClassVar[str]
    """What it runs with, and what an acknowledged event survives with that."""
    tools: ClassVar[Literal["own", "peers", "node"]] = "peers"
    """Whose environment its client and server run in."""
    on_postgresql: ClassVar[bool] = False
    concurrency: ClassVar[type[Concurrency]] = Threads
    keeps: ClassVar[bool] = True
    """Whether what was appended can be read back."""

    def __init__(self, place: Place) -> None:
        self.place = place

    @classmethod
    def server(cls, place: Place, programs: Path) -> Sequence[str | Path]:
        """The command that serves; nothing, if there is no server but PostgreSQL's.
        `programs` is where those of its environment are."""
        return ()

    @classmethod
    def offers(cls, method: str) -> bool:
        """Whether it can do what the method of this name does."""
        return getattr(cls, method) is not getattr(Contestant, method)

    async def open(self) -> None:
        """Makes connections, and tables where the client does that."""

    async def close(self) -> None:
        """Gives back what `open` made."""

    async def append(self, events: Sequence[NewEvent]) -> int | None:
        """Appends to one stream, if its version is the one before the first event's. Gives the
        position of the last, if it is told."""
        raise NotImplementedError

    async def append_mixed(self, events: Sequence[NewEvent]) -> None:
        """Appends to many streams at once, which nobody else writes to."""
        raise NotImplementedError

    async def append_if_none(self, event: NewEvent, after: int) -> int:
        """Appends to no stream, if nothing with the event's type and all of its tags is after a
        position, 0 at first. Gives the event's."""
        raise NotImplementedError

    async def import_file(self, file: Path) -> int:
        """Records a file of CloudEvents by a command made for that, and gives their number."""
        raise NotImplementedError

    async def read_log(self) -> int:
        """Reads all, event by event as the client hands them out, looks at each one's position,
        type and data, and counts. So do the other reads: some clients decode what is looked
        at."""
        raise NotImplementedError

    async def read_wire(self) -> int:
        """Reads all, as bytes that nobody takes apart, and counts the bytes."""
        raise NotImplementedError

    async def load(self, stream: str) -> int:
        """Reads a stream, and counts its events."""
        raise NotImplementedError

    async def load_many(self, streams: Sequence[str]) -> int:
        """Reads several streams by one call, and counts their events."""
        raise NotImplementedError

    async def read_type(self, type: str) -> int:
        """Reads all events of a type, and counts."""
        raise NotImplementedError

    async def read_category(self, category: str) -> int:
        """Reads all events of the streams whose names begin so and a hyphen, and counts."""
        raise NotImplementedError

    async def follow(self, received: Received) -> None:
        """Subscribes to all that is appended from now on, until it was enough."""
        raise NotImplementedError

    async def log(self, after: int) -> Iterable[Stored]:
        """All events after a position, in the order in which the store gives them."""
        raise NotImplementedError
