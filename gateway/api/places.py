"""The search for places, and single places."""

from struct import Struct
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel

from gateway.api.caching import CONDITIONAL, cached_responses
from gateway.api.pages import Cursor, Limit, NextPage, decode_cursor, encode_cursor, link_next_page
from gateway.api.problem_types import DATABASE_UNAVAILABLE, INVALID_REQUEST, OVERLOADED, UNKNOWN_PLACE
from gateway.api.problems import ProblemError, problem_responses
from gateway.api.routes import CachedRoute, StrictRoute
from gateway.dependencies import Session
from gateway.places.queries import BEFORE_ALL_PLACES, Place, PlacePosition, get_place, search_places
from gateway.schema.tables import MAX_PLACE_ID


class PlaceRoute(CachedRoute, StrictRoute):
    """A route of places. Only the observation count of a place changes often, and the worker updates it with a delay anyway."""

    cache_control = "public, max-age=10"


router = APIRouter(prefix="/v1/places", tags=["places"], route_class=PlaceRoute)

_CURSOR = Struct(">ii")  # the population and the id

PlaceId = Annotated[int, Path(ge=1, le=MAX_PLACE_ID, description="The GeoNames id", examples=[2657896])]


class PlaceList(BaseModel):
    items: list[Place]
    next: NextPage


@router.get(
    "",
    operation_id="list_places",
    summary="Find places",
    openapi_extra=CONDITIONAL,
    responses={
        **cached_responses("Link"),
        **problem_responses(INVALID_REQUEST, DATABASE_UNAVAILABLE, OVERLOADED),
    },
)
async def find_places(
    request: Request,
    response: Response,
    session: Session,
    *,
    q: Annotated[
        str, Query(max_length=100, description="A prefix of the name or of its ASCII form", examples=["zur"])
    ] = "",
    limit: Limit = 20,
    cursor: Cursor = None,
) -> PlaceList:
    """Find places by a prefix of their name, the most populous first."""
    after = BEFORE_ALL_PLACES if cursor is None else PlacePosition(*decode_cursor(_CURSOR, cursor))
    found = await search_places(await session.connection(), q, limit + 1, after)
    items = found[:limit]
    next_page = None
    if len(found) > limit:
        next_cursor = encode_cursor(_CURSOR, items[-1].population, items[-1].id)
        next_page = link_next_page(request, response, router.prefix, q=q, limit=limit, cursor=next_cursor)
    return PlaceList(items=items, next=next_page)


@router.get(
    "/{place_id}",
    operation_id="get_place",
    summary="Get a place",
    openapi_extra=CONDITIONAL,
    responses={
        **cached_responses(),
        **problem_responses(UNKNOWN_PLACE, INVALID_REQUEST, DATABASE_UNAVAILABLE, OVERLOADED),
    },
)
async def read_place(session: Session, place_id: PlaceId) -> Place:
    """Return one place."""
    place = await get_place(await session.connection(), place_id)
    if place is None:
        raise place_not_found(place_id)
    return place


def place_not_found(place_id: int) -> ProblemError:
    return ProblemError(UNKNOWN_PLACE, f"There is no place {place_id}. Find its id with /v1/places?q=name.")
