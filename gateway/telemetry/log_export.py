"""Exports the log lines as OpenTelemetry's log records, with the trace and the span of their context."""

import logging
import sys
from collections.abc import Mapping
from typing import Any

import structlog
from opentelemetry._logs import LoggerProvider, SeverityNumber

_SEVERITIES = {
    logging.DEBUG: SeverityNumber.DEBUG,
    logging.INFO: SeverityNumber.INFO,
    logging.WARNING: SeverityNumber.WARN,
    logging.ERROR: SeverityNumber.ERROR,
    logging.CRITICAL: SeverityNumber.FATAL,
}
# A log record has them in fields of its own.
_OTHER_FIELDS = frozenset({"event", "level", "timestamp", "exc_info", "trace_id", "span_id"})


class LogExport(logging.Handler):
    """Passes each log line on: the event as its body, and the fields as its attributes."""

    def __init__(self, provider: LoggerProvider) -> None:
        super().__init__()
        self._provider = provider

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._export(record)
        except Exception:  # noqa: BLE001 - as with each handler, a bad line must not fail the code that logs it
            self.handleError(record)

    def _export(self, record: logging.LogRecord) -> None:
        # A line of structlog is a dictionary, which has the fields of the context. One of a library is text.
        fields = record.msg if isinstance(record.msg, dict) else {"event": record.getMessage(), **_context()}
        self._provider.get_logger(record.name).emit(
            timestamp=int(record.created * 1e9),
            severity_number=_SEVERITIES.get(record.levelno, SeverityNumber.UNSPECIFIED),
            severity_text=record.levelname,
            body=str(fields["event"]),
            attributes={name: _attribute(value) for name, value in fields.items() if name not in _OTHER_FIELDS},
            exception=_exception(record.exc_info or fields.get("exc_info")),
        )


def _context() -> Mapping[str, Any]:
    return structlog.contextvars.get_contextvars()


def _attribute(value: object) -> str | int | float | bool | None:
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _exception(exc_info: object) -> BaseException | None:
    """Return the exception of a line, in one of the forms in which `logging` accepts it."""
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1] if isinstance(exc_info[1], BaseException) else None
    return sys.exc_info()[1] if exc_info else None
