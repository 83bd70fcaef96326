"""Where the microseconds of an append and of a read go, stage by stage, in one thread.

    make bench-budget
    .venv/bin/python benchmarks/budget.py 1000      # fewer events than usual

Every stage of the way is called as the server and its client call it, on each database, without
gRPC and without another thread: so what is measured of a running server and is not here belongs to
gRPC, to the event loop and to the handing over between threads. Times are on the clock, not of the
processor: a commit waits for the disk.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

from databases import PostgresServer, sqlite_url  # noqa: E402
from report import markdown  # noqa: E402
from treering import Event  # noqa: E402
from treering.appends import write_append  # noqa: E402
from treering.events import recorded_events  # noqa: E402
from treering.responses import decode_read  # noqa: E402
from treering.v1.event_store_service_pb2 import (  # noqa: E402
    AppendManyRequest,
    AppendManyResponse,
    AppendRequest,
)
from treering_server.config import Settings  # noqa: E402
from treering_server.core.decide import BatchState, decide  # noqa: E402
from treering_server.core.model import Append  # noqa: E402
from treering_server.core.pages import StreamPages  # noqa: E402
from treering_server.core.record import EnvelopeEncoder  # noqa: E402
from treering_server.core.storage import Storage  # noqa: E402
from treering_server.core.tail import Tail  # noqa: E402
from treering_server.services import requests, responses  # noqa: E402
from treering_server.storage.database import open_database  # noqa: E402


class Shape(NamedTuple):
    """So many appends at a time, of so many events each."""

    appends: int
    events: int

    @property
    def total(self) -> int:
        """Events at a time."""
        return self.appends * self.events

    def __str__(self) -> str:
        each = f"{self.events:,}"
        return each if self.appends == 1 else f"{self.appends} of {each}"


SHAPES = (Shape(1, 1), Shape(64, 1), Shape(1, 100), Shape(1, 1_000))
SIZES = (1, 100, 1_000)
"""Events of a read, of which there are as many in a stream."""
EVENTS = 20_000
"""Appended and read at each size."""
MOST_REPEATS = 2_000
DATA = b'{"note":"' + b"x" * 245 + b'"}'
PAGE_BYTES = 1_000_000
LOCK_SECONDS = 5.0


class Stages:
    """What each stage took, each time."""

    def __init__(self, events: int) -> None:
        """Of so many events at a time."""
        self._events = events
        self._seconds: dict[str, list[float]] = {}

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Around a stage."""
        began = time.perf_counter()
        yield
        self._seconds.setdefault(stage, []).append(time.perf_counter() - began)

    def medians(self) -> dict[str, float]:
        """Microseconds for one event."""
        return {
            stage: statistics.median(seconds) / self._events * 1e6
            for stage, seconds in self._seconds.items()
        }


def append(storage: Storage, shape: Shape, repeats: int) -> dict[str, float]:
    """Appends to a stream each, with its version as expectation; those at a time come in one
    message, and are recorded in one batch."""
    stages, limits = Stages(shape.total), Settings(database_url="sqlite:///unused").limits
    encoder, incarnations = EnvelopeEncoder(), storage.incarnations()
    results = responses.AppendResults()
    streams = [f"budget-{shape.appends}x{shape.events}-{number}" for number in range(shape.appends)]
    for turn in range(repeats):
        tail = Tail(storage.head().position)
        with stages.of("client: make the events"):
            events = [_events(shape.events) for _ in streams]
        with stages.of("client: fill in and encode the request"):
            message = _encoded(streams, events, turn * shape.events)
        with stages.of("server: decode and check it"):
            items = requests.read_append_many(message, limits)
        wanted = [item.append for item in items if isinstance(item.append, Append)]
        assert len(wanted) == shape.appends
        writing = storage.write(LOCK_SECONDS)
        with stages.of("writer: begin, with the append lock"):
            transaction = writing.__enter__()
        with stages.of("writer: head, streams, ids"):
            ids = {event.id for each in wanted for _, event in each.placed_events()}
            locked = transaction.state(set(streams), ids)
        with stages.of("writer: decide, encode the envelopes"):
            state = BatchState(locked, incarnations, tail)
            now = time.time_ns() // 1_000
            appended = [decide(state, each, (), now, encoder) for each in wanted]
        with stages.of("writer: insert"):
            transaction.insert(state.records)
        with stages.of("writer: commit, on the disk"):
            transaction.commit()
        writing.__exit__(None, None, None)
        with stages.of("server: encode the answer"):
            encoded = [results.encode(number, each) for number, each in enumerate(appended)]
            answer = responses.append_many(encoded)
        with stages.of("client: decode the answer"):
            AppendManyResponse.FromString(answer)
    return stages.medians()


def read(storage: Storage, size: int, repeats: int) -> dict[str, float]:
    """Reads of the first events of a stream."""
    stages, stream = Stages(size), f"budget-1x{size}-0"
    for _ in range(repeats):
        with stages.of("server: head, versions, records"):
            head, span, rows = storage.load(
                stream, 0, size, backwards=False, most=size, max_bytes=PAGE_BYTES
            )
        with stages.of("server: a page of them"):
            walk = StreamPages(storage, stream, 0, size, until=head.position, backwards=False)
            page = walk.first(rows, size)
        with stages.of("server: encode the answer"):
            answer = responses.read_response(page.payload, head.position, span.last, head.log_id)
        with stages.of("client: decode the answer"):
            received = recorded_events(decode_read(answer).events)
        with stages.of("client: look at each event"):
            assert all(event.position and event.type and event.data for event in received)
    return stages.medians()


def _events(count: int) -> list[Event]:
    return [Event("PaymentPlaced", DATA, content_type="application/json") for _ in range(count)]


def _encoded(streams: Sequence[str], events: Sequence[Sequence[Event]], version: int) -> bytes:
    message = AppendManyRequest()
    for number, (stream, some) in enumerate(zip(streams, events, strict=True)):
        request = AppendRequest()
        write_append(
            request,
            stream,
            some,
            expected_version=version,
            expected_exists=None,
            conditions=(),
            expected_log_id=None,
        )
        message.items.add(request_id=number, append=request)
    return message.SerializeToString()


@contextmanager
def _databases() -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory() as directory, PostgresServer() as server:
        yield {"SQLite": sqlite_url(Path(directory)), "PostgreSQL": server.create_database()}


def _table(title: str, columns: dict[str, dict[str, float]]) -> str:
    stages = next(iter(columns.values()))
    rows = [[stage, *(f"{column[stage]:.2f}" for column in columns.values())] for stage in stages]
    rows.append(["all", *(f"{sum(column.values()):.2f}" for column in columns.values())])
    return markdown([title, *columns], rows)


def main(events: int) -> None:
    """Measures so many events at each size, and prints a table for appends and one for reads."""
    appends: dict[str, dict[str, float]] = {}
    reads: dict[str, dict[str, float]] = {}
    with _databases() as urls:
        for name, url in urls.items():
            storage = open_database(url, readers=2, migrate=True).storage
            for shape in SHAPES:
                repeats = max(1, min(events // shape.total, MOST_REPEATS))
                appends[f"{name}, {shape}"] = append(storage, shape, repeats)
            for size in SIZES:
                repeats = max(1, min(events // size, MOST_REPEATS))
                reads[f"{name}, {size:,}"] = read(storage, size, repeats)
            storage.close()
    print(
        "Microseconds for each event, medians. Columns: events at a time, of one append or more.\n"
    )
    print(_table("append", appends) + "\n\n" + _table("read", reads))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS)
