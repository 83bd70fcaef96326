"""How fast a file of CloudEvents goes in: by the store's own command, or by a loop over its
lines that appends a thousand at once."""

import gzip
import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from contestants.contestant import Contestant, NewEvent
from meter import Meter

AT_ONCE = 1000


async def measure(client: Contestant, meter: Meter, *, file: str) -> None:
    """Imports the file into an empty log, and counts what is there then."""
    await client.open()
    with meter.measuring():
        if client.offers("import_file"):
            meter.operations = await client.import_file(Path(file))
        else:
            events = _events(Path(file))
            while batch := list(islice(events, AT_ONCE)):
                await client.append_mixed(batch)
                meter.operations += len(batch)
    found = await client.read_log()
    if found != meter.operations:
        raise RuntimeError(f"{meter.operations} events were imported, and {found} are there")
    await client.close()


def _events(file: Path) -> Iterator[NewEvent]:
    versions: dict[str, int] = defaultdict(int)
    with (
        gzip.open(file, "rt", encoding="utf-8")
        if file.suffix == ".gz"
        else file.open(encoding="utf-8") as lines
    ):
        for line in lines:
            event = json.loads(line)
            stream = event["subject"]
            versions[stream] += 1
            data = json.dumps(event["data"], separators=(",", ":")).encode()
            tags = tuple(json.loads(event.get("treeringtags", "[]")))
            yield NewEvent(stream, versions[stream], event["type"], data, tags)
