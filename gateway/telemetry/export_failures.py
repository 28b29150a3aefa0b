"""The log lines of OpenTelemetry's SDK: one for all failures of the exporters in a minute, instead of several a second."""

import logging

import structlog

from gateway.outages import Outage

# It logs headers that it cannot read, and headers may contain a token.
_LOGS_VALUES = "opentelemetry.util.re"

# They log invalid headers of requests with their values. A client could write anything to the log, and hide the failures.
_LOG_REQUEST_HEADERS = ("opentelemetry.trace.propagation", "opentelemetry.trace.span", "opentelemetry.baggage")

log = structlog.get_logger("gateway.telemetry")


class ExportFailures(logging.Handler):
    """Logs the first warning of the SDK, and after that one in each minute. The export threads call it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._outage = Outage()

    def install(self) -> None:
        """Handle the log lines of all modules of OpenTelemetry, and of no others."""
        logger = logging.getLogger("opentelemetry")
        logger.handlers = [self]
        logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(_LOG_REQUEST_HEADERS):
            return
        if record.name == _LOGS_VALUES:
            self._log("telemetry header ignored", str(record.msg).removesuffix(": %s"))
        else:
            self.report(record.getMessage())

    def report(self, error: str) -> None:
        """Count a failed export, and log it if none was logged for a while."""
        self._log("telemetry not exported", error)

    def _log(self, event: str, error: str) -> None:
        unlogged = self._outage.record(event)
        if unlogged is not None:
            log.warning(event, error=error, unlogged=unlogged)
