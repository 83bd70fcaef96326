"""The commands: what can be given to each, and what it does, in a few lines.

What takes long to load (the client with gRPC, tables and colours, the server) is loaded where it
is used.
"""

import io
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from treering.cli import service, streams
from treering.cli.calling import DEFAULT_SERVER, Json, Server, open_client, reach
from treering.cli.exits import Failed, Misused, ends_well, sentence
from treering.cli.sources import Source, number_option, parse_option_time, takes_source

if TYPE_CHECKING:
    from treering import Subscription
    from treering.cli.following import CheckpointFile
    from treering.cli.output import EventPrinter

PATIENCE_SECONDS = 60.0
"""How long an import or an export under way waits for a server that is away."""
SILENCE_SECONDS = 30.0
"""After so long without a sign of life a subscription connects anew."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a defect of ours is best shown as Python shows it
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(streams.app, name="streams")


def run(arguments: Sequence[str]) -> None:
    """Runs the command that the arguments name, and exits."""
    # When a shell asks what could come next, the words are in a variable, behind our name.
    environment = os.environ
    typed = environment.get("_TYPER_COMPLETE_ARGS") or environment.get("COMP_WORDS") or ""
    words = arguments or typed.split()[1:]
    called = words[0] if words else None
    service.add_to(app, called)
    # Boxes are for people, and cut off what is too long for them: not for a list of settings.
    app.rich_markup_mode = "rich" if sys.stdout.isatty() and called not in service.NAMES else None
    app(args=list(arguments), prog_name="treering")


def _show_version(asked_for: bool) -> None:
    if asked_for:
        from importlib.metadata import version

        print(f"treering {version('treering')}")
        raise typer.Exit


@app.callback()
def treering(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Treering, an event store: serve it, write to it, read it, follow it."""


@app.command()
@ends_well
def append(
    type: Annotated[str, typer.Option("--type", help="What happened, as in OrderPlaced.")],
    stream: Annotated[
        str | None, typer.Argument(metavar="STREAM", help="The stream to append to.")
    ] = None,
    no_stream: Annotated[
        bool, typer.Option("--no-stream", help="The event belongs to no stream.")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="JSON|@FILE|-", help="The content; - is standard input."),
    ] = None,
    content_type: Annotated[
        str, typer.Option("--content-type", help="Of the data. JSON is checked and made compact.")
    ] = "application/json",
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="What queries match; repeat for more.")
    ] = None,
    meta: Annotated[
        list[str] | None,
        typer.Option("--meta", metavar="KEY=VALUE", help="About the event; repeat for more."),
    ] = None,
    expected_version: Annotated[
        int | None,
        number_option("--expected-version", "Only if the stream has this version."),
    ] = None,
    expected_exists: Annotated[
        bool, typer.Option("--expected-exists", help="Only if the stream has events.")
    ] = False,
    expected_new: Annotated[
        bool, typer.Option("--expected-new", help="Only if the stream has no events.")
    ] = False,
    id: Annotated[
        str | None,
        typer.Option("--id", metavar="UUID", help="The event's id, so that it can be repeated."),
    ] = None,
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """Append an event, and say where it is."""
    from treering.cli import output
    from treering.cli.cloudevents import format_datetime
    from treering.events import Event

    if (stream is None) != no_stream:
        raise Misused("name a STREAM, or say --no-stream for an event of none")
    expectations = (expected_version is not None) + expected_exists + expected_new
    if expectations > 1:
        raise Misused(
            "--expected-version, --expected-exists and --expected-new exclude one another"
        )
    if expectations and no_stream:
        raise Misused("what is expected is about a stream: there is none")
    content = _content(data, content_type)
    try:
        event = Event(
            type,
            content,
            id=id,
            content_type=content_type,
            tags=tag or (),
            metadata=_metadata(meta or ()),
        )
    except ValueError as error:
        raise Misused(f"--id: {error}" if id is not None else str(error)) from None
    with open_client(server) as client:
        appended = client.append(
            stream,
            event,
            expected_version=expected_version,
            expected_exists=True if expected_exists else False if expected_new else None,
        )
    output.print_facts(
        {
            "position": appended.last_position,
            "stream": stream,
            "version": None if stream is None else appended.versions[stream],
            "id": str(event.id),
            "recorded_at": format_datetime(appended.recorded_at),
            "duplicate": appended.duplicate,
            "log_id": appended.log_id,
        },
        as_json=output.wants_json(json),
    )


