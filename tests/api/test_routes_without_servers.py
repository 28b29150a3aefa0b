"""Routes without servers: an example to copy.

What a route works with comes with its request, in the state that the lifespan yielded, so a test gives the app another
state. Nothing is entered, nothing is patched, and no server is needed. What the resources really do is for the tests against
real servers.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
from fastapi import FastAPI

from gateway.app import create_app
from gateway.briefs.models import Brief, Outlook, Popularity, Reason, Section, Sections, Status
from gateway.briefs.place_loader import PlaceUnavailableError
from gateway.dependencies import RequestId
from gateway.places.queries import Place
from gateway.serving.lifespan_manager import StatefulApp
from gateway.settings import Settings

ZURICH = Place(2657896, "Zürich", "Zurich", "CH", "ZH", 47.36667, 8.55, 415367, "Europe/Zurich", 3)


def without_weather(place: Place) -> Brief:
    """A brief whose weather took too long."""
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


class BriefsOfOnePlace:
    """Stands in for `Briefs`: it knows Zürich, and its database is away when it is asked for place 2."""

    async def get(self, place_id: int) -> Brief | None:
        if place_id == 2:
            raise PlaceUnavailableError(Reason.REFUSED)
        return without_weather(ZURICH) if place_id == ZURICH.id else None


class BrokenBriefs:
    async def get(self, _place_id: int) -> Brief | None:
        raise ZeroDivisionError("a secret that nobody should see")


@dataclass
class GatewayWithBriefs:
    """Stands in for the `Gateway` that the lifespan yields: it has what the routes under test use."""

    briefs: BriefsOfOnePlace | BrokenBriefs


def client_of(app: FastAPI, briefs: BriefsOfOnePlace | BrokenBriefs) -> httpx.AsyncClient:
    started = StatefulApp(app, {"services": GatewayWithBriefs(briefs)})
    return httpx.AsyncClient(transport=httpx.ASGITransport(started), base_url="http://gateway")


@pytest.fixture
def app() -> FastAPI:
    return create_app(Settings())


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app, BriefsOfOnePlace()) as client:
        yield client


async def test_a_brief_says_in_its_headers_what_its_body_says(client: httpx.AsyncClient) -> None:
    response = await client.get(f"/v1/places/{ZURICH.id}/brief")

    assert response.status_code == 200
    assert response.json()["complete"] is False
    assert response.headers["Gateway-Complete"] == "false"
    assert response.headers["Gateway-Incomplete"] == "weather;reason=timeout, outlook;reason=no_weather"
    assert response.headers["Gateway-Stale"] == "popularity"


@pytest.mark.parametrize(("place_id", "status"), [(1, 404), (2, 503)])
async def test_what_cannot_be_answered_is_a_problem(client: httpx.AsyncClient, place_id: int, status: int) -> None:
    response = await client.get(f"/v1/places/{place_id}/brief")

    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"


async def test_a_route_may_ask_for_the_id_of_its_request(app: FastAPI, client: httpx.AsyncClient) -> None:
    @app.get("/id")
    async def show(request_id: RequestId) -> str:
        return request_id

    assert (await client.get("/id", headers={"X-Request-ID": "mine"})).json() == "mine"


async def test_a_mistake_of_ours_is_a_problem_with_a_request_id(app: FastAPI) -> None:
    async with client_of(app, BrokenBriefs()) as client:
        response = await client.get(f"/v1/places/{ZURICH.id}/brief")

    assert response.status_code == 500
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["X-Request-ID"] in response.json()["detail"]
    assert "secret" not in response.text
