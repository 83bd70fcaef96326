"""Import: lines of CloudEvents into the log, in their order, so that it can be repeated.

    file ──(this thread: lines, events, batches)──> one append under way (a second thread)

One append at a time, each of many events, while the next one is being made. More of them under
way would gain little, as most of the time goes into the events themselves, and would cost the
order: when a batch is refused because a part of it is there already, as after a crash, those
behind it would be recorded before it. So what is recorded is always the beginning of the file
(but for lines that were skipped), and a repeat finds all of it and goes on behind it.

A batch that is refused is cut in two, and those again, until the line is found that is to blame
or there is none: then events that were there already lay between new ones.
"""

import gzip
import io
import itertools
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from treering.cli.cloudevents import NotAnEvent, read_line
from treering.errors import (
    EventIdConflict,
    InvalidRequest,
    LimitExceeded,
    ResourceExhausted,
    StreamDeleted,
    TreeringError,
)
from treering.v1.event_pb2 import Event
from treering.v1.event_store_service_pb2 import AppendRequest, AppendResponse

MAX_LINE_BYTES = 64 * 1024 * 1024
"""More than that in a line is not even looked at: a file without line ends must not fill our
memory. No event that a server would take is as long, however it is written."""

_BUFFER_BYTES = 1024 * 1024

# As large as it pays, and below what servers take unless they are told otherwise.
BATCH_EVENTS = 2_000
BATCH_STREAMS = 1_000
BATCH_BYTES = 1024 * 1024


