"""Details of the backends are for operators: those with a key, or programs on the machine of a gateway on loopback."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from structlog.contextvars import get_contextvars, merge_contextvars
from structlog.testing import capture_logs

from gateway.app import create_app
from gateway.event_loop import EventLoopMonitor
from gateway.lifecycle import Journal, LifecycleStack
from gateway.readiness import Readiness
from gateway.serving.lifespan_manager import StatefulApp
from gateway.settings import Settings
from gateway.settings.api_keys import parse_api_key

KEYS = ("the-old-key-of-operators", "the-new-key-of-operators")
API_KEY = "the-key-of-a-client"
LOCAL = {"Host": "localhost:8000"}
PUBLIC_REPORT = {"status": "ok", "checks": {"database": {"status": "ok"}, "event_loop": {"status": "ok"}}}


@dataclass
class FakeServices:
    """Replaces the `Services` of the lifespan. It has what the endpoints for operators use."""

    readiness: Readiness
    journal: Journal


class Gateway:
    """A gateway with one entry, and no server. It has other keys and another listener in each request."""

    def __init__(self, app: FastAPI, stack: LifecycleStack) -> None:
        readiness = Readiness(stack, grace=0, event_loop=EventLoopMonitor())
        self._app = app
        self._started = StatefulApp(app, {"services": FakeServices(readiness, stack.journal)})

    async def get(
        self,
        path: str,
        headers: Mapping[str, str],
        *,
        keys: tuple[str, ...] = KEYS,
        on_loopback: bool = False,
        client: str = "127.0.0.1",
    ) -> httpx.Response:
        state = self._app.state
        state.settings = Settings(
            operator_keys=tuple(parse_api_key(f"operator:{key}") for key in keys),
            api_keys=(parse_api_key(f"alice:{API_KEY}"),),
        )
        state.on_loopback = on_loopback
        transport = httpx.ASGITransport(self._started, client=(client, 50000))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            response = await http.get(path, headers=headers)
        state.failed_responses.close()
        return response


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(Settings())


@pytest.fixture
async def gateway(app: FastAPI) -> AsyncIterator[Gateway]:
    async def check() -> str:
        return "db.internal:5432"

    entry: AbstractAsyncContextManager[None] = nullcontext()
    async with LifecycleStack() as stack:
        await stack.enter("database", entry, start_timeout=1, stop_timeout=1, check=check)
        stack.mark_started()
        yield Gateway(app, stack)


def has_details(response: httpx.Response) -> bool:
    """Return whether a report has all details. Otherwise, assert that it has none."""
    report: dict[str, Any] = response.json()
    if "db.internal" not in response.text:
        assert (response.status_code, report) == (200, PUBLIC_REPORT)
        return False
    assert report["checks"]["database"].keys() == {"status", "took_ms", "remark"}
    assert all(name.endswith((" /lifecycle", " /metrics")) for name in report["failed_responses"])
    return True


STRANGERS: list[tuple[dict[str, str], dict[str, Any]]] = [
    ({}, {}),
    ({"Authorization": "Bearer wrong"}, {}),
    ({"Authorization": f"Bearer {API_KEY}"}, {}),
    ({"Authorization": "Basic the-old-key-of-operators"}, {}),
    (LOCAL, {"on_loopback": True}),
    (LOCAL, {"keys": (), "on_loopback": False}),
    ({}, {"keys": (), "on_loopback": True}),
    (LOCAL | {"Via": "1.1 proxy"}, {"keys": (), "on_loopback": True}),
    (LOCAL | {"X-Forwarded-For": "127.0.0.1"}, {"keys": (), "on_loopback": True}),
    (LOCAL | {"Origin": "https://evil.example"}, {"keys": (), "on_loopback": True}),
    ({"Authorization": "Bearer the-old-key-of-operators"}, {"keys": ()}),
]
OPERATORS: list[tuple[dict[str, str], dict[str, Any]]] = [
    ({"Authorization": "Bearer the-old-key-of-operators"}, {}),
    ({"Authorization": "Bearer the-new-key-of-operators", "Via": "1.1 proxy"}, {}),
    (LOCAL, {"keys": (), "on_loopback": True}),
]


@pytest.mark.parametrize(("headers", "options"), STRANGERS)
async def test_stranger(gateway: Gateway, headers: dict[str, str], options: dict[str, Any]) -> None:
    """A stranger gets the status of each check and no details, and neither the journal nor the metrics."""
    report = await gateway.get("/readyz", headers, **options)
    journal = await gateway.get("/lifecycle", headers, **options)
    metrics = await gateway.get("/metrics", headers, **options)

    assert not has_details(report)
    assert metrics.status_code == journal.status_code
    assert journal.headers["Content-Type"] == "application/problem+json"
    if options.get("keys") == ():
        assert journal.status_code == 403
    else:
        assert (journal.status_code, journal.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "GATEWAY_" not in journal.text


@pytest.mark.parametrize(("headers", "options"), OPERATORS)
async def test_operator(gateway: Gateway, headers: dict[str, str], options: dict[str, Any]) -> None:
    """An operator gets the details, the journal, and the metrics or what would configure them."""
    report = await gateway.get("/readyz", headers, **options)
    journal = await gateway.get("/lifecycle", headers, **options)
    metrics = await gateway.get("/metrics", headers, **options)

    assert has_details(report)
    assert (journal.status_code, journal.json()["items"][0]["name"]) == (200, "database")
    assert (metrics.status_code, "OTEL_METRICS_EXPORTER" in metrics.json()["detail"]) == (404, True)


async def test_name_of_the_key_is_in_the_log(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """All log lines of a request with a key of an operator have its name, and no others."""

    def fail(_event: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("gateway.api.health.JournalEvent", fail)
    with capture_logs(processors=[merge_contextvars]) as lines:
        response = await gateway.get("/lifecycle", {"Authorization": f"Bearer {KEYS[0]}"})

    assert response.status_code == 500
    assert [line["operator"] for line in lines if line["event"] == "request failed"] == ["operator"]
    assert get_contextvars() == {}


@pytest.mark.parametrize(
    ("headers", "client", "named"),
    [(LOCAL, "127.0.0.1", True), (LOCAL, "192.0.2.1", False), (LOCAL | {"Via": "1.1 proxy"}, "127.0.0.1", False)],
)
async def test_name_of_the_setting(gateway: Gateway, headers: dict[str, str], client: str, *, named: bool) -> None:
    """Only a program on the machine of the gateway gets the name of the setting that enables the path."""
    response = await gateway.get("/lifecycle", headers, keys=(), client=client)

    assert ("GATEWAY_OPERATOR_KEYS" in response.text) is named
