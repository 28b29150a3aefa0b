"""Predictions of the model for any weather."""

from datetime import date
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.config import JsonDict

from gateway.api.body_limit import MAX_BODY_BYTES
from gateway.api.problem_types import BODY_TOO_LARGE, INVALID_REQUEST, MALFORMED_REQUEST
from gateway.api.problems import ProblemError, problem_responses
from gateway.dependencies import ModelDependency
from gateway.resources.model import DayFeatures

router = APIRouter(prefix="/v1/predictions", tags=["predictions"])

MAX_DAYS = 1000

Number = Annotated[float, Field(strict=True)]


def _require_text(value: object) -> object:
    """Reject numbers, which pydantic accepts as seconds since 1970."""
    if not isinstance(value, str):
        raise ValueError("should be a date like 2026-11-24")  # noqa: TRY004 - pydantic expects ValueError
    return value


class DayOfWeather(BaseModel):
    """The weather of one day at one place."""

    model_config = ConfigDict(extra="forbid")

    precipitation_mm: Annotated[Number, Field(ge=0, le=2000, description="The sum of the day")]
    temperature_max_c: Annotated[Number, Field(ge=-100, le=70)]
    temperature_min_c: Annotated[Number, Field(ge=-100, le=70)]
    wind_m_s: Annotated[Number, Field(ge=0, le=150, description="The mean of the day")]
    date: Annotated[date, BeforeValidator(_require_text)]
    latitude: Annotated[Number, Field(ge=-90, le=90, description="Negative in the south")]


EXAMPLE_DAY: JsonDict = {
    "precipitation_mm": 0,
    "temperature_max_c": 11.2,
    "temperature_min_c": -0.4,
    "wind_m_s": 6,
    "date": "2026-11-24",
    "latitude": 47.4,
}


class PredictionRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"days": [EXAMPLE_DAY]}]})

    days: Annotated[list[DayOfWeather], Field(min_length=1, max_length=MAX_DAYS)]


class Prediction(BaseModel):
    wet_tomorrow_probability: float = Field(description="The probability that the next day is wet")


class PredictionList(BaseModel):
    """One prediction for each day, in the order of the request."""

    items: list[Prediction]


@router.post(
    "",
    max_body_size=MAX_BODY_BYTES,
    responses=problem_responses(MALFORMED_REQUEST, BODY_TOO_LARGE, INVALID_REQUEST),
)
async def predict(model: ModelDependency, request: PredictionRequest) -> PredictionList:
    """Return, for each day, the probability that the next day is wet."""
    try:
        days = [DayFeatures(**day.model_dump()) for day in request.days]
    except ValueError as error:
        raise ProblemError(INVALID_REQUEST, f"{error}.") from None
    probabilities = await model.precipitation_probabilities(days)
    return PredictionList(items=[Prediction(wet_tomorrow_probability=probability) for probability in probabilities])
