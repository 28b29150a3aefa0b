"""Briefs: weather, outlook, observations and popularity of places, from all backends concurrently.

A section whose backend does not respond in time is missing, and the response reports that.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

import orjson
from fastapi import FastAPI, Query, Request, Response
from pydantic import Field

from gateway.api.caching import NO_CACHE, NO_STORE
from gateway.api.disconnect import CancelOnDisconnect
from gateway.api.places import PlaceId, place_not_found
from gateway.api.problem_types import DATABASE_UNAVAILABLE, INVALID_REQUEST, OVERLOADED, UNKNOWN_PLACE
from gateway.api.problems import problem_responses
from gateway.api.response_headers import header_references
from gateway.briefs.models import Brief, Status
from gateway.dependencies import get_services
from gateway.schema.tables import MAX_PLACE_ID

MAX_PLACES = 20

HEADERS = header_references("Gateway-Complete", "Gateway-Incomplete", "Gateway-Stale")


@dataclass(frozen=True)
class BriefList:
    """Several briefs, in the order of the request, without duplicates."""

    items: list[Brief]
    unknown: Annotated[list[int], Field(description="The ids without a place")]


def add_routes(app: FastAPI) -> None:
    """Add the routes to the app itself: FastAPI matches those of an included router twice (docs/performance.md)."""
    app.get(
        "/v1/places/{place_id}/brief",
        tags=["briefs"],
        summary="Get a brief",
        response_model=Brief,
        responses={
            HTTPStatus.OK.value: {"headers": HEADERS},
            **problem_responses(UNKNOWN_PLACE, INVALID_REQUEST, DATABASE_UNAVAILABLE, OVERLOADED),
        },
    )(get_brief)
    app.get(
        "/v1/briefs",
        tags=["briefs"],
        operation_id="list_briefs",
        summary="Get several briefs",
        response_model=BriefList,
        responses={
            HTTPStatus.OK.value: {"headers": HEADERS},
            **problem_responses(INVALID_REQUEST, DATABASE_UNAVAILABLE, OVERLOADED),
        },
    )(get_briefs)


async def get_brief(place_id: PlaceId, request: Request) -> Response:
    """Return the brief of a place."""
    with CancelOnDisconnect(request):
        brief = await get_services(request).briefs.get(place_id, request.scope.get("arrived_at"))
    if brief is None:
        raise place_not_found(place_id)
    return _json_response(brief, [brief])


async def get_briefs(
    place: Annotated[
        list[Annotated[int, Field(ge=1, le=MAX_PLACE_ID)]],
        Query(min_length=1, max_length=MAX_PLACES, description="GeoNames ids", examples=[[2657896, 2661552]]),
    ],
    request: Request,
) -> Response:
    """Return the briefs of several places. They cost the backends no more calls than one brief."""
    place_ids = list(dict.fromkeys(place))
    with CancelOnDisconnect(request):
        found = await get_services(request).briefs.get_many(place_ids, request.scope.get("arrived_at"))
    items = [brief for brief in found if brief is not None]
    unknown = [place_id for place_id, brief in zip(place_ids, found, strict=True) if brief is None]
    return _json_response(BriefList(items, unknown), items)


def _json_response(body: Brief | BriefList, briefs: Iterable[Brief]) -> Response:
    """Serialise without FastAPI's validation of responses, which takes longer than the rest of the request."""
    content = orjson.dumps(body, option=orjson.OPT_UTC_Z)
    return Response(content, headers=_headers(briefs), media_type="application/json")


def _headers(briefs: Iterable[Brief]) -> dict[str, str]:
    """Return the headers for caches, and those that report missing and stale sections to clients that do not parse the body."""
    missing: dict[str, None] = {}
    stale: dict[str, None] = {}
    for brief in briefs:
        for name, section in brief.sections.items():
            if section.status is Status.UNAVAILABLE:
                missing[f"{name};reason={section.reason}"] = None
            elif section.status is Status.STALE:
                stale[name] = None
    headers = {
        "Cache-Control": NO_STORE if missing else NO_CACHE,
        "Gateway-Complete": "false" if missing else "true",
    }
    if missing:
        headers["Gateway-Incomplete"] = ", ".join(missing)
    if stale:
        headers["Gateway-Stale"] = ", ".join(stale)
    return headers
