"""Observations that clients report about places."""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from gateway.api.body_limit import MAX_BODY_BYTES
from gateway.api.keys import KeyRequired, Reporter
from gateway.api.places import PlaceId, place_not_found
from gateway.api.problems import ProblemError, problem_responses
from gateway.dependencies import ObservationWriterDependency, Session
from gateway.observations.queries import Observation, get_observation, latest_observations
from gateway.observations.store import KeyInFlightError, KeyReusedError, NewObservation, UnknownPlaceError
from gateway.observations.writer import WriteRejectedError, WriteUnavailableError
from gateway.places.queries import get_place
from gateway.schema.tables import (
    MAX_NOTE_LENGTH,
    MAX_OBSERVATION_ID,
    MAX_TEMPERATURE_C,
    MIN_TEMPERATURE_C,
    Condition,
)

router = APIRouter(prefix="/v1/places/{place_id}/observations", tags=["observations"])

REPLAYED_HEADER = "Idempotency-Replayed"
RETRY_AFTER = {"Retry-After": "1"}
_ADVICE_WITH_KEY = "Send it again with the same Idempotency-Key; it will be stored only once."
_ADVICE_WITHOUT_KEY = "Look for it among the observations of the place before you send it again."

PROBLEMS = (HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE)


def _reject_nul(note: str) -> str:
    """Reject the NUL character, which PostgreSQL cannot store."""
    if "\0" in note:
        raise ValueError("should not contain a NUL character")
    return note


class ObservationCreate(BaseModel):
    """The weather at a place as the client observes it."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"temperature_c": 12.5, "condition": "rain"}]}
    )

    temperature_c: Annotated[float, Field(strict=True, ge=MIN_TEMPERATURE_C, le=MAX_TEMPERATURE_C)]
    condition: Condition
    note: Annotated[str, Field(max_length=MAX_NOTE_LENGTH), AfterValidator(_reject_nul)] | None = None


class ObservationList(BaseModel):
    items: list[Observation]


IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern="^[!-~]+$",
        description="An id of your choice for this report, in visible ASCII, such as a UUID. With it, you can send the same "
        "report again until there is a response: it is stored once. Each API key has its own ids, for each place.",
    ),
]
ObservationId = Annotated[int, Path(ge=1, le=MAX_OBSERVATION_ID)]


def _described_problem(status: HTTPStatus, description: str) -> dict[int | str, dict[str, Any]]:
    """Return the responses with one status, for the OpenAPI, and the reasons for it."""
    return {status.value: problem_responses(status)[status.value] | {"description": description}}


@router.post(
    "",
    max_body_size=MAX_BODY_BYTES,
    status_code=HTTPStatus.CREATED,
    dependencies=[KeyRequired],  # before all other dependencies
    responses={
        HTTPStatus.CREATED.value: {
            "headers": {
                "Location": {"description": "The path of the observation", "schema": {"type": "string"}},
                REPLAYED_HEADER: {
                    "description": "Present if an earlier request with this Idempotency-Key has stored the observation",
                    "schema": {"type": "string", "enum": ["true"]},
                },
            },
        },
        **problem_responses(
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.UNAUTHORIZED,
            HTTPStatus.FORBIDDEN,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            *PROBLEMS,
        ),
        **_described_problem(HTTPStatus.CONFLICT, "An earlier request with this Idempotency-Key is in progress"),
        **_described_problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "The request is invalid, or its Idempotency-Key was used for another report",
        ),
    },
)
async def report_observation(
    request: Request,
    response: Response,
    writer: ObservationWriterDependency,
    place_id: PlaceId,
    reported: ObservationCreate,
    *,
    reporter: Reporter,
    idempotency_key: IdempotencyKey = None,
) -> Observation:
    """Report an observation. After a response with 201 it is never lost, and it is counted once."""
    report = NewObservation(place_id, reported.temperature_c, reported.condition, reported.note, reporter)
    try:
        observation, is_new = await writer.write(report, idempotency_key)
    except UnknownPlaceError:
        raise place_not_found(place_id) from None
    except KeyReusedError:
        detail = "This Idempotency-Key was used for another report about this place. Send this report with a new key."
        raise ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, detail) from None
    except KeyInFlightError:
        detail = "An earlier request with this Idempotency-Key is in progress. Send this one again in a second."
        raise ProblemError(HTTPStatus.CONFLICT, detail, headers=RETRY_AFTER) from None
    except WriteRejectedError as error:
        # An earlier request with the same key may still be in progress, or have been stored.
        advice = "Send it again in a second" + (", with the same Idempotency-Key." if idempotency_key else ".")
        detail = f"{error}. This request has stored nothing. {advice}"
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers=RETRY_AFTER) from error
    except WriteUnavailableError as error:
        advice = _ADVICE_WITH_KEY if idempotency_key else _ADVICE_WITHOUT_KEY
        detail = f"{error}. The report may have been stored. {advice}"
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers=RETRY_AFTER) from error
    if not is_new:
        response.headers[REPLAYED_HEADER] = "true"
    root_path = request.scope["root_path"].rstrip("/")  # the prefix that a proxy has removed from the path
    response.headers["Location"] = f"{root_path}/v1/places/{place_id}/observations/{observation.id}"
    return observation


@router.get("", responses=problem_responses(*PROBLEMS))
async def get_observations(
    session: Session, place_id: PlaceId, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> ObservationList:
    """List the observations of a place, the latest first."""
    connection = await session.connection()
    if await get_place(connection, place_id) is None:
        raise place_not_found(place_id)
    return ObservationList(items=await latest_observations(connection, place_id, limit))


@router.get("/{observation_id}", responses=problem_responses(*PROBLEMS))
async def read_observation(session: Session, place_id: PlaceId, observation_id: ObservationId) -> Observation:
    """Return one observation."""
    observation = await get_observation(await session.connection(), place_id, observation_id)
    if observation is None:
        raise ProblemError(HTTPStatus.NOT_FOUND, f"There is no observation {observation_id} of place {place_id}.")
    return observation
