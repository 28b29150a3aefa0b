"""The standard variables of OpenTelemetry that decide which exporters there are. The SDK reads the others itself."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

TRACE_EXPORTERS = ("otlp",)
METRIC_EXPORTERS = ("otlp", "prometheus")
LOG_EXPORTERS = ("otlp",)

PROMETHEUS_HOST = "OTEL_EXPORTER_PROMETHEUS_HOST"
PROMETHEUS_PORT = "OTEL_EXPORTER_PROMETHEUS_PORT"


class InvalidTelemetryError(Exception):
    """The telemetry cannot be configured. The message names the variable and the fix, and no value, unless it is the SDK's."""


@dataclass(frozen=True)
class Exporters:
    """The exporters of each signal, by the names in the standard variables.

    Attributes:
        traces: of spans.
        metrics: of metrics.
        logs: of log lines.
        variable: the variable that requests one of them, or empty if there are none.
    """

    traces: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    logs: tuple[str, ...] = ()
    variable: str = ""

    def __bool__(self) -> bool:
        return bool(self.variable)


def read_exporters() -> Exporters:
    """Read the variables. An empty one counts as not set.

    A signal has the exporters of `OTEL_<SIGNAL>_EXPORTER`, or else the one for OTLP if there is an endpoint.

    Raises:
        InvalidTelemetryError: a variable names an exporter, a protocol or an endpoint that cannot be used.
    """
    if _read("OTEL_SDK_DISABLED").lower() == "true":
        return Exporters()
    traces, traces_variable = _exporters("TRACES", TRACE_EXPORTERS)
    metrics, metrics_variable = _exporters("METRICS", METRIC_EXPORTERS)
    logs, logs_variable = _exporters("LOGS", LOG_EXPORTERS)
    return Exporters(traces, metrics, logs, variable=traces_variable or metrics_variable or logs_variable)


def prometheus_address() -> tuple[str, int] | None:
    """Return the host and the port of the standard variables, or None if neither is set.

    Raises:
        InvalidTelemetryError: the port is no number of a port.
    """
    host, port = _read(PROMETHEUS_HOST), _read(PROMETHEUS_PORT)
    if not host and not port:
        return None
    if port and not (port.isascii() and port.isdigit() and int(port) < 2**16):
        raise InvalidTelemetryError(f"{PROMETHEUS_PORT}: should be a port, such as 9464")
    return host or "localhost", int(port or 9464)


def _read(variable: str) -> str:
    return os.environ.get(variable, "").strip()


def _exporters(signal: str, supported: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """Return the exporters of a signal, and the variable that requests them."""
    variable = f"OTEL_{signal}_EXPORTER"
    names = tuple(name.strip().lower() for name in _read(variable).split(",") if name.strip())
    endpoint = next(_set_variables(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"), "")
    if not names:
        names, variable = (("otlp",), endpoint) if endpoint else ((), "")
    if names in ((), ("none",)):
        return (), ""
    if not set(names) <= set(supported):
        raise InvalidTelemetryError(f"{variable}: should be none or {' or '.join(supported)}")
    if "otlp" in names:
        _check_protocol(signal)
        if endpoint:
            _check_endpoint(endpoint)
    return names, variable


def _check_protocol(signal: str) -> None:
    for variable in _set_variables(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if _read(variable).lower() != "http/protobuf":
            raise InvalidTelemetryError(
                f"{variable}: should be http/protobuf, with an endpoint such as http://localhost:4318"
            )
        return


def _check_endpoint(variable: str) -> None:
    try:
        url = urlsplit(_read(variable))
        is_valid = url.scheme in {"http", "https"} and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        is_valid = False
    if not is_valid:
        raise InvalidTelemetryError(f"{variable}: should be a URL such as http://localhost:4318")


def _set_variables(*variables: str) -> Iterator[str]:
    return (variable for variable in variables if _read(variable))
