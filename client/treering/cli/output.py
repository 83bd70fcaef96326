"""What commands print: tables and colours in a terminal, a JSON object a line anywhere else.

The JSON is for programs and stays as it is: members are added, never changed or removed.
"""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from treering.cli import jsontext
from treering.cli.ages import format_age
from treering.cli.cloudevents import format_datetime, format_time, is_json, with_data

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from treering.checkpoints import Head
    from treering.events import RecordedEvent
    from treering.streams import Retention, Stream

# What could move a terminal's cursor, or worse.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_POSITION_WIDTH = 9
_STREAM_WIDTH = 20
_VERSION_WIDTH = 7
_TIME_WIDTH = 23
_TYPE_WIDTH = 24
_DATA_LENGTH = 1_000
_WIDE = 120
"""Columns that a terminal must have for data to stand in the same row, and be of use there."""
_INDENT = " " * (_POSITION_WIDTH + 2)


def wants_json(asked_for: bool) -> bool:
    """Whether to print JSON: if asked to, or if no person is there to read it."""
    return asked_for or not sys.stdout.isatty()


def print_json(value: dict[str, Any]) -> None:
    """Prints a value as one line."""
    print_line(jsontext.dumps(value))


def print_line(text: str) -> None:
    """Prints a line that is JSON already."""
    sys.stdout.write(text + "\n")


def note(text: str, *, as_json: bool, **facts: object) -> None:
    """Tells on standard error, where it is in nobody's way, how far a command has come: as a
    sentence, or as an object with the facts."""
    if as_json:
        print(jsontext.dumps(facts), file=sys.stderr, flush=True)
    else:
        console(stderr=True).print(text, style="dim", highlight=False, markup=False)


