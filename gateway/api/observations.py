"""What people report about places."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from gateway.api.body_limit import LARGEST_BODY
from gateway.api.keys import KeyRequired
from gateway.api.places import PlaceId, unknown
from gateway.api.problems import ProblemError, documented
from gateway.dependencies import ReportsDependency, Session
from gateway.observations.queries import Observation, latest_observations, observation_of
from gateway.observations.reporting import KeyReusedError, Report, UnknownPlaceError
from gateway.observations.reports import ReportsUnavailableError
from gateway.places.queries import get
from gateway.schema.tables import (
    HIGHEST_TEMPERATURE_C,
    LARGEST_OBSERVATION_ID,
    LONGEST_NOTE,
    LOWEST_TEMPERATURE_C,
    Condition,
)

router = APIRouter(prefix="/v1/places/{place_id}/observations", tags=["observations"])

PROBLEMS = (HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE)


def _storable(note: str) -> str:
    if "\0" in note:
        raise ValueError("should have no NUL character")
    return note


class Reported(BaseModel):
    """What somebody saw."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"temperature_c": 12.5, "condition": "rain"}]}
    )

    temperature_c: Annotated[float, Field(strict=True, ge=LOWEST_TEMPERATURE_C, le=HIGHEST_TEMPERATURE_C)]
    condition: Condition
    note: Annotated[str, Field(max_length=LONGEST_NOTE), AfterValidator(_storable)] | None = None


class Observations(BaseModel):
    items: list[Observation]


IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern="^[!-~]+$",
        description="A name of your choice for this report, in visible ASCII: sent again with it, it is stored once",
    ),
]
ObservationId = Annotated[int, Path(ge=1, le=LARGEST_OBSERVATION_ID)]


@router.post(
    "",
    max_body_size=LARGEST_BODY,
    status_code=HTTPStatus.CREATED,
    dependencies=[KeyRequired],
    responses={
        HTTPStatus.CREATED.value: {
            "headers": {"Location": {"description": "Where it is", "schema": {"type": "string"}}},
        },
        **documented(
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.UNAUTHORIZED,
            HTTPStatus.FORBIDDEN,
            HTTPStatus.CONFLICT,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            *PROBLEMS,
        ),
    },
)
async def report_observation(
    reports: ReportsDependency,
    place_id: PlaceId,
    reported: Reported,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> Observation:
    """Report what you see. Once it is answered with 201 it is never lost, and it is counted once."""
    report = Report(place_id, reported.temperature_c, reported.condition, reported.note)
    try:
        observation = await reports.take(report, idempotency_key)
    except UnknownPlaceError:
        raise unknown(place_id) from None
    except KeyReusedError:
        detail = "This Idempotency-Key belongs to another report. Send this one with a key of its own."
        raise ProblemError(HTTPStatus.CONFLICT, detail) from None
    except ReportsUnavailableError as error:
        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "The database did not answer. The report may have been stored: send it again with the same "
            "Idempotency-Key, and it is stored once.",
            headers={"Retry-After": "1"},
        ) from error
    response.headers["Location"] = f"/v1/places/{place_id}/observations/{observation.id}"
    return observation


@router.get("", responses=documented(*PROBLEMS))
async def get_observations(
    session: Session, place_id: PlaceId, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> Observations:
    """What was reported about a place; the latest first."""
    connection = await session.connection()
    if await get(connection, place_id) is None:
        raise unknown(place_id)
    return Observations(items=await latest_observations(connection, place_id, limit))


@router.get("/{observation_id}", responses=documented(*PROBLEMS))
async def get_observation(session: Session, place_id: PlaceId, observation_id: ObservationId) -> Observation:
    """One observation."""
    observation = await observation_of(await session.connection(), place_id, observation_id)
    if observation is None:
        raise ProblemError(HTTPStatus.NOT_FOUND, f"There is no observation {observation_id} of place {place_id}.")
    return observation
