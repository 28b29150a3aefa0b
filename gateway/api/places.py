"""The search for places, and single places."""

from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel

from gateway.api.problem_types import DATABASE_UNAVAILABLE, INVALID_REQUEST, OVERLOADED, UNKNOWN_PLACE
from gateway.api.problems import ProblemError, problem_responses
from gateway.dependencies import Session
from gateway.places.queries import Place, get_place, search_places
from gateway.schema.tables import MAX_PLACE_ID

router = APIRouter(prefix="/v1/places", tags=["places"])

PlaceId = Annotated[int, Path(ge=1, le=MAX_PLACE_ID, description="The GeoNames id", examples=[2657896])]


class PlaceList(BaseModel):
    items: list[Place]


@router.get(
    "",
    operation_id="list_places",
    responses=problem_responses(INVALID_REQUEST, DATABASE_UNAVAILABLE, OVERLOADED),
)
async def find_places(
    session: Session,
    q: Annotated[
        str, Query(max_length=100, description="A prefix of the name or of its ASCII form", examples=["zur"])
    ] = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> PlaceList:
    """Find places by a prefix of their name, the most populous first."""
    return PlaceList(items=await search_places(await session.connection(), q, limit))


@router.get(
    "/{place_id}",
    operation_id="get_place",
    responses=problem_responses(UNKNOWN_PLACE, INVALID_REQUEST, DATABASE_UNAVAILABLE, OVERLOADED),
)
async def read_place(session: Session, place_id: PlaceId) -> Place:
    """Return one place."""
    place = await get_place(await session.connection(), place_id)
    if place is None:
        raise place_not_found(place_id)
    return place


def place_not_found(place_id: int) -> ProblemError:
    return ProblemError(UNKNOWN_PLACE, f"There is no place {place_id}. Find its id with /v1/places?q=name.")