def is_confirmed(question: str) -> bool:
    """Asks on standard error, so that the output stays what it is; answers whether the answer
    was yes."""
    print(f"{_CONTROL.sub('·', question)} [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):  # Ctrl-D leaves the cursor behind the question
        print(file=sys.stderr)
    return answer.strip().lower() in ("y", "yes")


@cache
def console(*, stderr: bool = False) -> "Console":
    """The terminal; NO_COLOR and the like are seen to."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


# ---- events


class EventPrinter(Protocol):
    """Prints recorded events, one after the other."""

    def print(self, event: "RecordedEvent") -> None:
        """Prints one."""


def event_printer(*, as_json: bool, one_stream: bool) -> EventPrinter:
    """Prints events for programs, or for people. Those know which stream it is, if it is one."""
    return _JsonEvents() if as_json else _EventTable(with_stream=not one_stream)


class _JsonEvents:
    def print(self, event: "RecordedEvent") -> None:
        print_line(event_json(event))


def event_json(event: "RecordedEvent") -> str:
    """A recorded event as a JSON object. Always with all members but the last, which is `data`
    where the content type is JSON and the data is, too (its numbers as they were written), else
    `data_base64`. Without a stream, `stream` and `version` are null."""
    members = {
        "position": event.position,
        "stream": event.stream or None,
        "version": event.version or None,
        "id": str(event.id),
        "type": event.type,
        "time": None if event.time_ns is None else format_time(event.time_ns),
        "recorded_at": format_datetime(event.recorded_at),
        "content_type": event.content_type,
        "tags": list(event.tags),
        "metadata": dict(event.metadata),
    }
    return with_data(members, event.content_type, event.data)


class _EventTable:
    """Rows as they come: a log is long, and a subscription has no end."""

    def __init__(self, *, with_stream: bool) -> None:
        self._with_stream = with_stream
        self._has_heading = False

    def print(self, event: "RecordedEvent") -> None:
        if not self._has_heading:
            self._has_heading = True
            self._row("position", "stream", "version", "time", "type", "data", heading=True)
        time = format_datetime(event.recorded_at)
        if event.time_ns is not None:
            time = format_time(event.time_ns)
        self._row(
            str(event.position),
            event.stream,
            str(event.version or ""),
            _short_time(time),
            event.type,
            _short_data(event),
        )

    def _row(
        self,
        position: str,
        stream: str,
        version: str,
        time: str,
        type_: str,
        data: str,
        *,
        heading: bool = False,
    ) -> None:
        from rich.text import Text

        wide = console().width >= _WIDE
        row = Text()
        for cell, style in (
            (position.rjust(_POSITION_WIDTH), "cyan"),
            (stream.ljust(_STREAM_WIDTH) if self._with_stream else None, "green"),
            (version.rjust(_VERSION_WIDTH), "cyan"),
            (time.ljust(_TIME_WIDTH), "dim"),
            (type_.ljust(_TYPE_WIDTH), "bold yellow"),
            (data if wide else None, ""),
        ):
            if cell is not None:
                row.append(_CONTROL.sub("·", cell), "dim" if heading else style)
                row.append("  ")
        row.rstrip()
        console().print(row, no_wrap=True, overflow="ellipsis")
        if not wide and data and not heading:
            console().print(
                Text(_INDENT + _CONTROL.sub("·", data)), no_wrap=True, overflow="ellipsis"
            )


def _short_time(text: str) -> str:
    """For people, who don't look at more than milliseconds."""
    return text.rstrip("Z").replace("T", " ")[:_TIME_WIDTH]


def _short_data(event: "RecordedEvent") -> str:
    """The beginning of the data, enough to fill any line, if it is a text."""
    try:
        text = event.data.decode()
        if is_json(event.content_type):
            text = jsontext.compact(text)
    except UnicodeDecodeError:
        return f"({len(event.data):,} bytes of {event.content_type})"
    except jsontext.NotJson:
        pass
    return text[:_DATA_LENGTH]


# ---- other things


def print_streams(streams: "Iterator[Stream]", *, as_json: bool) -> None:
    """Prints what is known about streams."""
    if as_json:
        for each in streams:
            print_json(stream_facts(each))
        return
    from rich.table import Table

    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("stream", style="green", overflow="fold")
    table.add_column("version", style="cyan", justify="right")
    table.add_column("recorded", style="dim")
    table.add_column("")
    for each in streams:
        recorded = "" if each.recorded_at is None else format_datetime(each.recorded_at)
        state = "" if each.deletion.value == "none" else each.deletion.value
        if each.retention is not None:
            state = _kept(each.retention)
        table.add_row(
            *(_CONTROL.sub("·", each.name), str(each.version), _short_time(recorded), state)
        )
    if table.row_count:
        console().print(table)
    else:
        note("no streams", as_json=False)


def print_stream(stream: "Stream", *, as_json: bool) -> None:
    """Prints what is known about one stream."""
    facts = stream_facts(stream)
    if not as_json:
        facts["deletion"] = _DELETIONS[stream.deletion.value]
        facts["retention"] = None
        if stream.retention is not None:
            facts["retention"] = _kept(stream.retention)
        elif stream.version:
            facts["retention"] = "for ever"
    print_facts(facts, as_json=as_json)


_DELETIONS = {
    "none": "none",
    "deleted": "deleted; the name can be used again",
    "permanent": "permanent; the name can never be used again",
}


def _kept(retention: "Retention") -> str:
    """Which events are kept, in words."""
    parts = []
    if retention.max_age is not None:
        parts.append(f"{format_age(retention.max_age)} old at most")
    if retention.max_count is not None:
        parts.append(f"the newest {retention.max_count:,}")
    if retention.truncate_before:
        parts.append(f"from version {retention.truncate_before:,} on")
    return ", ".join(parts)


def stream_facts(stream: "Stream") -> dict[str, Any]:
    """A stream as the members of a JSON object."""
    retention = stream.retention
    return {
        "stream": stream.name,
        "version": stream.version,
        "first_version": stream.first_version,
        "next_version": stream.next_version,
        "recorded_at": (
            None if stream.recorded_at is None else format_datetime(stream.recorded_at)
        ),
        "deletion": stream.deletion.value,
        "retention": retention
        and {
            "max_age_seconds": retention.max_age and retention.max_age.total_seconds(),
            "max_count": retention.max_count,
            "truncate_before": retention.truncate_before or None,
        },
    }


def head_facts(head: "Head") -> dict[str, Any]:
    """The head as the members of a JSON object."""
    recorded_at = None if head.recorded_at is None else format_datetime(head.recorded_at)
    return {"position": head.position, "log_id": head.log_id, "recorded_at": recorded_at}


def print_facts(facts: dict[str, Any], *, as_json: bool) -> None:
    """Prints facts by name: what is null is left out for people."""
    if as_json:
        print_json(facts)
        return
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value is not None:
            table.add_row(name.replace("_", " "), _for_people(value))
    console().print(table)


def _for_people(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case dict():
            parts = (f"{name} {part}" for name, part in value.items() if part is not None)
            return _for_people(", ".join(parts).replace("_", " "))
        case _:
            return _CONTROL.sub("·", str(value))


# ---- progress


class Progress(Protocol):
    """Shows how far a long run has come."""

    def update(self, done: int, events: int) -> None:
        """Tells it: so much of the total, and so many events."""


class _Silent:
    def update(self, done: int, events: int) -> None:
        pass


class _Bar:
    def __init__(self, bar: Any, task: "TaskID") -> None:
        self._bar = bar
        self._task = task

    def update(self, done: int, events: int) -> None:
        rate = events / max(self._bar.tasks[0].elapsed or 0, 0.001)
        self._bar.update(self._task, completed=done, events=f"{events:,}", rate=f"{rate:,.0f}")


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Progress]:
    """A bar on standard error, if that is a terminal. `total` is in whatever unit `update` is
    told; None: not known."""
    if not sys.stderr.isatty():
        yield _Silent()
        return
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[events]} events, {task.fields[rate]}/s"),
        TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
    )
    task = bar.add_task(title, total=total, events="0", rate="0")
    with bar:
        yield _Bar(bar, task)


@contextmanager
def copying(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar as `progress` has it, for bytes. Is told how many are copied, and of how many."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
    )
    task = bar.add_task(title, total=None)
    with bar:
        yield lambda done, total: bar.update(task, completed=done, total=total)
