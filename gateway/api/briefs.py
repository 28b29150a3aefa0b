"""Briefs: all that is known about places, from all backends at once. What does not answer in time is left out, and said."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from gateway.api.departures import while_connected
from gateway.api.places import PlaceId, unknown
from gateway.api.problems import documented
from gateway.briefs.briefs import Brief
from gateway.briefs.sections import Status
from gateway.dependencies import BriefsDependency
from gateway.schema.tables import LARGEST_PLACE_ID

router = APIRouter(prefix="/v1", tags=["briefs"])

MOST_PLACES = 20


class ManyBriefs(BaseModel):
    """Several briefs, in the order in which they were asked for, each once."""

    items: list[Brief]
    unknown: list[int] = Field(description="The ids that are of no place")


@router.get(
    "/places/{place_id}/brief",
    responses=documented(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def get_brief(briefs: BriefsDependency, place_id: PlaceId, request: Request, response: Response) -> Brief:
    """All that is known about a place."""
    with while_connected(request):
        brief = await briefs.about(place_id)
    if brief is None:
        raise unknown(place_id)
    response.headers.update(_completeness([brief]))
    return brief


@router.get("/briefs", responses=documented(HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE))
async def get_briefs(
    briefs: BriefsDependency,
    place: Annotated[
        list[Annotated[int, Field(ge=1, le=LARGEST_PLACE_ID)]],
        Query(min_length=1, max_length=MOST_PLACES, description="GeoNames' ids", examples=[[2657896, 2661552]]),
    ],
    request: Request,
    response: Response,
) -> ManyBriefs:
    """All that is known about several places, for no more calls to the backends than one takes."""
    place_ids = list(dict.fromkeys(place))
    with while_connected(request):
        found = await briefs.about_all(place_ids)
    items = [brief for brief in found if brief is not None]
    response.headers.update(_completeness(items))
    return ManyBriefs(
        items=items, unknown=[place_id for place_id, brief in zip(place_ids, found, strict=True) if brief is None]
    )


def _completeness(briefs: Iterable[Brief]) -> dict[str, str]:
    """The headers that say what the bodies say, for those who do not look into them."""
    missing: dict[str, None] = {}
    stale: dict[str, None] = {}
    for brief in briefs:
        for name, section in brief.sections:
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
