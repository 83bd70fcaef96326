"""`treering streams`: which streams there are, how long their events are kept, and their end."""

import itertools
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from treering.cli.ages import age_option
from treering.cli.calling import DEFAULT_SERVER, Json, Server, open_client
from treering.cli.exits import Failed, Misused, ends_well
from treering.cli.sources import number_option

if TYPE_CHECKING:
    from treering import Client, Stream

app = typer.Typer()

Name = Annotated[str, typer.Argument(metavar="STREAM", help="Its name.")]
Prefix = Annotated[
    str, typer.Option("--prefix", metavar="PREFIX", help="Only names that begin so.")
]
Limit = Annotated[int | None, number_option("--limit", "At most this many streams.")]
Deleted = Annotated[bool, typer.Option("--deleted", help="Deleted ones, too.")]


@app.callback(invoke_without_command=True)
@ends_well
def streams(
    context: typer.Context,
    prefix: Prefix = "",
    limit: Limit = None,
    deleted: Deleted = False,
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """List streams in order of name; show, trim or delete one."""
    if context.invoked_subcommand is None:
        _list_streams(prefix, limit, deleted, server, json)
    elif prefix or limit is not None or deleted or json:
        raise Misused(f"give options behind `{context.invoked_subcommand}`")


@app.command("list")
@ends_well
def streams_list(
    prefix: Prefix = "",
    limit: Limit = None,
    deleted: Deleted = False,
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """List streams in order of name. The same as `treering streams`."""
    _list_streams(prefix, limit, deleted, server, json)


def _list_streams(prefix: str, limit: int | None, deleted: bool, server: str, json: bool) -> None:
    from treering.cli import output

    page_size = 1000 if limit is None else max(1, min(limit, 1000))
    with open_client(server) as client:
        found = client.streams(prefix, page_size=page_size, show_deleted=deleted)
        output.print_streams(itertools.islice(found, limit), as_json=output.wants_json(json))


@app.command("show")
@ends_well
def show(name: Name, server: Server = DEFAULT_SERVER, json: Json = False) -> None:
    """Show what is known about a stream."""
    from treering.cli import output

    with open_client(server) as client:
        stream = client.stream(name)
    output.print_stream(stream, as_json=output.wants_json(json))


@app.command("retention")
@ends_well
def retention(
    name: Name,
    max_age: Annotated[
        timedelta | None, age_option("--max-age", "Keep events not older than this, as in 30d.")
    ] = None,
    max_count: Annotated[
        int | None, number_option("--max-count", "Keep not more events than this, the newest.")
    ] = None,
    truncate_before: Annotated[
        int | None,
        number_option("--truncate-before", "Keep events from this version on; never goes down."),
    ] = None,
    forever: Annotated[bool, typer.Option("--forever", help="Keep events for ever.")] = False,
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """Say how long a stream's events are kept. Without options: show it.

    What is given takes the place of all that was set before, but for --truncate-before, which
    stays until a higher one is given. Events that are not kept are gone for good.
    """
    from treering import Retention
    from treering.cli import output

    is_given = any(each is not None for each in (max_age, max_count, truncate_before))
    if forever and is_given:
        raise Misused("--forever excludes the other ways to say what is kept")
    if max_count == 0:
        raise Misused("--max-count is at least 1; to keep nothing, delete the stream")
    if truncate_before == 0:
        raise Misused("--truncate-before is a version, at least 1; for no bound use --forever")
    with open_client(server) as client:
        if forever or is_given:
            given = Retention(max_age, max_count, truncate_before or 0)
            stream = client.update_stream(name, given)
        else:
            stream = client.stream(name)
    output.print_stream(stream, as_json=output.wants_json(json))


@app.command("delete")
@ends_well
def delete(
    name: Name,
    permanent: Annotated[
        bool, typer.Option("--permanent", help="The name can never be used again.")
    ] = False,
    expected_version: Annotated[
        int | None, number_option("--expected-version", "Only if the stream has this version.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")] = False,
    server: Server = DEFAULT_SERVER,
    json: Json = False,
) -> None:
    """Delete a stream, with all its events. It can't be undone.

    In a terminal it asks first, anywhere else it wants --yes. Without --permanent, the name can
    be used again; its versions then go on.
    """
    from treering.cli import output

    if not yes and (sys.stdin is None or not sys.stdin.isatty()):
        raise Misused("there is no terminal to ask in: give --yes to delete without being asked")
    with open_client(server) as client:
        if not yes:
            found = _find(client, name)
            question = _question(name, found, permanent)
            if question is not None and not output.is_confirmed(question):
                raise Failed("nothing was deleted")
            if expected_version is None:
                # Only what was told is deleted, not what has come while the question stood.
                expected_version = 0 if found is None else found.version
        stream = client.delete_stream(name, expected_version=expected_version, permanent=permanent)
    as_json = output.wants_json(json)
    output.print_stream(stream, as_json=as_json)
    if stream.deletion.value == "none" and not as_json:
        output.note("there never was such a stream: nothing was deleted", as_json=False)


def _find(client: "Client", name: str) -> "Stream | None":
    from treering import NotFound

    try:
        return client.stream(name)
    except NotFound:
        return None


def _question(name: str, found: "Stream | None", permanent: bool) -> str | None:
    """What to ask before a stream is deleted. None: there is nothing to lose."""
    if found is not None and found.version:
        count = found.version - found.first_version + 1 if found.first_version else 0
        has = f"{name} has {count:,} event{'' if count == 1 else 's'}"
    elif not permanent or (found is not None and found.deletion.value == "permanent"):
        return None
    else:
        has = f"{name} {'was never written to' if found is None else 'is deleted already'}"
    if permanent:
        return (
            f"{has}. This can't be undone, and the name can never be used again. "
            "Delete it for good?"
        )
    return f"{has}. This can't be undone. Delete it?"
