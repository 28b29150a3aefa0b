"""The providers of OpenTelemetry's SDK. This module imports the SDK, so it is imported only if telemetry is configured."""

import logging
import uuid
from collections.abc import Callable
from importlib.metadata import version
from threading import Thread
from time import monotonic
from types import TracebackType
from typing import Self

from opentelemetry import _logs, metrics, trace
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import (
    SERVICE_INSTANCE_ID,
    SERVICE_NAME,
    SERVICE_VERSION,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.exposition import choose_encoder

from gateway.telemetry.configuration import Telemetry
from gateway.telemetry.export_failures import ExportFailures
from gateway.telemetry.log_export import LogExport
from gateway.telemetry.providers import records_logs, records_metrics, records_traces
from gateway.telemetry.variables import PROMETHEUS_PORT, Exporters, InvalidTelemetryError

FLUSH_TIMEOUT = 2.0  # at the end, for all signals together; a collector that hangs must not delay the exit


class SdkTelemetry(Telemetry):
    """The global providers of the process, each with its exporters.

    Exports run in threads of the SDK, so that a slow collector never delays the event loop. A provider that another tool has
    configured, such as `opentelemetry-instrument`, stays as it is.
    """

    def __init__(self, exporters: Exporters, service: str, prometheus: tuple[str, int] | None) -> None:
        """Create the providers, and listen for scrapes at the address `prometheus`, if there is one.

        Raises:
            InvalidTelemetryError: the address cannot be used.
        """
        self._failures = ExportFailures()
        self._failures.install()
        self._log_export: LogExport | None = None
        self._shutdowns: list[Callable[[], object]] = []
        self._registry = CollectorRegistry()
        if "prometheus" in exporters.metrics:
            self.scrape = self._scrape
        if prometheus is not None:
            self._listen(*prometheus)
        resource = _resource(service)
        if exporters.traces and not records_traces():
            self._export_traces(resource)
        if exporters.metrics and not records_metrics():
            self._export_metrics(resource, exporters.metrics)
        if exporters.logs and not records_logs():
            self._export_logs(resource)

    def __enter__(self) -> Self:
        """Export the log lines of the block."""
        if self._log_export is not None:
            logging.getLogger().addHandler(self._log_export)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Export what is left, for at most `FLUSH_TIMEOUT` seconds. The threads cannot be cancelled, so they are left behind."""
        if self._log_export is not None:
            logging.getLogger().removeHandler(self._log_export)
        threads = [Thread(target=shutdown, daemon=True) for shutdown in self._shutdowns]
        deadline = monotonic() + FLUSH_TIMEOUT
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0, deadline - monotonic()))
        if any(thread.is_alive() for thread in threads):
            self._failures.report(f"the last export took longer than {FLUSH_TIMEOUT:g} s")

    def _export_traces(self, resource: Resource) -> None:
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(provider)
        self._shutdowns.append(provider.shutdown)

    def _export_metrics(self, resource: Resource, exporters: tuple[str, ...]) -> None:
        readers: list[MetricReader] = []
        if "otlp" in exporters:
            readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
        if "prometheus" in exporters:
            readers.append(PrometheusMetricReader(scope_info_enabled=False, registry=self._registry))
        provider = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
        metrics.set_meter_provider(provider)
        self._shutdowns.append(provider.shutdown)

    def _export_logs(self, resource: Resource) -> None:
        provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
        _logs.set_logger_provider(provider)
        self._log_export = LogExport(provider)
        self._shutdowns.append(provider.shutdown)

    def _listen(self, host: str, port: int) -> None:
        try:
            server, _ = start_http_server(port, host, self._registry)
        except OSError as error:
            raise InvalidTelemetryError(f"{PROMETHEUS_PORT}: cannot listen on {host}, port {port}: {error}") from error
        self._shutdowns.append(server.shutdown)

    def _scrape(self, accept: str) -> tuple[bytes, str]:
        try:
            encode, content_type = choose_encoder(accept)
        except TypeError:  # the version of a format is no number
            encode, content_type = choose_encoder("")
        return encode(self._registry), content_type


def _resource(service: str) -> Resource:
    """Return what all signals say about their origin. The standard variables replace the defaults."""
    defaults = {
        SERVICE_NAME: service,
        SERVICE_VERSION: version("gateway"),
        SERVICE_INSTANCE_ID: str(uuid.uuid4()),
    }
    return Resource.create({**defaults, **OTELResourceDetector().detect().attributes})
