"""Tests of routes without servers: an example to copy.

Routes get their services from the state of the request, which the lifespan yields. So a test replaces the state: it enters
nothing, patches nothing and needs no server. Tests with real servers cover the resources themselves.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
from fastapi import FastAPI
from structlog.testing import capture_logs

from gateway.app import create_app
from gateway.briefs.models import Brief, Outlook, Popularity, Reason, Section, Sections, Status
from gateway.briefs.place_loader import PlaceUnavailableError
from gateway.dependencies import RequestId
from gateway.places.queries import Place
from gateway.serving.lifespan_manager import StatefulApp
from gateway.settings import Settings

ZURICH = Place(2657896, "Zürich", "Zurich", "CH", "ZH", 47.36667, 8.55, 415367, "Europe/Zurich", 3)


def without_weather(place: Place) -> Brief:
    """Return a brief whose weather timed out."""
    return Brief(
        place=place,
        complete=False,
        sections=Sections(
            weather=Section(status=Status.UNAVAILABLE, reason=Reason.TIMEOUT, took_ms=700),
            outlook=Section[Outlook](status=Status.UNAVAILABLE, reason=Reason.NO_WEATHER, took_ms=0),
            observations=Section(status=Status.OK, age_s=0, took_ms=2, data=[]),
            popularity=Section(status=Status.STALE, age_s=90, took_ms=1, data=Popularity(views=7)),
        ),
    )


class FakeBriefService:
    """Replaces `BriefService`. It has the brief of Zürich, and its database is unavailable for place 2."""

    async def get(self, place_id: int, _requested_at: float | None) -> Brief | None:
        if place_id == 2:
            raise PlaceUnavailableError(Reason.REFUSED)
        return without_weather(ZURICH) if place_id == ZURICH.id else None


class FailingBriefService:
    async def get(self, _place_id: int, _requested_at: float | None) -> Brief | None:
        raise ZeroDivisionError("a secret")


@dataclass
class FakeServices:
    """Replaces the `Services` of the lifespan. It has what the routes under test use."""

    briefs: FakeBriefService | FailingBriefService


def client_of(app: FastAPI, briefs: FakeBriefService | FailingBriefService) -> httpx.AsyncClient:
    started = StatefulApp(app, {"services": FakeServices(briefs)})
    return httpx.AsyncClient(transport=httpx.ASGITransport(started), base_url="http://gateway")


@pytest.fixture
def app() -> FastAPI:
    return create_app(Settings())


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app, FakeBriefService()) as client:
        yield client


async def test_headers_of_an_incomplete_brief(client: httpx.AsyncClient) -> None:
    """The headers report the missing and the stale sections of the body."""
    response = await client.get(f"/v1/places/{ZURICH.id}/brief")

    assert response.status_code == 200
    assert response.json()["complete"] is False
    assert response.headers["Gateway-Complete"] == "false"
    assert response.headers["Gateway-Incomplete"] == "weather;reason=timeout, outlook;reason=no_weather"
    assert response.headers["Gateway-Stale"] == "popularity"
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(("place_id", "status"), [(1, 404), (2, 503)])
async def test_errors_are_problems(client: httpx.AsyncClient, place_id: int, status: int) -> None:
    """An unknown place and an unavailable database are reported as RFC 9457 problems."""
    response = await client.get(f"/v1/places/{place_id}/brief")

    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"


async def test_request_id_dependency(app: FastAPI, client: httpx.AsyncClient) -> None:
    """A route gets the request id of its client."""

    @app.get("/id")
    async def show(request_id: RequestId) -> str:
        return request_id

    assert (await client.get("/id", headers={"X-Request-ID": "mine"})).json() == "mine"


async def test_internal_error_has_request_id(app: FastAPI) -> None:
    """An unexpected error is reported as a problem with the request id, and without the error's text.

    `GatewayApp.build_middleware_stack()` adds the header outside of Starlette's error handler.
    """
    with capture_logs():  # drawing the traceback takes seconds
        async with client_of(app, FailingBriefService()) as client:
            response = await client.get(f"/v1/places/{ZURICH.id}/brief")

    assert response.status_code == 500
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["X-Request-ID"] in response.json()["detail"]
    assert "secret" not in response.text
