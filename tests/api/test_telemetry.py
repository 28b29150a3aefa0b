"""FastAPI's telemetry is there once OpenTelemetry is, and costs nothing before."""

import pytest
from fastapi import FastAPI
from opentelemetry import metrics, trace

from gateway.api.telemetry import telemetry

NOTHING = {"tracing": False, "metrics": False, "logs": False}
ALL = {"tracing": True, "metrics": True, "logs": True}


class Provider(trace.ProxyTracerProvider):
    """Somebody's own, that is not the API's."""


def test_without_opentelemetry_nothing_is_recorded() -> None:
    assert telemetry() == NOTHING


def test_what_records_nothing_is_not_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "get_tracer_provider", trace.NoOpTracerProvider)
    assert telemetry() == NOTHING


@pytest.mark.parametrize(("api", "which"), [(trace, "get_tracer_provider"), (metrics, "get_meter_provider")])
def test_once_anything_of_opentelemetry_is_set_up_all_is_recorded(
    monkeypatch: pytest.MonkeyPatch, api: object, which: str
) -> None:
    monkeypatch.setattr(api, which, Provider)
    assert telemetry() == ALL


def test_fastapi_can_be_told_to_set_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As FastAPI understands it itself: both shall agree."""
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "True")
    assert telemetry() == ALL
    assert FastAPI()._telemetry["auto_configure"]
