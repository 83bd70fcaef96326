"""`serve` and `migrate`: the server's own settings as flags and variables.

Names, types, defaults and descriptions are those of `treering_server.config.Settings`, so that
they are said once. That takes the server's packages, so it is only done for these two commands.
"""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_origin

import typer

from treering.cli.exits import Failed, Misused, ends_well

NAMES = ("serve", "migrate")
_HELP = {
    "serve": "Serve a log, until a signal comes.",
    "migrate": "Bring a database up to date with this version, and end.",
}
_MIGRATE_SETTINGS = ("database_url",)


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
    import treering_server.storage.database  # noqa: F401

    return _with_settings(ends_well(_migrate), list(_MIGRATE_SETTINGS))


def _serve(**given: Any) -> None:
    from treering_server.server import StartError, run

    try:
        code = run(_settings(given))
    except StartError as error:
        raise Failed(str(error)) from None
    raise typer.Exit(code)


def _migrate(**given: Any) -> None:
    from treering_server.storage.database import migrate_database
    from treering_server.storage.migrations import DatabaseUnusable

    try:
        migrate_database(_settings(given).database_url)
    except DatabaseUnusable as error:
        raise Failed(str(error)) from None
    typer.echo("the database is up to date", err=True)


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


def _with_settings(run: Callable[..., None], names: list[str]) -> Callable[..., None]:
    from treering_server.config import Settings

    parameters = []
    for name in names:
        setting = Settings.model_fields[name]
        option = typer.Option(
            _flag(name) + (f"/{_flag('no_' + name)}" if setting.annotation is bool else ""),
            envvar=f"TREERING_{name.upper()}",
            # The option's own default is None, which tells that nothing was given.
            help=f"{setting.description}{_shown(setting.default)}",
            show_default=False,
        )
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[_option_type(setting.annotation) | None, option],
            )
        )

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
