"""The log lines of OpenTelemetry's modules about the headers of a request."""

import logging
from collections.abc import Iterator

import pytest
from opentelemetry import propagate
from structlog.testing import capture_logs

from gateway.telemetry.export_failures import ExportFailures

TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


@pytest.fixture(autouse=True)
def export_failures() -> Iterator[None]:
    """The failures are logged during the test."""
    logger = logging.getLogger("opentelemetry")
    handlers, propagates = logger.handlers, logger.propagate
    ExportFailures().install()
    yield
    logger.handlers, logger.propagate = handlers, propagates


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": TRACE, "tracestate": "HUNTER2=é"},
        {"traceparent": "0" * 1000},
        {"baggage": "hunter2é=1"},
        {"baggage": "a=" + "1" * 9000},
    ],
)
def test_invalid_headers_of_clients(headers: dict[str, str]) -> None:
    """A client writes nothing to the log with its headers, and hides no failed export by them."""
    with capture_logs() as logs:
        propagate.extract(headers)
        logging.getLogger("opentelemetry.exporter").error("the collector refuses")

    assert [line["error"] for line in logs] == ["the collector refuses"]