@app.command()
@ends_well
@takes_source()
def read(
    source: Source,
    *,
    backwards: Annotated[bool, typer.Option("--backwards", help="The newest first.")] = False,
    after_position: Annotated[
        int | None,
        number_option("--after-position", "After this position; backwards: before it."),
    ] = None,
    after_version: Annotated[
        int | None,
        number_option("--after-version", "After this version of the one stream."),
    ] = None,
    after_time: Annotated[
        str | None,
        typer.Option("--after-time", metavar="TIME", help="Recorded after this time (RFC 3339)."),
    ] = None,
    until_position: Annotated[
        int | None,
        number_option("--until-position", "The log as it was at this position."),
    ] = None,
    until_time: Annotated[
        str | None,
        typer.Option(
            "--until-time", metavar="TIME", help="The log as it was at this time (RFC 3339)."
        ),
    ] = None,
    limit: Annotated[int | None, number_option("--limit", "At most this many events.")] = None,
    min_position: Annotated[
        int,
        number_option("--min-position", "Wait until the log is at least here."),
    ] = 0,
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """Read events that were recorded."""
    from treering.cli import output

    _at_most_one(
        **{
            "--after-position": after_position,
            "--after-version": after_version,
            "--after-time": after_time,
        }
    )
    _at_most_one(**{"--until-position": until_position, "--until-time": until_time})
    if after_version is not None and source.stream is None:
        raise Misused("--after-version is about one --stream")
    as_json = output.wants_json(json)
    printer = output.event_printer(as_json=as_json, one_stream=source.stream is not None)
    with open_client(server) as client:
        reading = client.read(
            source.stream,
            query=source.query,
            backwards=backwards,
            after_position=after_position,
            after_version=after_version,
            after_time=parse_option_time("after-time", after_time),
            until_position=until_position,
            until_time=parse_option_time("until-time", until_time),
            limit=limit,
            min_position=min_position,
        )
        count = 0
        for batch in reading.batches():
            for event in batch:
                printer.print(event)
            count += len(batch)
    if not count and not as_json:
        output.note("no events", as_json=False)


@app.command()
@ends_well
@takes_source()
def subscribe(
    source: Source,
    *,
    after_position: Annotated[
        int | None, number_option("--after-position", "After this position.")
    ] = None,
    from_head: Annotated[
        bool, typer.Option("--from-head", help="Only what is recorded from now on.")
    ] = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            help="Go on where this file says, and keep in it how far we are.",
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, without end.")
    ] = False,
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """Follow events: recorded ones, then those to come.

    Without --follow it ends when all that was recorded so far is printed.
    """
    from treering import LogDiverged
    from treering.cli import output
    from treering.cli.following import SAVE_SECONDS, CheckpointFile

    _at_most_one(
        **{
            "--after-position": after_position,
            "--from-head": from_head or None,
            "--checkpoint": checkpoint,
        }
    )
    file = None if checkpoint is None else CheckpointFile(checkpoint)
    as_json = output.wants_json(json)
    printer = output.event_printer(as_json=as_json, one_stream=source.stream is not None)
    with (
        open_client(server) as client,
        client.subscribe(
            source.stream,
            query=source.query,
            after=None if file is None else file.load(),
            after_position=after_position,
            from_head=from_head,
            # So that a checkpoint is never much older than the silence after it.
            heartbeat=None if file is None else SAVE_SECONDS,
            max_silence=SILENCE_SECONDS,
        ) as subscription,
    ):
        try:
            _follow(subscription, printer, file, follow=follow, as_json=as_json)
        except LogDiverged as lost:
            if file is not None:
                lost.message = file.told_of_loss(lost)
            raise


def _follow(
    subscription: "Subscription",
    printer: "EventPrinter",
    file: "CheckpointFile | None",
    *,
    follow: bool,
    as_json: bool,
) -> None:
    from treering import CaughtUp, RecordedEvent
    from treering.cli import output

    def save() -> None:
        # Only what has left us: a checkpoint must not be ahead of the output.
        sys.stdout.flush()
        if file is not None:
            file.save(subscription.checkpoint)

    told = False
    printed = 0
    try:
        for item in subscription:
            if isinstance(item, RecordedEvent):
                printer.print(item)
                printed = item.position
                if subscription.caught_up:
                    sys.stdout.flush()
                if file is not None and file.is_due:
                    save()
                continue
            save()
            if isinstance(item, CaughtUp):
                if not told:
                    told = True
                    position = item.checkpoint.position
                    output.note(f"caught up at {position:,}", as_json=as_json, caught_up=position)
                if not follow:
                    return
    finally:
        # Ctrl-C may have come between an event and its print: then it is not done.
        if file is not None and printed and printed == subscription.checkpoint.position:
            save()


@app.command("import")
@ends_well
def import_(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="CloudEvents, one a line; - is standard input."),
    ],
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Skip lines that can't be taken.")
    ] = False,
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """Import CloudEvents, one a line.

    Plain or gzipped. Their subject is the stream, or there is none. It can be repeated without
    harm, also when it was broken off: events that are there already are passed over.
    """
    from treering._sync.appender import Appender
    from treering._sync.connection import Connection
    from treering.cli import output
    from treering.cli.importing import Counts, Import, Lines, Stopped
    from treering.v1.event_store_service_pb2 import AppendRequest, AppendResponse

    raw: io.FileIO = io.FileIO(0 if file == "-" else file, closefd=file != "-")
    total = os.fstat(raw.fileno()).st_size if raw.seekable() else None
    log_id = reach(server).log_id
    # Not through `Client`: its events have a Python time, which knows no nanoseconds.
    connection = Connection(
        server, credentials=None, timeout=PATIENCE_SECONDS, max_attempts=None, options=()
    )

    appender = Appender(connection)

    def append_batch(request: AppendRequest) -> AppendResponse:
        return appender.append(request, None)

    def on_skip(line: int, why: str) -> None:
        print(f"line {line}: {why}: skipped", file=sys.stderr, flush=True)

    lines = Lines(raw)
    with closing(raw), closing(connection), output.progress("import", total) as progress:

        def on_progress(counts: Counts) -> None:
            done = lines.position if total is not None else 0
            progress.update(done, counts.recorded + counts.already_there)

        run = Import(append_batch, keep_going, on_skip, on_progress, expected_log_id=log_id)
        failure: str | None = None
        try:
            run.run(lines)
        except Stopped as error:
            failure = str(error)
        except OSError as error:
            failure = f"{file}: {error.strerror or error}"
        except Exception as error:
            from treering.errors import TreeringError

            if not isinstance(error, TreeringError):
                raise
            failure = f"{sentence(error)}; what was recorded stays: repeat the import to go on"
    output.print_facts(asdict(run.counts), as_json=output.wants_json(json))
    if failure is not None:
        raise Failed(failure)
    if run.counts.skipped:
        were = "line was" if run.counts.skipped == 1 else "lines were"
        raise Failed(f"{run.counts.skipped:,} {were} skipped")


