"""The options that say which events, the same for every command that asks for some."""

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from treering.cli.exits import Misused

if TYPE_CHECKING:
    from treering.queries import Query

_PANEL = "Which events"
_MAX_NUMBER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Source:
    """Which events: those of one stream, or those that match a query."""

    stream: str | None
    query: "Query | None"
    """With neither: every event of the log."""


def _option(name: str, type_: Any, default: Any, help: str, metavar: str | None = None) -> Any:
    info = typer.Option(f"--{name}", help=help, metavar=metavar, rich_help_panel=_PANEL)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[type_, info],
    )


_OPTIONS = (
    _option("stream", list[str] | None, None, "In this stream; repeat for any of several.", "NAME"),
    _option("type", list[str] | None, None, "Of this type; repeat for any of several.", "TYPE"),
    _option("tag", list[str] | None, None, "Having this tag; repeat for all of several.", "TAG"),
    _option(
        "category",
        list[str] | None,
        None,
        "In streams of this category (the name up to the first -); repeat for any of several.",
        "NAME",
    ),
    _option(
        "prefix",
        list[str] | None,
        None,
        "In streams whose name begins so; repeat for any of several.",
        "PREFIX",
    ),
    _option("all", bool, False, "Every event of the log."),
    _option(
        "query",
        str | None,
        None,
        """A treering.v1.Query in protobuf's JSON form, as in '{"items":[{"types":["A"]}]}'.""",
        "JSON",
    ),
)


def takes_source(*, everything_by_default: bool = False) -> Callable[..., Callable[..., None]]:
    """Gives a command, in place of its parameter `source`, the options that make one."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            each
            for each in inspect.signature(command, eval_str=True).parameters.values()
            if each.name != "source"
        ]
        parameters = [
            *(each for each in own if each.kind is not inspect.Parameter.KEYWORD_ONLY),
            *_OPTIONS,
            *(each for each in own if each.kind is inspect.Parameter.KEYWORD_ONLY),
        ]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            parts = {each.name: given.pop(each.name) for each in _OPTIONS}
            command(source=_source(parts, everything_by_default), **given)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate


def _source(given: dict[str, Any], everything_by_default: bool) -> Source:
    streams: list[str] = given["stream"] or []
    others: dict[str, list[str]] = {
        "types": given["type"] or [],
        "tags": given["tag"] or [],
        "categories": given["category"] or [],
        "stream_prefixes": given["prefix"] or [],
    }
    has_parts = bool(streams) or any(others.values())
    kinds = has_parts + given["all"] + (given["query"] is not None)
    if kinds > 1:
        raise Misused("--all, --query and the other ways to say which events exclude one another")
    if kinds == 0 and not everything_by_default:
        raise Misused(
            "say which events: --stream, --type, --tag, --category, --prefix, --query or --all"
        )
    if given["query"] is not None:
        return Source(None, _parse_query(given["query"]))
    if not has_parts:
        return Source(None, None)
    if len(streams) == 1 and not any(others.values()):
        return Source(streams[0], None)
    from treering.queries import Query

    return Source(None, Query(streams=streams, **others))


def _parse_query(text: str) -> "Query":
    from google.protobuf import json_format

    from treering.queries import Query, QueryItem
    from treering.v1.query_pb2 import Query as Message

    try:
        message = json_format.Parse(text, Message())
        if message.all:
            if message.items:
                raise ValueError("it has items, and all")
            return Query.all()
        return Query.of(
            *(
                QueryItem(
                    streams=each.streams,
                    stream_prefixes=each.stream_prefixes,
                    types=each.types,
                    tags=each.tags,
                    categories=each.categories,
                )
                for each in message.items
            )
        )
    except (json_format.ParseError, ValueError) as error:
        raise Misused(f"--query: {error}") from None


def number_option(name: str, help: str) -> Any:
    """An option that takes a position, a version or a count."""
    return typer.Option(name, parser=_parse_number, metavar="N", help=help)


def _parse_number(text: str) -> int:
    # The default, which is a number already, comes by here, too.
    if not re.fullmatch(r"[0-9]{1,19}", str(text)) or int(text) > _MAX_NUMBER:
        raise typer.BadParameter(f"{text!r} is no number from 0 to {_MAX_NUMBER}")
    return int(text)


def parse_option_time(name: str, text: str | None) -> datetime | None:
    """The time in an option's text. None: the option was not given."""
    if text is None:
        return None
    from treering.cli.cloudevents import NotAnEvent, parse_time

    try:
        seconds, nanos = parse_time(text)
    except NotAnEvent as error:
        raise Misused(f"--{name}: {error}") from None
    if nanos % 1000:
        raise Misused(f"--{name}: events are recorded at microseconds, give no finer time")
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds, microseconds=nanos // 1000)
