"""Failed responses are counted by status and route, and have few log lines."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry import metrics
from starlette.types import Message
from structlog.testing import capture_logs

from gateway.api import failed_responses
from gateway.api.failed_responses import UNMATCHED, FailedResponses
from gateway.app import create_app
from gateway.briefs.models import Brief
from gateway.serving.lifespan_manager import StatefulApp
from gateway.settings import Settings
from gateway.settings.api_keys import parse_api_key
from tests.api.test_routes_without_servers import ZURICH, FailingBriefService, FakeBriefService, FakeServices, client_of
from tests.support.waiting import wait_until

UNAVAILABLE = "/v1/places/2/brief"  # the database of `FakeBriefService` is unavailable for this place
BRIEF_ROUTE = "/v1/places/{place_id}/brief"
OBSERVATIONS = "/v1/places/2/observations"


class CancelledBriefService(FakeBriefService):
    """A shutdown cancels each request."""

    async def get(self, _place_id: int, _requested_at: float | None) -> Brief | None:
        raise asyncio.CancelledError


class HangingBriefService(FakeBriefService):
    """No request gets a response."""

    async def get(self, _place_id: int, _requested_at: float | None) -> Brief | None:
        await asyncio.Event().wait()
        return None


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with capture_logs() as logs:
        yield logs


@asynccontextmanager
async def recording(app: FastAPI) -> AsyncIterator[tuple[httpx.AsyncClient, FailedResponses]]:
    """Yield a client of the app, and its failed responses. At the end, they are closed as at the end of the lifespan."""
    failed: FailedResponses = app.state.failed_responses
    try:
        async with client_of(app, FakeBriefService()) as client:
            yield client, failed
    finally:
        failed.close()


def lines(logs: list[Any]) -> list[dict[str, Any]]:
    return [line for line in logs if line["event"] == "responses failed"]


async def test_first_and_number_of_the_others(logs: list[Any]) -> None:
    """The first response of a status is logged at once, and the number of the others at the end."""
    async with recording(create_app(Settings())) as (client, failed):
        for number in range(131):
            await client.get(UNAVAILABLE, headers={"X-Request-ID": f"id-{number}"})
        logged_at_once = len(lines(logs))

    assert logged_at_once == 1
    assert [(line["count"], line["request_id"]) for line in lines(logs)] == [(1, "id-0"), (130, "id-1")]
    assert lines(logs)[0] == {
        "event": "responses failed",
        "log_level": "warning",
        "status": 503,
        "count": 1,
        "route": BRIEF_ROUTE,
        "method": "GET",
        "path": UNAVAILABLE,
        "client": "127.0.0.1",
        "request_id": "id-0",
        "detail": "The database is unavailable (refused). Try again in a second.",
    }
    assert failed.counts == {(503, BRIEF_ROUTE): 131}


async def test_one_line_in_an_interval(logs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each interval with further responses has one line. After an interval without any, the next one is logged at once."""
    monkeypatch.setattr(failed_responses, "INTERVAL", 0.1)
    async with recording(create_app(Settings())) as (client, failed):
        await asyncio.gather(*(client.get(UNAVAILABLE) for _ in range(5)))
        await wait_until(lambda: len(lines(logs)) == 2, "the others are logged")
        await wait_until(lambda: not failed._unlogged, "an interval without a response has passed")
        await client.get(UNAVAILABLE)

        assert [line["count"] for line in lines(logs)] == [1, 4, 1]


def end_interval(failed: FailedResponses) -> None:
    """End the interval of status 503 without waiting for its timer."""
    failed._unlogged[503].timer.cancel()
    failed._on_interval(503)


async def test_each_interval_has_one_line(logs: list[Any]) -> None:
    """A response soon after the line of an interval waits for that of the next one."""
    async with recording(create_app(Settings())) as (client, failed):
        await asyncio.gather(*(client.get(UNAVAILABLE) for _ in range(5)))
        end_interval(failed)
        await client.get(UNAVAILABLE)
        after_the_first = [line["count"] for line in lines(logs)]
        end_interval(failed)

    assert after_the_first == [1, 4]
    assert [line["count"] for line in lines(logs)] == [1, 4, 1]


async def test_statuses(logs: list[Any]) -> None:
    """401 and 403 are counted apart from 5xx. Other statuses are not counted."""
    settings = Settings(operator_keys=(parse_api_key("alice:the-key-of-this-test"),))
    async with recording(create_app(settings)) as (client, failed):
        for path in (f"/v1/places/{ZURICH.id}/brief", "/v1/places/1/brief", "/nowhere", "/v1/places/x/brief"):
            await client.get(path)
        await client.get("/lifecycle")
        await client.post(OBSERVATIONS, json={"temperature_c": 12.5, "condition": "rain"})

    observations_route = "/v1/places/{place_id}/observations"
    assert failed.counts == {(401, "/lifecycle"): 1, (403, observations_route): 1}
    assert [(line["status"], line["route"]) for line in lines(logs)] == [(401, "/lifecycle"), (403, observations_route)]