class Stopped(Exception):
    """The import stopped at a line. Its text names the line and says why."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"line {line}: {why}")


class Append(Protocol):
    """Appends, and repeats what may pass by itself."""

    def __call__(self, request: AppendRequest) -> AppendResponse:
        """Raises `TreeringError`."""


@dataclass(slots=True)
class Counts:
    """What became of the lines."""

    read: int = 0
    """Lines that are not blank."""
    recorded: int = 0
    already_there: int = 0
    skipped: int = 0
    new_streams: int = 0
    """Streams that begin with an event recorded now. (To count all that were written to would
    take as much memory as there are streams.)"""


@dataclass(frozen=True, slots=True)
class _Item:
    line: int
    stream: str
    event: Event


class Lines:
    """The lines of a file, plain or gzipped, with their numbers, from 1.

    Blank ones are left out, and of one that is longer than `MAX_LINE_BYTES` only so much is
    given, and a byte.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self._file = io.BufferedReader(raw, _BUFFER_BYTES)

    @property
    def position(self) -> int:
        """How many bytes of the file, as it is, have been taken in."""
        return self._raw.tell()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Gives them.

        Raises:
            Stopped: The file is damaged. All lines before were given.
        """
        readline = self._file.readline
        # By content: no JSON begins with this byte, and every gzip does.
        if self._file.peek(1)[:1] == b"\x1f":
            # No buffer around it: it has one, and gives all that comes before damage.
            readline = gzip.GzipFile(fileobj=self._file).readline
        for number in itertools.count(1):
            try:
                line = readline(MAX_LINE_BYTES + 1)
                rest = line
                while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
                    rest = readline(MAX_LINE_BYTES + 1)
            except EOFError:
                raise Stopped(number, "the gzip data is cut off: the file is not whole") from None
            except (gzip.BadGzipFile, zlib.error) as error:
                raise Stopped(number, f"the gzip data is damaged: {error}") from None
            if not line:
                return
            if len(line) <= MAX_LINE_BYTES or line.endswith(b"\n"):  # else it is cut, and stays so
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")  # which some programs put first
                line = line.strip(b" \t\r\n")
            if line:
                yield number, line


@dataclass(slots=True)
class Import:
    """One run over one file.

    Args:
        append: Appends a batch.
        keep_going: Whether to pass over lines that can't be taken, and count them.
        on_skip: Is told of each of them, and why.
        on_progress: Is called after each batch.
    """

    append: Append
    keep_going: bool
    on_skip: Callable[[int, str], None]
    on_progress: Callable[[Counts], None]
    expected_log_id: str = ""
    counts: Counts = field(default_factory=Counts)
    _batch_events: int = BATCH_EVENTS
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """Both threads skip lines."""

    def run(self, lines: Iterable[tuple[int, bytes]]) -> None:
        """Records what the lines hold.

        Raises:
            Stopped: At the first line that can't be taken. All before it is recorded.
            TreeringError: The server takes nothing now. A part of the file is recorded.
        """
        sender = ThreadPoolExecutor(1, thread_name_prefix="import")
        sending: Future[None] | None = None
        try:
            for batch in self._batches(lines):
                if sending is not None:
                    sending.result()
                    self.on_progress(self.counts)
                sending = sender.submit(self._record, batch)
        except (Stopped, OSError):
            # A line before this one may turn out to be refused, and is then what stopped us.
            if sending is not None:
                sending.result()
            raise
        finally:
            # Only Ctrl-C comes by here while an append is under way, and does not wait for it.
            sender.shutdown(wait=False)
        if sending is not None:
            sending.result()

    def _batches(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[list[_Item]]:
        batch: list[_Item] = []
        streams: set[str] = set()
        size = 0
        try:
            for item in self._items(lines):
                item_size = item.event.ByteSize() + len(item.stream)
                # Events of no stream are recorded behind all others of an append, so that an
                # event of a stream that comes after one of them needs another append.
                if batch and (
                    len(batch) >= self._batch_events
                    or size + item_size > BATCH_BYTES
                    or (item.stream and not batch[-1].stream)
                    or (len(streams) >= BATCH_STREAMS and item.stream not in streams)
                ):
                    yield batch
                    batch, streams, size = [], set(), 0
                batch.append(item)
                streams.add(item.stream)
                size += item_size
        except (Stopped, OSError):
            if batch:
                yield batch
            raise
        if batch:
            yield batch

    def _items(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[_Item]:
        for number, line in lines:
            self.counts.read += 1
            try:
                if len(line) > MAX_LINE_BYTES:
                    raise NotAnEvent(f"longer than {MAX_LINE_BYTES:,} bytes")
                stream, event = read_line(line)
            except NotAnEvent as error:
                self._refuse(number, str(error))
            else:
                yield _Item(number, stream, event)

    def _record(self, batch: list[_Item]) -> None:
        """Runs in the second thread."""
        try:
            response = self.append(self._request(batch))
        except TreeringError as error:
            if not _may_be_one_events_fault(error):
                raise
            if len(batch) == 1:
                self._refuse(batch[0].line, _reason(error))
                return
            half = len(batch) // 2
            if isinstance(error, LimitExceeded) and not any(v.field for v in error.violations):
                # Of the request as a whole: this server takes less than others.
                self._batch_events = max(1, min(self._batch_events, half))
            self._record(batch[:half])
            self._record(batch[half:])
            return
        if response.duplicate:
            self.counts.already_there += len(batch)
            return
        self.counts.recorded += len(batch)
        versions = {each.stream: each.version for each in response.versions}
        events = Counter(item.stream for item in batch if item.stream)
        self.counts.new_streams += sum(versions.get(name) == n for name, n in events.items())

    def _request(self, batch: list[_Item]) -> AppendRequest:
        request = AppendRequest(expected_log_id=self.expected_log_id)
        part, stream = None, ""
        for item in batch:
            if not item.stream:
                request.events.append(item.event)
                continue
            if part is None or item.stream != stream:
                part, stream = request.appends.add(stream=item.stream), item.stream
            part.events.append(item.event)
        return request

    def _refuse(self, line: int, why: str) -> None:
        if not self.keep_going:
            raise Stopped(line, why)
        with self._lock:
            self.counts.skipped += 1
            self.on_skip(line, why)


def _may_be_one_events_fault(error: TreeringError) -> bool:
    """Whether a batch was refused for what is in it, so that others may be taken."""
    if isinstance(error, EventIdConflict | InvalidRequest | StreamDeleted):
        return True
    # The transport's own limit: it knows no `Failure`.
    return isinstance(error, ResourceExhausted) and not error.reason


def _reason(error: TreeringError) -> str:
    """Why the server won't take the one event of a request."""
    if isinstance(error, EventIdConflict):
        return (
            f"its id {error.event_id} is taken by the event at position {error.position}, which "
            "is another one"
        )
    if isinstance(error, InvalidRequest) and error.violations:
        # Its path says where in the request; here it is about one event.
        first = error.violations[0]
        name = first.field.removeprefix("appends[0].").removeprefix("events[0].")
        return f"{name or 'the event alone is too large'}: {first.description}"
    return error.message
