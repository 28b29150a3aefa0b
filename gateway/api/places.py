"""Places, and the briefs about them."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel

from gateway.api.problems import ProblemError, documented
from gateway.briefs.briefs import Brief
from gateway.briefs.sections import Section, Status
from gateway.dependencies import BriefsDependency, Session
from gateway.places.queries import Place, get, search
from gateway.schema.tables import LARGEST_PLACE_ID

router = APIRouter(prefix="/v1/places", tags=["places"])

PlaceId = Annotated[int, Path(ge=1, le=LARGEST_PLACE_ID, description="GeoNames' id", examples=[2657896])]


class Places(BaseModel):
    items: list[Place]


@router.get("", responses=documented(HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE))
async def find_places(
    session: Session,
    q: Annotated[str, Query(max_length=100, description="What the name, or its ASCII form, begins with")] = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Places:
    """Find places by the beginning of their name; the most populous first."""
    return Places(items=await search(await session.connection(), q, limit))


@router.get(
    "/{place_id}",
    responses=documented(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def get_place(session: Session, place_id: PlaceId) -> Place:
    """One place."""
    place = await get(await session.connection(), place_id)
    if place is None:
        raise _unknown(place_id)
    return place


@router.get(
    "/{place_id}/brief",
    responses=documented(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def get_brief(briefs: BriefsDependency, place_id: PlaceId, response: Response) -> Brief:
    """All that is known about a place, from all backends at once; what does not answer in time is left out, and said."""
    brief = await briefs.about(place_id)
    if brief is None:
        raise _unknown(place_id)
    response.headers.update(_completeness(brief))
    return brief


def _unknown(place_id: int) -> ProblemError:
    return ProblemError(HTTPStatus.NOT_FOUND, f"There is no place {place_id}. Find its id with /v1/places?q=name.")


def _completeness(brief: Brief) -> dict[str, str]:
    """The headers that say what the body says, for those who do not look into it."""
    sections: dict[str, Section[object]] = dict(brief.sections)
    missing = [f"{name};reason={it.reason}" for name, it in sections.items() if it.status is Status.UNAVAILABLE]
    stale = [name for name, section in sections.items() if section.status is Status.STALE]
    headers = {"Gateway-Complete": "true" if brief.complete else "false"}
    if missing:
        headers["Gateway-Incomplete"] = ", ".join(missing)
    if stale:
        headers["Gateway-Stale"] = ", ".join(stale)
    return headers
