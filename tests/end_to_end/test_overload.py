"""A held event loop: the responses say that the gateway is overloaded, and do not blame a healthy backend."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from gateway.devstack.stack import Devstack
from gateway.event_loop import MAX_LAG
from gateway.settings import Settings
from gateway.settings.api_keys import parse_api_key
from tests.end_to_end.harness import ZURICH, RunningGateway, flush_redis, running_gateway
from tests.end_to_end.test_api import is_problem
from tests.support.waiting import wait_until

KEY = "the-key-of-this-test"
BRIEF = f"/v1/places/{ZURICH}/brief"
OBSERVATIONS = f"/v1/places/{ZURICH}/observations"
BRIEF_TIMEOUT = 0.8
HELD = 0.5  # seconds: more than the share of a brief's timeout for its place
REQUESTS = 20


def hold_loop(monkeypatch: pytest.MonkeyPatch, function: str, seconds: float) -> None:
    """Hold the event loop before the first call of an async function of the gateway, as a large computation does."""
    module, _, name = function.rpartition(".")
    original: Callable[..., Awaitable[Any]] = getattr(__import__(module, fromlist=[name]), name)
    held = False

    async def hold_and_call(*args: Any) -> Any:
        nonlocal held
        if not held:
            held = True
            time.sleep(seconds)  # noqa: ASYNC251 - holds the loop
        return await original(*args)

    monkeypatch.setattr(function, hold_and_call)


async def test_briefs_of_a_held_loop(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Briefs that time out because the loop was held are counted, have few log lines, and name the overload.

    Readiness is degraded, and names the event loop.
    """
    hold_loop(monkeypatch, "gateway.briefs.place_loader.fetch_places_with_observations", HELD)
    monkeypatch.setattr("gateway.readiness.MAX_LAG", MAX_LAG)
    with capture_logs() as logs:
        async with running_gateway(settings.model_copy(update={"brief_timeout": BRIEF_TIMEOUT})) as gateway:
            responses = await asyncio.gather(*(gateway.client.get(BRIEF) for _ in range(REQUESTS)))
            ready = await gateway.client.get("/readyz")

    assert all(is_problem(response, 503) for response in responses)
    assert {(response.json()["type"], response.json()["detail"]) for response in responses} == {
        ("/problems/overloaded", "The gateway is overloaded. Try again in a second.")
    }
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    assert ready.json()["checks"]["event_loop"]["status"] == "failed"
    assert "ms late" in ready.json()["checks"]["event_loop"]["remark"]
    assert ready.json()["failed_responses"] == {"503 /v1/places/{place_id}/brief": REQUESTS}

    failed = [line for line in logs if line["event"] == "responses failed"]
    assert [(line["status"], line["count"]) for line in failed] == [(503, 1), (503, REQUESTS - 1)]
    assert failed[0]["request_id"] == responses[0].headers["X-Request-ID"]
    assert failed[0]["detail"].startswith("The gateway is overloaded")
    parts = [line for line in logs if line["event"] == "part of briefs failed"]
    assert [(line["part"], line["reason"]) for line in parts] == [("place", "overloaded")]


@pytest.fixture
async def held_weather(
    settings: Settings, servers: Devstack, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[RunningGateway]:
    """A gateway whose event loop is held during the first call of the upstream, until the brief is late."""
    await flush_redis(servers)
    monkeypatch.setattr("gateway.briefs.place_loader.PLACE_SHARE", 0.8)  # a place that is late is not under test
    hold_loop(monkeypatch, "gateway.briefs.weather_fetcher.fetch_weather", BRIEF_TIMEOUT)
    async with running_gateway(settings.model_copy(update={"brief_timeout": BRIEF_TIMEOUT})) as gateway:
        yield gateway


async def test_section_of_a_held_loop(held_weather: RunningGateway) -> None:
    """A section that is late because the loop was held has the reason `overloaded`."""
    response = await held_weather.client.get(BRIEF)

    assert "weather;reason=overloaded, outlook;reason=no_weather" in response.headers["Gateway-Incomplete"]
    assert response.json()["sections"]["weather"]["reason"] == "overloaded"


async def test_overload_opens_no_circuit(held_weather: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that times out because the loop was held does not count against the upstream."""
    monkeypatch.setattr("gateway.briefs.circuit_breaker.FAILURE_THRESHOLD", 1)
    fetcher = held_weather.services.briefs._weather_cache._fetcher
    fetcher._timeout = HELD
    await held_weather.client.get(BRIEF)
    await wait_until(lambda: not fetcher._in_flight, "the call has ended")

    assert not fetcher._breaker.is_open


async def test_reading_of_a_held_loop(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that times out because the loop was held gets a problem that names the overload."""
    monkeypatch.setattr("gateway.read_sessions.READ_TIMEOUT", HELD)
    hold_loop(monkeypatch, "gateway.api.places.search_places", 2 * HELD)
    response = await gateway.client.get("/v1/places")

    assert is_problem(response, 503)
    assert response.json()["type"] == "/problems/overloaded"
    assert response.json()["detail"] == "The gateway is overloaded. Try again in a second."


async def test_write_of_a_held_loop(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that times out because the loop was held gets a problem that names the overload."""
    monkeypatch.setattr("gateway.observations.writer.WRITE_TIMEOUT", HELD)
    hold_loop(monkeypatch, "gateway.observations.groups.insert_reports", 2 * HELD)
    async with running_gateway(settings.model_copy(update={"api_keys": (parse_api_key(f"alice:{KEY}"),)})) as gateway:
        response = await report(gateway.client)

    assert is_problem(response, 503)
    assert response.json()["type"] == "/problems/outcome-unknown"
    assert response.json()["detail"].startswith("The gateway is overloaded. The report may have been stored.")


async def report(client: httpx.AsyncClient) -> httpx.Response:
    body = {"temperature_c": 12.5, "condition": "rain"}
    return await client.post(OBSERVATIONS, json=body, headers={"Authorization": f"Bearer {KEY}"})
