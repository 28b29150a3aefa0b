"""A receiver of OpenTelemetry's protocol: an HTTP server in this process that decodes and keeps what it gets."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support.http_server import http_server


@dataclass(frozen=True)
class ReceivedSpan:
    """A span; its ids are hexadecimal, and its times nanoseconds. `service` is the name of its service."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    links: list[str]
    start: int
    end: int
    failed: bool
    attributes: dict[str, Any]


@dataclass(frozen=True)
class ReceivedLog:
    service: str
    body: str
    trace_id: str
    severity: str
    attributes: dict[str, Any]


@dataclass
class OTLPReceiver:
    """The telemetry that has arrived.

    Attributes:
        spans: all spans.
        logs: all log records.
        metrics: the latest values of each metric by service, name and attributes.
        bodies: the content of all requests.
    """

    spans: list[ReceivedSpan] = field(default_factory=list)
    logs: list[ReceivedLog] = field(default_factory=list)
    metrics: dict[tuple[str, str, tuple[tuple[str, Any], ...]], float] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)

    def spans_of(self, trace_id: str) -> dict[str, ReceivedSpan]:
        """Return the spans of a trace by their names."""
        return {span.name: span for span in self.spans if span.trace_id == trace_id}

    def find(self, service: str, name: str) -> ReceivedSpan:
        """Return the only span of a service with a name."""
        (span,) = (span for span in self.spans if (span.service, span.name) == (service, name))
        return span

    def children(self, parent: ReceivedSpan) -> list[ReceivedSpan]:
        """Return the children of a span, in the order in which they started."""
        return sorted((span for span in self.spans if span.parent_id == parent.span_id), key=lambda span: span.start)

    def names(self, service: str) -> set[str]:
        """Return the names of the metrics of a service."""
        return {name for of_service, name, _ in self.metrics if of_service == service}

    def value(self, service: str, name: str, **attributes: str) -> float:
        """Return the sum of the values of a metric that have the attributes, whose names have `__` instead of a dot."""
        wanted = {(key.replace("__", "."), value) for key, value in attributes.items()}
        return sum(
            value
            for (of_service, of_name, found), value in self.metrics.items()
            if (of_service, of_name) == (service, name) and wanted <= set(found)
        )

    async def receive_traces(self, request: Request) -> Response:
        for resource_spans in ExportTraceServiceRequest.FromString(await self._body(request)).resource_spans:
            service = _attributes(resource_spans.resource.attributes)["service.name"]
            self.spans += [
                ReceivedSpan(
                    service,
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    [link.trace_id.hex() for link in span.links],
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    span.status.code == 2,
                    _attributes(span.attributes),
                )
                for scope in resource_spans.scope_spans
                for span in scope.spans
            ]
        return Response(media_type="application/x-protobuf")

    async def receive_logs(self, request: Request) -> Response:
        for resource_logs in ExportLogsServiceRequest.FromString(await self._body(request)).resource_logs:
            service = _attributes(resource_logs.resource.attributes)["service.name"]
            self.logs += [
                ReceivedLog(
                    service,
                    record.body.string_value,
                    record.trace_id.hex(),
                    record.severity_text,
                    _attributes(record.attributes),
                )
                for scope in resource_logs.scope_logs
                for record in scope.log_records
            ]
        return Response(media_type="application/x-protobuf")

    async def receive_metrics(self, request: Request) -> Response:
        for resource_metrics in ExportMetricsServiceRequest.FromString(await self._body(request)).resource_metrics:
            service = _attributes(resource_metrics.resource.attributes)["service.name"]
            for scope in resource_metrics.scope_metrics:
                for metric in scope.metrics:
                    for attributes, value in _points(metric):
                        self.metrics[service, metric.name, tuple(sorted(attributes.items()))] = value
        return Response(media_type="application/x-protobuf")

    async def _body(self, request: Request) -> bytes:
        self.bodies.append(await request.body())
        return self.bodies[-1]


@asynccontextmanager
async def otlp_receiver() -> AsyncIterator[tuple[OTLPReceiver, str]]:
    """Run a receiver. Yield it and its endpoint."""
    receiver = OTLPReceiver()
    app = Starlette(
        routes=[
            Route("/v1/traces", receiver.receive_traces, methods=["POST"]),
            Route("/v1/logs", receiver.receive_logs, methods=["POST"]),
            Route("/v1/metrics", receiver.receive_metrics, methods=["POST"]),
        ]
    )
    async with http_server(app) as port:
        yield receiver, f"http://127.0.0.1:{port}"


def _points(metric: Metric) -> Iterable[tuple[dict[str, Any], float]]:
    for point in [*metric.sum.data_points, *metric.gauge.data_points]:
        yield _attributes(point.attributes), point.as_double or point.as_int
    for histogram in metric.histogram.data_points:
        yield _attributes(histogram.attributes), histogram.count


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return None if kind is None else getattr(value, kind)
