"""Places."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel

from gateway.api.problems import ProblemError, problem_responses
from gateway.dependencies import Session
from gateway.places import queries
from gateway.places.queries import Place
from gateway.schema.tables import MAX_PLACE_ID

router = APIRouter(prefix="/v1/places", tags=["places"])

PlaceId = Annotated[int, Path(ge=1, le=MAX_PLACE_ID, description="GeoNames' id", examples=[2657896])]


class Places(BaseModel):
    items: list[Place]


@router.get("", responses=problem_responses(HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE))
async def find_places(
    session: Session,
    q: Annotated[str, Query(max_length=100, description="What the name, or its ASCII form, begins with")] = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Places:
    """Find places by the beginning of their name; the most populous first."""
    return Places(items=await queries.search_places(await session.connection(), q, limit))


@router.get(
    "/{place_id}",
    responses=problem_responses(HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def get_place(session: Session, place_id: PlaceId) -> Place:
    """One place."""
    place = await queries.get_place(await session.connection(), place_id)
    if place is None:
        raise unknown(place_id)
    return place


def unknown(place_id: int) -> ProblemError:
    return ProblemError(HTTPStatus.NOT_FOUND, f"There is no place {place_id}. Find its id with /v1/places?q=name.")
