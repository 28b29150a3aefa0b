"""Observations that clients report about places."""

import re
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from struct import Struct
from typing import Annotated

import orjson
from fastapi import APIRouter, FastAPI, Header, Path, Request, Response
from fastapi.routing import APIRoute
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter
from starlette.requests import ClientDisconnect

from gateway.api import problem_types
from gateway.api.caching import CONDITIONAL, cached_responses
from gateway.api.keys import KEY_REQUIRED, KeyFirstRoute, get_reporter
from gateway.api.pages import (
    Cursor,
    Limit,
    NextPage,
    decode_cursor,
    encode_cursor,
    invalid_cursor,
    link_next_page,
    public_path,
)
from gateway.api.places import PlaceId, place_not_found
from gateway.api.problems import ProblemError, problem_responses
from gateway.api.request_model import RequestModel
from gateway.api.response_headers import header_references
from gateway.api.routes import CachedRoute, Handler, StrictRoute
from gateway.dependencies import Session, get_services
from gateway.observations.queries import (
    BEFORE_ALL_OBSERVATIONS,
    Observation,
    ObservationPosition,
    get_observation,
    latest_observations,
)
from gateway.observations.reports import KeyInFlightError, KeyReusedError, NewObservation, UnknownPlaceError
from gateway.observations.writer import WriteRejectedError, WriteUnavailableError
from gateway.places.queries import get_place
from gateway.schema.tables import (
    MAX_NOTE_LENGTH,
    MAX_OBSERVATION_ID,
    MAX_TEMPERATURE_C,
    MIN_TEMPERATURE_C,
    Condition,
)

PATH = "/v1/places/{place_id}/observations"


class ReadingRoute(CachedRoute, StrictRoute):
    """A route with headers for caches, without unknown query parameters."""


router = APIRouter(prefix=PATH, tags=["observations"], route_class=ReadingRoute)

MAX_BODY_BYTES = 16 * 1024  # a note of the maximum length needs 12,000 bytes if each character is escaped

MAX_CLOCK_ERROR = timedelta(minutes=5)  # of a client whose clock is ahead
MAX_AGE = timedelta(days=7)  # a client may be offline during a journey; older reports would displace current ones

_CURSOR = Struct(">qq")  # the microseconds from _EPOCH to the creation, and the id
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)

READING_PROBLEMS = (
    problem_types.INVALID_REQUEST,
    problem_types.DATABASE_UNAVAILABLE,
    problem_types.OVERLOADED,
)

REPLAYED_HEADER = "Idempotency-Replayed"
_ADVICE_WITH_KEY = "Send it again with the same Idempotency-Key; it will be stored only once."
_ADVICE_WITHOUT_KEY = "Look for it among the observations of the place before you send it again."


def _reject_nul(note: str) -> str:
    """Reject the NUL character, which PostgreSQL cannot store."""
    if "\0" in note:
        raise ValueError("should not contain a NUL character")
    return note


def _require_offset(value: object) -> object:
    """Reject times without an offset, and the other formats that pydantic accepts, such as seconds since 1970."""
    if value is None or (isinstance(value, str) and _RFC_3339.fullmatch(value)):
        return value
    raise ValueError("should be a time with an offset, like 2026-11-24T14:15:00+01:00 or 2026-11-24T13:15:00Z")


def _check_age(observed_at: datetime) -> datetime:
    age = datetime.now(UTC) - observed_at
    if age < -MAX_CLOCK_ERROR:
        raise ValueError("should not be in the future; correct the clock or the offset")
    if age > MAX_AGE:
        raise ValueError(f"should be at most {MAX_AGE.days} days ago")
    return observed_at


