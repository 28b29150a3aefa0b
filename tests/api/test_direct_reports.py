"""The route of reports validates them without FastAPI. The outcome is the one that FastAPI would give."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from gateway.api.observations import DirectRoute
from gateway.app import create_app
from gateway.observations.queries import Observation
from gateway.observations.reports import NewObservation, Stored
from gateway.serving.lifespan_manager import StatefulApp
from gateway.settings import Settings
from gateway.settings.api_keys import parse_api_key

KEY = "the-key-of-this-test"
VALID = '{"temperature_c": 12.5, "condition": "rain"}'
STORED = Observation(7, 1, 12.5, "rain", "é", datetime(2026, 11, 30, 12, tzinfo=UTC), None)

Headers = list[tuple[bytes, bytes]]


@dataclass
class FakeWriter:
    """Stores nothing, and keeps the reports with their idempotency keys."""

    reports: list[tuple[NewObservation, str | None]] = field(default_factory=list)

    @property
    def writer(self) -> "FakeWriter":
        return self

    async def write(self, new: NewObservation, idempotency_key: str | None) -> Stored:
        self.reports.append((new, idempotency_key))
        return Stored(STORED, is_new=True)


@pytest.fixture
def app() -> FastAPI:
    return new_app()


@pytest.fixture
def fastapi_app(monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """The app without the validation by the route."""
    with monkeypatch.context() as patch:
        patch.setattr(DirectRoute, "get_route_handler", APIRoute.get_route_handler)
        return new_app()


def new_app() -> FastAPI:
    return create_app(Settings(api_keys=(parse_api_key(f"alice:{KEY}"),)))


async def outcome(app: FastAPI, place: str, body: bytes, headers: Headers) -> tuple[httpx.Response, list[Any]]:
    """Send a report. Return the response, and the reports that reached the writer."""
    writer = FakeWriter()
    transport = httpx.ASGITransport(StatefulApp(app, {"services": writer}))
    fixed = [(b"X-Request-ID", b"fixed"), (b"Content-Type", b"application/json")]
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        client.headers["Authorization"] = f"Bearer {KEY}"
        url = f"/v1/places/{place}/observations"
        response = await client.post(url, content=body, headers=[*fixed, *headers])
    return response, writer.reports


REPORTS: dict[str, tuple[str, str, Headers]] = {  # the place, the body, and the headers
    "valid": ("1", VALID, []),
    "two keys": ("1", VALID, [(b"Idempotency-Key", b"a"), (b"Idempotency-Key", b"b c")]),
    "all fields": ("1", '{"temperature_c": 1, "condition": "sun", "note": "\\u00e9", "observed_at": "NOW"}', []),
    "field twice": ("1", '{"temperature_c": 1, "condition": "sun", "note": null, "condition": "fog"}', []),
    "zero before the id": ("01", VALID, []),
    "sign before the id": ("%2B1", VALID, []),
    "zero as id": ("0", VALID, []),
    "underscore in the id": ("1_0", VALID, []),
    "fraction": ("1.0", VALID, []),
    "errors everywhere": ("0", "{}", [(b"Idempotency-Key", b"")]),
    "text as id": ("x", VALID, [(b"Idempotency-Key", b"\xe9")]),
    "NaN": ("1", '{"temperature_c": NaN, "condition": "rain"}', []),
    "true as number": ("1", '{"temperature_c": true, "condition": "rain"}', []),
    "unknown fields": ("1", '{"temperature_c": "1", "condition": "Rain", "x": 1, "y": 2}', []),
    "list": ("1", "[]", []),
    "null": ("1", "null", []),
    "empty": ("1", "", []),
    "cut off": ("1", "{", []),
    "deep": ("1", "[" * 10_000, []),
    "no UTF-8": ("1", "\udcff", []),
    "too large": ("1", " " * 20_000, []),
}


@pytest.mark.parametrize("name", REPORTS)
async def test_outcome_as_by_fastapi(app: FastAPI, fastapi_app: FastAPI, name: str) -> None:
    """The response and the report that is written are those of the app that leaves the validation to FastAPI."""
    place, body, headers = REPORTS[name]
    encoded = body.replace("NOW", datetime.now(UTC).isoformat()).encode(errors="surrogateescape")

    response, reports = await outcome(app, place, encoded, headers)
    expected_response, expected_reports = await outcome(fastapi_app, place, encoded, headers)

    assert (response.status_code, response.content) == (expected_response.status_code, expected_response.content)
    assert response.headers == expected_response.headers
    assert reports == expected_reports
    assert len(reports) == (response.status_code == 201)


async def test_valid_report_is_validated_once(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    """A valid report does not reach FastAPI's own handler, and its response has the location and the observation."""

    async def fail(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("fastapi.routing.solve_dependencies", fail)

    response, reports = await outcome(app, "1", VALID.encode(), [(b"Idempotency-Key", b"a")])

    new = NewObservation(1, 12.5, "rain", note=None, reporter="alice")
    assert reports == [(new, "a")]
    assert (response.status_code, response.headers["Location"]) == (201, "/v1/places/1/observations/7")
    assert response.json()["created_at"] == "2026-11-30T12:00:00Z"


async def test_client_that_disconnects(app: FastAPI, fastapi_app: FastAPI) -> None:
    """A client that disconnects while it sends its report causes the response that FastAPI gives, and no error."""
    statuses = [await status_after_disconnect(app), await status_after_disconnect(fastapi_app)]

    assert statuses == [400, 400]


async def status_after_disconnect(app: FastAPI) -> int:
    messages = [{"type": "http.request", "body": b"{", "more_body": True}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/places/1/observations",
        "root_path": "",
        "query_string": b"",
        "headers": [
            (b"host", b"gateway"),
            (b"content-type", b"application/json"),
            (b"authorization", b"Bearer " + KEY.encode()),
        ],
    }
    await StatefulApp(app, {"services": FakeWriter()})(scope, receive, send)
    status: int = sent[0]["status"]
    return status
