"""Logging: one line an event on standard error, for people on a terminal and as JSON elsewhere."""

import logging
import sys

import structlog
from stamina.instrumentation import RetryDetails, set_on_retry_hooks
from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.processors import ExceptionRenderer, JSONRenderer, TimeStamper
from structlog.stdlib import ProcessorFormatter
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import Processor

from gateway.lifecycle import LifecycleEvent, format_error

_QUIET = {
    # They report each failed attempt to connect, with a traceback; the journal and the health checks say it once.
    "aio_pika": logging.CRITICAL,
    "aiormq": logging.CRITICAL,
    "httpx": logging.WARNING,
    # A close that is cancelled at its deadline; the journal says so.
    "sqlalchemy.pool": logging.CRITICAL,
    "alembic": logging.WARNING,
    # What it says of starting and stopping, we say.
    "uvicorn.error": logging.WARNING,
}


def configure_logging(level: int = logging.INFO) -> None:
    """Send what we and the libraries log through structlog. Programs call this; importing configures nothing."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        TimeStamper(fmt="iso", utc=True),
    ]
    # Tracebacks come without local variables: these hold passwords.
    if sys.stderr.isatty():
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
    for name, quiet in _QUIET.items():
        logging.getLogger(name).setLevel(quiet)
    set_on_retry_hooks([_log_retry])


def _log_retry(details: RetryDetails) -> None:
    structlog.get_logger("gateway.resources").warning(
        "trying again", caused_by=format_error(details.caused_by), wait_s=round(details.wait_for, 2)
    )


def log_event(event: LifecycleEvent) -> None:
    """Log a line of the journal."""
    details: dict[str, object] = {}
    if event.name is not None:
        details["entry"] = event.name
    if event.duration is not None:
        details["took_ms"] = round(event.duration * 1000, 1)
    if event.error is not None:
        details["error"] = format_error(event.error)
    log = structlog.get_logger("gateway.lifecycle")
    (log.info if event.error is None else log.warning)(event.type.value, **details)
