"""Commands that work on the log itself: `serve`, `migrate`, `backup`, `restore` and `fork`.

They have the server's own settings as flags and variables. Names, types, defaults and descriptions
are those of `treering_server.config.Settings`, so that they are said once. That takes the server's
packages, so it is only done for the command that is called.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_origin

import typer

from treering.cli.calling import Json
from treering.cli.exits import Failed, Misused, ends_well

NAMES = ("serve", "migrate", "backup", "restore", "fork")
_HELP = {
    "serve": "Serve a log, until a signal comes.",
    "migrate": "Bring a database up to date with this version, and end.",
    "backup": """Copy a log that is kept in SQLite into a new file, also while a server runs.

    The copy is of one moment, and needs no other file. What the server records meanwhile is not in
    it. PostgreSQL has programs of its own for it: see the guide.""",
    "restore": """Put a backup in the place of the log, which must not be being served.

    What was there is kept beside it under another name. The log goes on under a new id, so that
    those who know of events that the backup lacks are told so.""",
    "fork": """Begin a new incarnation of the log: it goes on under a new id.

    For when it may have lost its end, and nothing can tell: consumers who come with the old id are
    served up to its last event of now, and told so if they know of more. Nothing is lost by it, so
    it asks for no confirmation. On SQLite no server may run; on PostgreSQL they may.""",
}
_DATABASE_SETTINGS = ("database_url",)


def add_to(app: typer.Typer, called: str | None) -> None:
    """Adds both commands; the one that is called gets its options, too."""
    for name in NAMES:
        if name == called:
            try:
                command = _command(name)
            except ImportError as error:
                command = _missing(error)
        else:
            command = _stand_in
        app.command(name, help=_HELP[name])(command)


def _stand_in() -> None:
    """Is listed, but never called."""


def _missing(error: ImportError) -> Callable[[], None]:
    if (error.name or "").partition(".")[0] in ("treering_server", "treering_migrations", ""):
        raise error  # it is not a package that is missing, it is broken

    @ends_well
    def command() -> None:
        raise Failed(
            f"the server needs more packages ({error.name} is missing): "
            'pip install "treering[server]"'
        )

    return command


def _command(name: str) -> Callable[..., None]:
    # All that the command will need, so that what is missing is found out here.
    from treering_server.config import Settings

    if name == "serve":
        import treering_server.server

        return _with_settings(ends_well(_serve), list(Settings.model_fields))
    import treering_server.storage.copies
    import treering_server.storage.forks  # noqa: F401

    settings = list(_DATABASE_SETTINGS)
    if name == "migrate":
        return _with_settings(ends_well(_migrate), settings)
    if name == "fork":
        return _with_settings(ends_well(_fork), settings, after={"json": Json})
    is_backup = name == "backup"
    what = "Where to: a new file." if is_backup else "A backup, or another log's file."
    file: Any = Annotated[Path, typer.Argument(metavar="FILE", help=what, show_default=False)]
    run = ends_well(_backup if is_backup else _restore)
    return _with_settings(run, settings, before={"file": file}, after={"json": Json})


def _serve(**given: Any) -> None:
    from treering_server.server import StartError, run

    try:
        code = run(_settings(given))
    except StartError as error:
        raise Failed(str(error)) from None
    raise typer.Exit(code)


def _migrate(**given: Any) -> None:
    from treering_server.storage.database import migrate_database

    with _on_the_log("warning"):
        migrate_database(_settings(given).database_url)
    typer.echo("the database is up to date", err=True)


def _backup(file: Path, json: bool, **given: Any) -> None:
    from treering.cli import output
    from treering_server.storage.copies import backup

    with _on_the_log(), output.copying("backup") as on_progress:
        copied = backup(_settings(given).database_url, file, on_progress)
    output.note(
        f"{file}: {copied.size:,} bytes, the log {copied.log_id} up to position {copied.head:,}",
        as_json=output.wants_json(json),
        file=str(file),
        bytes=copied.size,
        log_id=str(copied.log_id),
        head_position=copied.head,
    )


def _restore(file: Path, json: bool, **given: Any) -> None:
    from treering.cli import output
    from treering_server.storage.copies import restore

    with _on_the_log(), output.copying("restore") as on_progress:
        restored = restore(_settings(given).database_url, file, on_progress)
    as_json = output.wants_json(json)
    facts = {
        "restored": str(restored.path if as_json else _shortened(restored.path)),
        "kept": restored.kept and str(restored.kept if as_json else _shortened(restored.kept)),
        "log_id_before": str(restored.log_id_before),
        "log_id": str(restored.log_id),
        "last_common_position": restored.head,
    }
    output.print_facts(facts, as_json=as_json)


def _shortened(path: Path) -> Path:
    """As seen from here, if it is below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _fork(json: bool, **given: Any) -> None:
    from treering.cli import output
    from treering_server.storage.forks import fork

    with _on_the_log():
        forked = fork(_settings(given).database_url)
    facts = {
        "log_id_before": str(forked.log_id_before),
        "log_id": str(forked.log_id),
        "last_common_position": forked.last_common_position,
    }
    output.print_facts(facts, as_json=output.wants_json(json))


@contextmanager
def _on_the_log(log_level: str = "error") -> Iterator[None]:
    """Works on the log itself; what the server's code has to say about that goes where a
    server's log goes. What is said again by the command's own output is left out."""
    from treering_server import logs
    from treering_server.storage.migrations import DatabaseUnusable

    logs.configure(log_level, "auto")
    try:
        yield
    except DatabaseUnusable as error:
        raise Failed(str(error)) from None


def _settings(given: dict[str, Any]) -> Any:
    """The settings: what was given by flag or variable, the model's defaults for the rest."""
    from pydantic import ValidationError

    from treering_server.config import Settings

    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise Misused(
            "; ".join(
                f"{_flag(str(each['loc'][0])) if each['loc'] else 'settings'}: {each['msg']}"
                for each in error.errors()
            )
        ) from None


def _with_settings(
    run: Callable[..., None],
    names: list[str],
    *,
    before: Mapping[str, Any] = MappingProxyType({}),
    after: Mapping[str, Any] = MappingProxyType({}),
) -> Callable[..., None]:
    """A command that takes settings, and before and after them parameters by their
    annotations; those that come after are off unless given."""
    from treering_server.config import Settings

    def parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(name, kind, default=default, annotation=annotation)

    parameters = [parameter(name, each, inspect.Parameter.empty) for name, each in before.items()]
    for name in names:
        setting = Settings.model_fields[name]
        option = typer.Option(
            _flag(name) + (f"/{_flag('no_' + name)}" if setting.annotation is bool else ""),
            envvar=f"TREERING_{name.upper()}",
            # The option's own default is None, which tells that nothing was given.
            help=f"{setting.description}{_shown(setting.default)}",
            show_default=False,
        )
        annotation: Any = Annotated[_option_type(setting.annotation) | None, option]
        parameters.append(parameter(name, annotation, None))
    parameters += [parameter(name, each, False) for name, each in after.items()]

    def command(**given: Any) -> None:
        run(**given)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _shown(default: object) -> str:
    if isinstance(default, bool):
        default = "on" if default else "off"
    return "" if default in (None, "") else f"  [default: {default}]"


def _option_type(annotation: Any) -> Any:
    if annotation in (bool, int, float, str) or get_origin(annotation) is Literal:
        return annotation
    return str  # the model parses it
