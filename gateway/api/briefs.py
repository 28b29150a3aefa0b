"""Briefs: all that is known about places, from all backends at once. What does not answer in time is left out, and said."""

from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

import orjson
from fastapi import FastAPI, Query, Request, Response
from pydantic import Field

from gateway.api.disconnect import cancel_on_disconnect
from gateway.api.places import PlaceId, unknown
from gateway.api.problems import problem_responses
from gateway.briefs.models import Brief, Status
from gateway.dependencies import get_services
from gateway.schema.tables import MAX_PLACE_ID

MOST_PLACES = 20


@dataclass(frozen=True)
class BriefList:
    """Several briefs, in the order in which they were asked for, each once."""

    items: list[Brief]
    unknown: Annotated[list[int], Field(description="The ids that are of no place")]


def add_routes(app: FastAPI) -> None:
    """Add them as the app's own. The routes of a router that it includes are matched twice: see docs/performance.md."""
    app.get(
        "/v1/places/{place_id}/brief",
        tags=["briefs"],
        response_model=Brief,
        responses=problem_responses(
            HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE
        ),
    )(get_brief)
    app.get(
        "/v1/briefs",
        tags=["briefs"],
        response_model=BriefList,
        responses=problem_responses(HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
    )(get_briefs)


async def get_brief(place_id: PlaceId, request: Request) -> Response:
    """All that is known about a place."""
    with cancel_on_disconnect(request):
        brief = await get_services(request).briefs.get(place_id)
    if brief is None:
        raise unknown(place_id)
    return _answer(brief, [brief])


async def get_briefs(
    place: Annotated[
        list[Annotated[int, Field(ge=1, le=MAX_PLACE_ID)]],
        Query(min_length=1, max_length=MOST_PLACES, description="GeoNames' ids", examples=[[2657896, 2661552]]),
    ],
    request: Request,
) -> Response:
    """All that is known about several places, for no more calls to the backends than one takes."""
    place_ids = list(dict.fromkeys(place))
    with cancel_on_disconnect(request):
        found = await get_services(request).briefs.get_many(place_ids)
    items = [brief for brief in found if brief is not None]
    of_no_place = [place_id for place_id, brief in zip(place_ids, found, strict=True) if brief is None]
    return _answer(BriefList(items, of_no_place), items)


def _answer(body: Brief | BriefList, briefs: Iterable[Brief]) -> Response:
    """The body as JSON. It is typed throughout: to validate it once more would take longer than all that made it."""
    content = orjson.dumps(body, option=orjson.OPT_UTC_Z)
    return Response(content, headers=_completeness(briefs), media_type="application/json")


def _completeness(briefs: Iterable[Brief]) -> dict[str, str]:
    """The headers that say what the bodies say, for those who do not look into them."""
    missing: dict[str, None] = {}
    stale: dict[str, None] = {}
    for brief in briefs:
        for name, section in brief.sections.items():
            if section.status is Status.UNAVAILABLE:
                missing[f"{name};reason={section.reason}"] = None
            elif section.status is Status.STALE:
                stale[name] = None
    headers = {"Gateway-Complete": "false" if missing else "true"}
    if missing:
        headers["Gateway-Incomplete"] = ", ".join(missing)
    if stale:
        headers["Gateway-Stale"] = ", ".join(stale)
    return headers
