"""Where `treering` and `python -m treering` begin: how the program starts, and how it ends.

Exit codes: 0 done, 1 refused or failed, 2 not understood, 130 interrupted. Whoever reads our
output and stops early (`| head`) has what he wanted: that is a 0, without a word.
"""

import os
import sys


def main() -> None:
    """Runs the command that the program was called with, and exits with its code."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError:
        sys.exit('error: the command line needs typer and rich: pip install "treering[cli]"')
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    try:
        from treering.cli.commands import run

        code = run(arguments)
        # What is still in the buffer fails here, where it can be handled, not at exit.
        sys.stdout.flush()
    except KeyboardInterrupt:
        # At once: a call that waits for a server may take its time to give up its thread.
        _flush()
        os._exit(130)
    except BrokenPipeError:
        # Python flushes stdout once more at exit, and would complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            pass
