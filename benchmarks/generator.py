"""A log to import, made up: payments of many accounts, as CloudEvents.

It is the same at every run. Its shape is that of real process logs: entities that live for a
dozen events and overlap with a few hundred others, some 250 bytes a line, and ids without any
order, which is the harder case for a database's indexes. Every fourth event has two tags.
"""

import gzip
import json
import random
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

SEED = 7
LIVE_STREAMS = 400
EVENTS_PER_STREAM = 12
TYPES = tuple(f"Payment{name}" for name in ("Placed", "Checked", "Reserved", "Sent", "Booked"))
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def write_log(path: Path, events: int) -> None:
    """Writes that many events, one a line, gzipped."""
    with gzip.open(path, "wt", compresslevel=1, encoding="utf-8") as file:
        for event in _events(events):
            file.write(json.dumps(event, separators=(",", ":")) + "\n")


def _events(count: int) -> Iterator[dict[str, object]]:
    chance = random.Random(SEED)
    live = list(range(LIVE_STREAMS))
    newest = LIVE_STREAMS
    time = BEGIN
    for number in range(count):
        place = chance.randrange(LIVE_STREAMS)
        account = live[place]
        if chance.random() < 1 / EVENTS_PER_STREAM:
            live[place] = newest
            newest += 1
        time += timedelta(milliseconds=chance.randrange(500))
        event: dict[str, object] = {
            "specversion": "1.0",
            "id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
            "source": "urn:treering:benchmark",
            "type": chance.choice(TYPES),
            "subject": f"account-{account}",
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "datacontenttype": "application/json",
            "data": {"amount": chance.randrange(1_000_000), "to": f"DE{chance.getrandbits(64)}"},
        }
        if number % 4 == 0:
            tags = [f"account:{account}", f"day:{time:%Y-%m-%d}"]
            event["treeringtags"] = json.dumps(tags, separators=(",", ":"))
        yield event
