"""Structured logs on standard error: readable in a terminal, JSON lines otherwise."""

import logging
import sys
from typing import Literal

import structlog


def configure(level: str, format_: Literal["auto", "text", "json"]) -> None:
    """Sets up logging for the process."""
    text = format_ == "text" or (format_ == "auto" and sys.stderr.isatty())
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if text:
        processors.append(structlog.dev.ConsoleRenderer())
    else:
        processors += [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # Libraries say nothing unless it is a warning.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_ours_to_know)


def _is_ours_to_know(record: logging.LogRecord) -> bool:
    """Not that a caller's metadata is no UTF-8, nor that a caller went before the answer came:
    grpcio tells both with a traceback, and goes on."""
    theirs = ("Invalid encoding on", "ExecuteBatchError raised in core")
    return not record.getMessage().startswith(theirs)
