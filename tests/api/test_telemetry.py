"""FastAPI's own OpenTelemetry instrumentation: on if OpenTelemetry is configured, without any cost otherwise."""

from typing import Any

import pytest
from fastapi import FastAPI
from opentelemetry import metrics, trace

from gateway.api.telemetry import is_excluded, telemetry_config
from gateway.app import create_app
from gateway.settings import Settings

NOTHING = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
EVERYTHING = {"tracing": True, "metrics": True, "logs": True, "auto_configure": False}


class CustomTracerProvider(trace.ProxyTracerProvider):
    """A provider that is neither the API's default nor its no-op."""


class CustomMeterProvider(metrics.MeterProvider):
    def get_meter(self, name: str, *_args: Any, **_kwargs: Any) -> metrics.Meter:
        return metrics.NoOpMeter(name)


def test_no_telemetry_by_default() -> None:
    """Without an OpenTelemetry SDK nothing is recorded. It fails if OpenTelemetry moves its placeholder providers."""
    assert telemetry_config().items() >= NOTHING.items()


def test_no_telemetry_with_noop_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a provider that records nothing, FastAPI records nothing."""
    monkeypatch.setattr(trace, "get_tracer_provider", trace.NoOpTracerProvider)

    assert telemetry_config().items() >= NOTHING.items()


@pytest.mark.parametrize(
    ("api", "getter", "provider"),
    [
        (trace, "get_tracer_provider", CustomTracerProvider),
        (metrics, "get_meter_provider", CustomMeterProvider),
    ],
    ids=["tracing", "metrics"],
)
def test_telemetry_with_any_provider(monkeypatch: pytest.MonkeyPatch, api: object, getter: str, provider: type) -> None:
    """Either a tracer or a meter provider enables the telemetry."""
    monkeypatch.setattr(api, getter, provider)

    assert telemetry_config().items() >= EVERYTHING.items()


def test_fastapi_can_configure_exporters(monkeypatch: pytest.MonkeyPatch) -> None:
    """`FASTAPI_OTEL_AUTO_CONFIGURE` enables the telemetry. FastAPI reads the variable in the same way."""
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "True")

    assert telemetry_config().items() >= (EVERYTHING | {"auto_configure": True}).items()
    assert FastAPI()._telemetry["auto_configure"]


def test_no_second_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    """If there is a provider, FastAPI adds no exporter to it: each span would arrive twice."""
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "True")
    monkeypatch.setattr(trace, "get_tracer_provider", CustomTracerProvider)

    assert telemetry_config()["auto_configure"] is False


@pytest.mark.parametrize(
    ("path", "root_path", "excluded"),
    [("/readyz", "", True), ("/weather/metrics", "/weather", True), ("/v1/places/1/brief", "", False)],
)
def test_probes_are_not_recorded(path: str, root_path: str, excluded: bool) -> None:
    """Probes and scrapes are not recorded, also behind a proxy that removes a prefix."""
    assert is_excluded({"path": path, "root_path": root_path}) is excluded


def test_app_uses_the_configuration() -> None:
    """The app is created with these settings."""
    assert create_app(Settings())._telemetry.items() >= NOTHING.items()
