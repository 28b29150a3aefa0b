"""FastAPI's own OpenTelemetry instrumentation, which the gateway leaves at its defaults."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.telemetry import get_telemetry_data
from opentelemetry import metrics, trace
from starlette.types import Message

from gateway.app import create_app
from gateway.settings import Settings


class CustomTracerProvider(trace.ProxyTracerProvider):
    """A provider that is neither the API's default nor its no-op."""


class CustomMeterProvider(metrics.MeterProvider):
    def get_meter(self, name: str, *_args: Any, **_kwargs: Any) -> metrics.Meter:
        return metrics.NoOpMeter(name)


@asynccontextmanager
async def no_lifespan(_app: object) -> AsyncIterator[None]:
    yield


@pytest.fixture
def app() -> FastAPI:
    app = create_app(Settings())

    @app.get("/recorded")
    async def is_recorded() -> bool:
        return get_telemetry_data() is not None

    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        yield client


async def test_no_telemetry_by_default(client: httpx.AsyncClient) -> None:
    """Without an OpenTelemetry SDK nothing is recorded or exported."""
    assert (await client.get("/recorded")).json() is False


async def test_no_telemetry_with_noop_provider(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a provider that records nothing, FastAPI records nothing."""
    monkeypatch.setattr(trace, "get_tracer_provider", trace.NoOpTracerProvider)

    assert (await client.get("/recorded")).json() is False


@pytest.mark.parametrize(
    ("api", "getter", "provider"),
    [
        (trace, "get_tracer_provider", CustomTracerProvider()),
        (metrics, "get_meter_provider", CustomMeterProvider()),
    ],
    ids=["tracing", "metrics"],
)
async def test_telemetry_with_any_provider(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, api: object, getter: str, provider: object
) -> None:
    """Either a tracer or a meter provider enables the telemetry, even if it is set after the app was created."""
    monkeypatch.setattr(api, getter, lambda: provider)

    assert (await client.get("/recorded")).json() is True


async def test_fastapi_can_configure_exporters(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`FASTAPI_OTEL_AUTO_CONFIGURE` has its effect: FastAPI warns of an exporter that it does not support."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "unknown")
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "True")
    app = create_app(Settings())
    app.router.lifespan_context = no_lifespan
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(_message: Message) -> None:
        pass

    await app({"type": "lifespan"}, receive, send)

    assert "OTEL_TRACES_EXPORTER" in caplog.text
