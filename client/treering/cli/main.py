"""Where `treering` and `python -m treering` begin."""

import sys


def main() -> None:
    """Runs the command that the program was called with, and exits with its code: 0 done,
    1 refused or failed, 2 not understood, 130 interrupted."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError:
        sys.exit('error: the command line needs typer and rich: pip install "treering[cli]"')
    try:
        from treering.cli.commands import run

        run(sys.argv[1:])
    except KeyboardInterrupt:  # before there was a command to interrupt
        sys.exit(130)