class ObservationCreate(RequestModel):
    """The weather at a place as the client observes it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"temperature_c": 12.5, "condition": "rain"}]})

    temperature_c: Annotated[float, Field(strict=True, ge=MIN_TEMPERATURE_C, le=MAX_TEMPERATURE_C)]
    condition: Condition
    note: Annotated[str, Field(max_length=MAX_NOTE_LENGTH), AfterValidator(_reject_nul)] | None = None
    observed_at: Annotated[
        Annotated[datetime, AfterValidator(_check_age)] | None,
        BeforeValidator(_require_offset),
        Field(description=f"The time of the observation, with an offset from UTC, at most {MAX_AGE.days} days ago"),
    ] = None


class ObservationList(BaseModel):
    items: list[Observation]
    next: NextPage


IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern="^[!-~]+$",
        examples=["5b7a2f52-3f0c-4a0e-9f59-0d1f1c1f4d55"],
        description="An id of your choice for this report, in visible ASCII, such as a UUID. With it, you can send the same "
        "report again until there is a response: it is stored once. Each API key has its own ids, for each place.",
    ),
]
ObservationId = Annotated[
    int, Path(ge=1, le=MAX_OBSERVATION_ID, description="The `id` of the observation", examples=[1])
]


_PLACE_ID: TypeAdapter[int] = TypeAdapter(PlaceId)
_IDEMPOTENCY_KEY: TypeAdapter[str | None] = TypeAdapter(IdempotencyKey)


class DirectRoute(APIRoute):
    """A route that validates a report itself. FastAPI handles only invalid ones, and describes their errors.

    To find and validate the parameters, FastAPI takes a seventh of the CPU time of a write (docs/performance.md).
    """

    def get_route_handler(self) -> Handler:
        handle_with_fastapi = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                place_id = _PLACE_ID.validate_python(request.path_params["place_id"])
                idempotency_key = _IDEMPOTENCY_KEY.validate_python(request.headers.get("Idempotency-Key"))
                reported = ObservationCreate.model_validate(await request.json())
            except (ValueError, RecursionError, ClientDisconnect):
                return await handle_with_fastapi(request)
            return await report_observation(request, place_id, reported, idempotency_key=idempotency_key)

        return handle


class ReportRoute(KeyFirstRoute, StrictRoute, DirectRoute):
    """A route that verifies the key first, then the media type, and then the report."""


def add_routes(app: FastAPI) -> None:
    """Add the route of reports to the app itself, as `briefs.add_routes()` does."""
    app.router.add_api_route(
        PATH,
        report_observation,
        methods=["POST"],
        route_class_override=ReportRoute,
        tags=["observations"],
        max_body_size=MAX_BODY_BYTES,
        summary="Report an observation",
        status_code=HTTPStatus.CREATED,
        response_model=Observation,
        openapi_extra=KEY_REQUIRED,
        responses={
            HTTPStatus.CREATED.value: {"headers": header_references("Location", REPLAYED_HEADER)},
            **problem_responses(
                problem_types.MALFORMED_REQUEST,
                problem_types.API_KEY_REQUIRED,
                problem_types.FORBIDDEN,
                problem_types.UNKNOWN_PLACE,
                problem_types.REPORT_IN_PROGRESS,
                problem_types.IDEMPOTENCY_KEY_REUSED,
                problem_types.BODY_TOO_LARGE,
                problem_types.UNSUPPORTED_MEDIA_TYPE,
                problem_types.INVALID_REQUEST,
                problem_types.NOT_STORED,
                problem_types.OUTCOME_UNKNOWN,
            ),
        },
    )


async def report_observation(
    request: Request,
    place_id: PlaceId,
    reported: ObservationCreate,
    *,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Report an observation. After a response with 201 it is never lost, and it is counted once."""
    report = NewObservation(place_id, **reported.model_dump(), reporter=get_reporter(request))
    try:
        observation, is_new = await get_services(request).writer.write(report, idempotency_key)
    except UnknownPlaceError:
        raise place_not_found(place_id) from None
    except KeyReusedError:
        detail = "This Idempotency-Key was used for another report about this place. Send this report with a new key."
        raise ProblemError(problem_types.IDEMPOTENCY_KEY_REUSED, detail) from None
    except KeyInFlightError:
        detail = "An earlier request with this Idempotency-Key is in progress. Send this one again in a second."
        raise ProblemError(problem_types.REPORT_IN_PROGRESS, detail) from None
    except WriteRejectedError as error:
        # An earlier request with the same key may still be in progress, or have been stored.
        advice = "Send it again in a second" + (", with the same Idempotency-Key." if idempotency_key else ".")
        detail = f"{error}. This request has stored nothing. {advice}"
        raise ProblemError(problem_types.NOT_STORED, detail) from error
    except WriteUnavailableError as error:
        advice = _ADVICE_WITH_KEY if idempotency_key else _ADVICE_WITHOUT_KEY
        raise ProblemError(
            problem_types.OUTCOME_UNKNOWN, f"{error}. The report may have been stored. {advice}"
        ) from error
    headers = {"Location": public_path(request, f"/v1/places/{place_id}/observations/{observation.id}")}
    if not is_new:
        headers[REPLAYED_HEADER] = "true"
    return Response(
        orjson.dumps(observation, option=orjson.OPT_UTC_Z), HTTPStatus.CREATED, headers, media_type="application/json"
    )


@router.get(
    "",
    operation_id="list_observations",
    summary="List observations",
    openapi_extra=CONDITIONAL,
    responses={**cached_responses("Link"), **problem_responses(problem_types.UNKNOWN_PLACE, *READING_PROBLEMS)},
)
async def get_observations(
    request: Request,
    response: Response,
    session: Session,
    place_id: PlaceId,
    *,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> ObservationList:
    """List the observations of a place, the latest first."""
    after = BEFORE_ALL_OBSERVATIONS if cursor is None else _decode_position(cursor)
    connection = await session.connection()
    if await get_place(connection, place_id) is None:
        raise place_not_found(place_id)
    found = await latest_observations(connection, place_id, limit + 1, after)
    items = found[:limit]
    next_page = None
    if len(found) > limit:
        path = f"/v1/places/{place_id}/observations"
        next_page = link_next_page(request, response, path, limit=limit, cursor=_encode_position(items[-1]))
    return ObservationList(items=items, next=next_page)


@router.get(
    "/{observation_id}",
    operation_id="get_observation",
    summary="Get an observation",
    openapi_extra=CONDITIONAL,
    responses={
        **cached_responses(),
        **problem_responses(problem_types.UNKNOWN_OBSERVATION, *READING_PROBLEMS),
    },
)
async def read_observation(session: Session, place_id: PlaceId, observation_id: ObservationId) -> Observation:
    """Return one observation."""
    observation = await get_observation(await session.connection(), place_id, observation_id)
    if observation is None:
        raise ProblemError(
            problem_types.UNKNOWN_OBSERVATION, f"There is no observation {observation_id} of place {place_id}."
        )
    return observation


def _encode_position(observation: Observation) -> str:
    microseconds = (observation.created_at - _EPOCH) // timedelta(microseconds=1)
    return encode_cursor(_CURSOR, microseconds, observation.id)


def _decode_position(cursor: str) -> ObservationPosition:
    microseconds, observation_id = decode_cursor(_CURSOR, cursor)
    try:
        return ObservationPosition(_EPOCH + timedelta(microseconds=microseconds), observation_id)
    except OverflowError:  # a time after the year 9999
        raise invalid_cursor() from None
