"""What concurrent callers asked for and were told, and what the log then held: plain values.

Times are seconds of one monotonic clock. `checks.py` judges a `History` beside the log.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["done", "refused", "unwritten", "unknown"]
"""How a call ended: answered; refused for good; told that nothing was written, for now; or
without a word on what became of it."""


@dataclass(frozen=True)
class Sent:
    """An event as it was sent."""

    id: str
    stream: str = ""
    type: str = ""
    data: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Logged:
    """An event as the database holds it. Of one that was erased type, data and tags are gone."""

    position: int
    id: str
    stream: str = ""
    version: int = 0
    recorded_at: int = 0
    type: str = ""
    data: str = ""
    tags: tuple[str, ...] = ()
    erased: bool = False

    @property
    def sent(self) -> Sent:
        """What must have been sent for it to be there."""
        return Sent(self.id, self.stream, self.type, self.data, self.tags)


@dataclass(frozen=True)
class Matching:
    """Which events: those that have one of the streams, one of the types and all of the tags."""

    streams: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def __call__(self, event: Sent) -> bool:
        """Whether an event is one of them."""
        return (
            (not self.streams or event.stream in self.streams)
            and (not self.types or event.type in self.types)
            and set(self.tags) <= set(event.tags)
        )


@dataclass(frozen=True)
class Condition:
    """Fail if an event after a position matches."""

    matching: Matching
    after: int = 0


@dataclass(frozen=True)
class Append:
    """A request to append; repeats of it are the same."""

    events: tuple[Sent, ...]
    expected: tuple[tuple[str, int | bool], ...] = ()
    """By stream: the version, or whether it exists."""
    conditions: tuple[Condition, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of its events in the order of recording."""
        return tuple(event.id for event in self.events)


@dataclass(frozen=True)
class Attempt:
    """One try of an append."""

    append: Append
    start: float
    end: float
    outcome: Outcome
    caller: str = ""
    reason: str = ""
    first: int = 0
    last: int = 0
    versions: tuple[tuple[str, int], ...] = ()
    duplicate: bool = False
    stream: str = ""
    """Where the version was another one."""
    actual: int = 0
    """Which it was."""
    position: int = 0
    """Of the event that a condition failed by, or that has the id already."""
    index: int = 0
    """Of the condition that failed."""
    series: str = ""
    """Those of one series were sent in their order, each without waiting for the one before."""
    number: int = 0


@dataclass(frozen=True)
class Read:
    """A read that was answered, or a look at the head (which asks for nothing)."""

    start: float
    end: float
    head: int
    caller: str = ""
    matching: Matching | None = None
    after: int = 0
    limit: int = 0
    """0: none."""
    backwards: bool = False
    min_position: int = 0
    events: tuple[Logged, ...] = ()


@dataclass(frozen=True)
class Subscription:
    """One call to subscribe."""

    start: float
    end: float
    matching: Matching
    caller: str = ""
    after: int = 0
    reason: str = ""
    """Why it ended; empty: by the caller's will."""
    items: tuple[Logged | int, ...] = ()
    """What came, in its order: an event, or a position up to which nothing else matches."""


@dataclass(frozen=True)
class Change:
    """A deletion of a stream, or a change of what of it is kept, settled in one call or more.
    Each such stream belongs to one caller, who does one thing at a time."""

    start: float
    end: float
    stream: str
    floor: int
    """Versions up to this one are gone from then on."""
    outcome: Outcome = "done"
    caller: str = ""


@dataclass
class History:
    """All that happened."""

    attempts: list[Attempt] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    subscriptions: list[Subscription] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    faults: list[tuple[float, str]] = field(default_factory=list)

    def keep(self, path: Path) -> None:
        """Writes it down, a line for each thing that happened."""
        with path.open("w", encoding="utf-8") as file:
            for part in fields(self):
                for each in getattr(self, part.name):
                    value = each if isinstance(each, tuple) else asdict(each)
                    file.write(json.dumps({part.name: value}) + "\n")


def keep_log(log: Iterable[Logged], path: Path) -> None:
    """Writes a log down, a line for each event."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(event)) + "\n" for event in log)


def kept(path: Path) -> tuple[History, list[Logged]]:
    """A history and its log as they were written into a folder."""
    history = History()
    for line in _lines(path / "history.jsonl"):
        ((part, value),) = line.items()
        getattr(history, part).append(PARTS[part](value))
    return history, [_logged(line) for line in _lines(path / "log.jsonl")]


def _lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _logged(value: dict[str, Any]) -> Logged:
    return Logged(**{**value, "tags": tuple(value["tags"])})


def _matching(value: dict[str, Any]) -> Matching:
    return Matching(**{name: tuple(each) for name, each in value.items()})


def _append(value: dict[str, Any]) -> Append:
    return Append(
        tuple(Sent(**{**each, "tags": tuple(each["tags"])}) for each in value["events"]),
        tuple((stream, expected) for stream, expected in value["expected"]),
        tuple(
            Condition(_matching(each["matching"]), each["after"]) for each in value["conditions"]
        ),
    )


def _attempt(value: dict[str, Any]) -> Attempt:
    versions = tuple((stream, version) for stream, version in value["versions"])
    return Attempt(**{**value, "append": _append(value["append"]), "versions": versions})


def _read(value: dict[str, Any]) -> Read:
    matching = value["matching"] and _matching(value["matching"])
    events = tuple(map(_logged, value["events"]))
    return Read(**{**value, "matching": matching, "events": events})


def _subscription(value: dict[str, Any]) -> Subscription:
    items = tuple(each if isinstance(each, int) else _logged(each) for each in value["items"])
    return Subscription(**{**value, "matching": _matching(value["matching"]), "items": items})


PARTS: dict[str, Any] = {
    "attempts": _attempt,
    "reads": _read,
    "subscriptions": _subscription,
    "changes": lambda value: Change(**value),
    "faults": tuple,
}