async def test_route_of_head_requests(logs: list[Any]) -> None:
    """A HEAD request is counted under its route, also if it fails with an internal error."""
    app = create_app(Settings())
    async with recording(app) as (client, failed):
        await client.head(UNAVAILABLE)
        async with client_of(app, FailingBriefService()) as failing_client:
            await failing_client.head(UNAVAILABLE)

    assert failed.counts == {(503, BRIEF_ROUTE): 1, (500, BRIEF_ROUTE): 1}
    assert [line["method"] for line in lines(logs)] == ["HEAD", "HEAD"]


async def test_cancelled_request(logs: list[Any]) -> None:
    """The 503 response to a request that a shutdown cancels is counted under its route, and its line has the request id."""
    app = create_app(Settings())
    failed: FailedResponses = app.state.failed_responses
    started = StatefulApp(app, {"services": FakeServices(CancelledBriefService())}, failed)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(started), base_url="http://gateway") as client:
        response = await client.get(UNAVAILABLE, headers={"X-Request-ID": "mine"})
    failed.close()

    assert response.status_code == 503
    assert failed.counts == {(503, BRIEF_ROUTE): 1}
    (line,) = lines(logs)
    assert (line["request_id"], line["detail"]) == ("mine", response.json()["detail"])


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_disconnected_client(logs: list[Any], method: str) -> None:
    """A request that ends because its client disconnects is not counted."""
    app = create_app(Settings())
    failed: FailedResponses = app.state.failed_responses
    started = StatefulApp(app, {"services": FakeServices(HangingBriefService())}, failed)
    scope = {"type": "http", "method": method, "path": UNAVAILABLE, "query_string": b"", "headers": []}
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    async with asyncio.timeout(10):
        await asyncio.create_task(started(scope, receive, send))  # its own task, because the disconnect cancels it
    failed.close()

    assert sent[0]["status"] == 503  # the server omits it
    assert (failed.counts, lines(logs)) == ({}, [])


async def test_internal_error(logs: list[Any]) -> None:
    """An internal error is counted, and its line has the request id of its traceback."""
    app = create_app(Settings())
    async with client_of(app, FailingBriefService()) as client:
        response = await client.get(f"/v1/places/{ZURICH.id}/brief")
    app.state.failed_responses.close()

    (traceback,) = [line for line in logs if line["event"] == "request failed"]
    (line,) = lines(logs)
    assert traceback["path"] == line["path"] == f"/v1/places/{ZURICH.id}/brief"
    assert (line["status"], line["request_id"]) == (500, response.headers["X-Request-ID"])


async def test_path_cannot_forge_a_line(logs: list[Any]) -> None:
    """Control characters and other text of the client are encoded, and a long path is cut."""
    app = create_app(Settings())

    @app.get("/raise/{text:path}")
    async def fail(text: str) -> str:
        raise ZeroDivisionError(text)

    async with recording(app) as (client, _):
        await client.get("/raise/event=forged%1B%5B2J%C3%A9" + "x" * 1000)

    (line,) = lines(logs)
    assert line["path"].startswith("/raise/event=forged%1B%5B2J%C3%A9xxx")
    assert len(line["path"]) < 300
    assert line["path"].endswith("x...")


def test_rejections_by_the_server(logs: list[Any]) -> None:
    """A response that the server sends without the app is counted if it is a server error."""

    async def record() -> FailedResponses:
        failed = FailedResponses()
        failed.record_rejection(503, ("192.0.2.1", 50000), "too many connections")
        failed.record_rejection(408, ("192.0.2.1", 50000), "too slow")
        failed.close()
        return failed

    assert asyncio.run(record()).counts == {(503, UNMATCHED): 1}
    (line,) = lines(logs)
    assert (line["client"], line["detail"]) == ("192.0.2.1", "too many connections")


class RecordingCounter(metrics.NoOpCounter):
    """A counter of OpenTelemetry that stores its calls."""

    added: list[tuple[float, Any]]

    def add(self, amount: float, attributes: Any = None, context: Any = None) -> None:
        del context
        self.added.append((amount, attributes))


class RecordingMeterProvider(metrics.NoOpMeterProvider):
    def __init__(self, counter: RecordingCounter) -> None:
        super().__init__()
        self.counter = counter

    def get_meter(self, name: str, *_args: Any, **_kwargs: Any) -> metrics.Meter:
        meter = metrics.NoOpMeter(name)
        meter.create_counter = lambda *_args, **_kwargs: self.counter  # type: ignore[method-assign]
        return meter


async def test_counter_of_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry counts each failed response by status and route."""
    counter = RecordingCounter("failed")
    counter.added = []
    monkeypatch.setattr(metrics, "get_meter", RecordingMeterProvider(counter).get_meter)
    async with recording(create_app(Settings())) as (client, _):
        await client.get(UNAVAILABLE)

    assert counter.added == [(1, {"http.response.status_code": 503, "http.route": BRIEF_ROUTE})]
