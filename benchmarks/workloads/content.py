"""The events of all workloads: 256 bytes of JSON each, which say what they are.

So a log can be checked whatever else its store keeps of an event.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from checks import BrokenPromise, check_ordered, check_versions
from contestants.contestant import Contestant, NewEvent, Stored

SIZE = 256
TYPE = "PaymentPlaced"
RARE_TYPE = "PaymentRefused"
RARE_CATEGORY = "rare"
ONE_IN = 1000
"""Of so many events of a filled log one is of the rare type, and one in the rare category."""

NOTE = "x" * SIZE
END = '"}'


def new_event(stream: str, version: int, type: str = TYPE, tags: tuple[str, ...] = ()) -> NewEvent:
    """The event that a stream has at a version. Its JSON is written as PostgreSQL's `jsonb` gives
    it back: spaces, and short keys first."""
    begin = f'{{"of": "{stream}", "nth": {version}, "note": "'
    text = begin + NOTE[: SIZE - len(begin) - len(END)] + END
    return NewEvent(stream, version, type, text.encode(), tags)


def filled_stream(number: int) -> str:
    """Name of a stream of a filled log."""
    category = "account" if number % ONE_IN else RARE_CATEGORY
    return f"{category}-{number}"


@dataclass(frozen=True, slots=True)
class ReadBack:
    """An event of a log that is checked."""

    position: int
    stream: str
    version: int


async def check(client: Contestant, acknowledged: Mapping[str, int], after: int = 0) -> None:
    """Checks that the log has its events in order, and of each of these streams as many as
    were acknowledged. What is not after the position was checked already.

    Raises:
        BrokenPromise: It does not.
    """
    if client.keeps:
        check_stored(await client.log(after), acknowledged)


def check_stored(stored: Iterable[Stored], acknowledged: Mapping[str, int]) -> None:
    """Checks a log that was read."""
    counts: dict[str, int] = defaultdict(int)
    log: list[ReadBack] = []
    for event in stored:
        content = json.loads(event.data)
        stream, version = content["of"], content["nth"]
        if event.version not in {None, version}:
            raise BrokenPromise(f"version {version} of {stream} was recorded as {event.version}")
        counts[stream] += 1
        log.append(ReadBack(event.position, stream, version))
    check_ordered(log)
    check_versions(log)
    for stream, count in acknowledged.items():
        if counts[stream] != count:
            raise BrokenPromise(
                f"{count} events of {stream} were acknowledged, and {counts[stream]} are there"
            )
