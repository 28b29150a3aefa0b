"""The standard variables of OpenTelemetry, and the start without them."""

import sys

import pytest

from gateway.telemetry.configuration import Telemetry, start_telemetry
from gateway.telemetry.variables import Exporters, InvalidTelemetryError, prometheus_address, read_exporters

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}
ALL = (("otlp",), ("otlp",), ("otlp",))


def set_variables(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ((), (), ())),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, ((), (), ())),
        (ENDPOINT, ALL),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "true"}, ((), (), ())),
        (ENDPOINT | {"OTEL_LOGS_EXPORTER": "none"}, (("otlp",), ("otlp",), ())),
        (ENDPOINT | {"OTEL_METRICS_EXPORTER": "otlp, prometheus"}, (("otlp",), ("otlp", "prometheus"), ("otlp",))),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, ((), ("prometheus",), ())),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, (("otlp",), (), ())),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://collector/v1/traces"}, (("otlp",), (), ())),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, ALL),
    ],
)
def test_exporters(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: tuple[tuple[str, ...], ...]
) -> None:
    """A signal has the exporters that its variable names, or else the one for OTLP if there is an endpoint."""
    set_variables(monkeypatch, variables)
    exporters = read_exporters()

    assert (exporters.traces, exporters.metrics, exporters.logs) == expected
    assert bool(exporters) is any(expected)


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"OTEL_TRACES_EXPORTER": "hunter2"}, "OTEL_TRACES_EXPORTER"),
        ({"OTEL_METRICS_EXPORTER": "none,otlp"}, "OTEL_METRICS_EXPORTER"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "hunter2:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://hunter2:x/"}, "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL"),
        ({"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT": "hunter2"}, "PROMETHEUS_PORT"),
    ],
)
def test_invalid_variables(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], name: str) -> None:
    """An exporter, protocol, endpoint or port that cannot be used is an error that names the variable, and not its value."""
    set_variables(monkeypatch, variables)

    with pytest.raises(InvalidTelemetryError, match=f"{name}: should be") as raised:
        start_telemetry("gateway")
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_PROMETHEUS_HOST": "0.0.0.0"}, ("0.0.0.0", 9464)),  # noqa: S104 - only read
        ({"OTEL_EXPORTER_PROMETHEUS_PORT": "9999"}, ("localhost", 9999)),
    ],
)
def test_prometheus_address(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: tuple[str, int] | None
) -> None:
    """The address for scrapes has the defaults of the specification, if one of its variables is set."""
    set_variables(monkeypatch, variables)

    assert prometheus_address() == expected


def test_start_without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a variable, the telemetry does nothing, and imports no module of the SDK."""
    monkeypatch.setitem(sys.modules, "gateway.telemetry.sdk", None)

    with start_telemetry("gateway", default_prometheus=("localhost", 9464)) as telemetry:
        assert type(telemetry) is Telemetry
        assert telemetry.scrape is None
    assert not Exporters()


def test_missing_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the optional packages, a set variable is an error that names it and what to install."""
    set_variables(monkeypatch, ENDPOINT)
    monkeypatch.delitem(sys.modules, "gateway.telemetry.sdk", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http._log_exporter", None)

    with pytest.raises(
        InvalidTelemetryError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT needs .* install `gateway\[telemetry\]`"
    ):
        start_telemetry("gateway")
