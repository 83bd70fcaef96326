"""How a command ends: in every case with an exit code, never with a traceback for what is not
our defect.

Whoever reads our output and stops early (`| head`) has what he wanted: that is a 0, without a
word. What a command was in the middle of (a temporary file, a checkpoint) is left to its own
`finally`, also after SIGTERM.
"""

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, ParamSpec

import typer

if TYPE_CHECKING:
    from treering.errors import TreeringError

GRACE_SECONDS = 2.0
"""How long an orderly end may take after a signal: then what holds it up has lost its chance."""

P = ParamSpec("P")


class Failed(Exception):
    """A command can't go on. Its text is the sentence for people."""


class Misused(typer.BadParameter):
    """A command was called with what makes no sense. Its text says why."""

    def format_message(self) -> str:
        """The text alone: it says itself which option it is about."""
        return self.message


class _Signalled(BaseException):
    """Ctrl-C, or SIGTERM."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number  # as shells report it


def ends_well(command: Callable[P, None]) -> Callable[P, None]:
    """Turns every way in which a command can end into its exit code and, at most, a line."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        _listen_to_signals()
        _speak_utf8()
        try:
            command(*args, **kwargs)
            # What is still buffered fails here, where it can be handled, not at exit.
            sys.stdout.flush()
        except _Signalled as error:
            _exit_at_once(error.code)
        except BrokenPipeError:
            # Python flushes stdout once more at exit, and would complain then.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except (typer.Exit, typer.BadParameter):
            raise  # these are typer's to end with
        except UnicodeEncodeError as error:
            _fail(f"{error.object!r} is not valid UTF-8", 2)
        except Failed as error:
            _fail(str(error), 1)
        except OSError as error:
            _fail(_os_error(error), 1)
        except Exception as error:
            # Only looked up now: a client that was never used need not be loaded.
            from treering.errors import TreeringError

            if not isinstance(error, TreeringError):
                raise
            _fail(sentence(error), 1)

    return run


def sentence(error: "TreeringError") -> str:
    """What a failed call has to say, on one line."""
    from treering.errors import InvalidRequest, Unavailable

    message = error.message
    if isinstance(error, InvalidRequest) and len(error.violations) > 1:
        message = "; ".join(
            f"{each.field}: {each.description}" if each.field else each.description
            for each in error.violations
        )
    if isinstance(error, Unavailable) and not error.reason:
        cause = message.rpartition("last error: ")[2]  # before it, gRPC's own words for it
        message = f"no answer from the server: {cause} (is --server its address, and is it up?)"
    line = " ".join(message.split()) or type(error).__name__
    return f"{line} [{error.reason}]" if error.reason else line


def _fail(text: str, code: int) -> NoReturn:
    with contextlib.suppress(OSError):
        sys.stdout.flush()  # what was done before comes first
        print(f"error: {text}", file=sys.stderr, flush=True)
    raise typer.Exit(code)


def _os_error(error: OSError) -> str:
    what = error.strerror or str(error)
    return f"{error.filename}: {what}" if error.filename else what


def _exit_at_once(code: int) -> NoReturn:
    # Not by way of Python's own end, which would wait for a thread that waits for a server.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def _listen_to_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as in the background of a script
            signal.signal(number, _on_signal)


def _on_signal(number: int, _: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)  # a second one does not wait
    # An exception can come at any point, also where it is swallowed, or leaves a lock behind.
    watchdog = threading.Timer(GRACE_SECONDS, os._exit, (128 + number,))
    watchdog.daemon = True
    watchdog.start()
    raise _Signalled(number)


def _speak_utf8() -> None:
    """JSON is UTF-8, whatever the locale says; a terminal shows what it can."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(**{"errors": "replace"} if sys.stdout.isatty() else {"encoding": "utf-8"})