@app.command()
@ends_well
@takes_source(everything_by_default=True)
def export(
    source: Source,
    file: Annotated[
        str,
        typer.Argument(
            metavar="[FILE]", help="Where to; .gz at the end: compressed; - is standard output."
        ),
    ] = "-",
    *,
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """Export events as CloudEvents, one a line.

    All of the log, up to its head of now, if nothing says which events. Imported into an empty
    log, it gives the same events, in the same order.
    """
    from treering import Client
    from treering.cli import output
    from treering.cli.cloudevents import write_line
    from treering.cli.exporting import output_file

    head = reach(server)
    count = 0
    with (
        Client(server, timeout=PATIENCE_SECONDS) as client,
        client.read(
            source.stream,
            query=source.query,
            until_position=head.position,
            expected_log_id=head.log_id,
        ) as reading,
        output_file(file) as out,
        output.progress("export", head.position) as progress,
    ):
        for batch in reading.batches():
            out.write("".join(f"{write_line(each, head.log_id)}\n" for each in batch).encode())
            count += len(batch)
            progress.update(batch[-1].position, count)
    facts = {"exported": count, "head_position": head.position, "log_id": head.log_id}
    if file != "-":
        output.print_facts(facts, as_json=output.wants_json(json))


@app.command()
@ends_well
def head(server: Server = DEFAULT_SERVER, json: Json = False) -> None:
    """Show where the log ends."""
    from treering.cli import output

    with open_client(server) as client:
        facts = output.head_facts(client.head())
    output.print_facts(facts, as_json=output.wants_json(json))


def _content(given: str | None, content_type: str) -> bytes:
    """The bytes that --data stands for."""
    if given is None:
        return b""
    if given == "-":
        content = sys.stdin.buffer.read()
    elif given.startswith("@"):
        content = Path(given[1:]).read_bytes()
    else:
        content = os.fsencode(given)
    from treering.cli import jsontext
    from treering.cli.cloudevents import is_json

    if not is_json(content_type):
        return content
    try:
        return jsontext.compact(content.decode()).encode()
    except UnicodeDecodeError:
        raise Misused("--data is not UTF-8, as JSON is: give its --content-type") from None
    except jsontext.NotJson as error:
        raise Misused(f"--data is {error}; for other data give its --content-type") from None


def _metadata(pairs: Sequence[str]) -> dict[str, str]:
    metadata: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise Misused(f"--meta {pair!r}: expected KEY=VALUE")
        if key in metadata:
            raise Misused(f"--meta: {key!r} is there twice")
        metadata[key] = value
    return metadata


def _at_most_one(**given: object) -> None:
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise Misused(f"{' and '.join(names)} exclude one another")
