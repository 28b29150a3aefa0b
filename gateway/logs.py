"""Logging to standard error: one line for each event, formatted for people or as JSON."""

import logging
import sys
from collections.abc import Sequence
from typing import Literal

import structlog
from stamina.instrumentation import RetryDetails, set_on_retry_hooks
from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.processors import ExceptionRenderer, JSONRenderer, TimeStamper
from structlog.stdlib import ProcessorFormatter
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import Processor

from gateway.lifecycle import LifecycleEvent, format_error

_LIBRARY_LEVELS = {
    # They log each failed attempt to connect, with a traceback. The journal and the health checks report it once.
    "aio_pika": logging.CRITICAL,
    "aiormq": logging.CRITICAL,
    "httpx": logging.WARNING,  # logs each request
    "sqlalchemy.pool": logging.CRITICAL,  # logs closes that are cancelled at their deadline, as the journal does
    "alembic": logging.WARNING,
    "uvicorn.error": logging.WARNING,  # logs startup and shutdown, as the gateway's server does
}


def configure_logging(
    level: int = logging.INFO,
    log_format: Literal["auto", "console", "json"] = "auto",
    *,
    processors: Sequence[Processor] = (),
) -> None:
    """Format the log messages of the gateway and of libraries with structlog. Only the commands call it.

    Args:
        level: messages below it are not logged.
        log_format: `console` for people, `json` for programs, `auto` for `console` on a terminal and `json` elsewhere.
        processors: of structlog; they may add fields to each line.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        TimeStamper(fmt="iso", utc=True),
        *processors,
    ]
    # Tracebacks contain no local variables, because some of them are passwords.
    if log_format == "console" or (log_format == "auto" and sys.stderr.isatty()):
        rendering: list[Processor] = [ConsoleRenderer(exception_formatter=plain_traceback)]
    else:
        rendering = [ExceptionRenderer(ExceptionDictTransformer(show_locals=False)), JSONRenderer()]
    structlog.configure(
        processors=[*shared, ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        ProcessorFormatter(foreign_pre_chain=shared, processors=[ProcessorFormatter.remove_processors_meta, *rendering])
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for name, library_level in _LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(library_level)
    set_on_retry_hooks([_log_retry])


def _log_retry(details: RetryDetails) -> None:
    structlog.get_logger("gateway.resources").warning(
        "retrying", caused_by=format_error(details.caused_by), wait_s=round(details.wait_for, 2)
    )


def log_event(event: LifecycleEvent) -> None:
    """Log an event of the journal."""
    details: dict[str, object] = {}
    if event.name is not None:
        details["entry"] = event.name
    if event.duration is not None:
        details["duration_ms"] = round(event.duration * 1000, 1)
    if event.error is not None:
        details["error"] = format_error(event.error)
    log = structlog.get_logger("gateway.lifecycle")
    (log.info if event.error is None else log.warning)(event.type.value, **details)
