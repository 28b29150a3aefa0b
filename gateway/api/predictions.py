"""Predictions of the model for any weather."""

from datetime import date
from typing import Annotated, Self

from fastapi import APIRouter
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from gateway.api.problem_types import BODY_TOO_LARGE, INVALID_REQUEST, MALFORMED_REQUEST, UNSUPPORTED_MEDIA_TYPE
from gateway.api.problems import problem_responses
from gateway.api.request_model import RequestModel
from gateway.api.routes import StrictRoute
from gateway.dependencies import ModelDependency
from gateway.resources.model import DayFeatures

router = APIRouter(prefix="/v1/predictions", tags=["predictions"], route_class=StrictRoute)

# The event loop parses and validates a body in one turn. The most expensive body of this size takes some 10 ms, the predictions
# of a whole year 4 ms.
MAX_DAYS = 366
MAX_DAY_BYTES = 320  # with all digits of its numbers, and indented by four spaces
MAX_BODY_BYTES = MAX_DAYS * MAX_DAY_BYTES

Number = Annotated[float, Field(strict=True)]


def _require_text(value: object) -> object:
    """Reject numbers, which pydantic accepts as seconds since 1970."""
    if not isinstance(value, str):
        raise ValueError("should be a date like 2026-11-24")  # noqa: TRY004 - pydantic expects ValueError
    return value


class DayOfWeather(RequestModel):
    """The weather of one day at one place. The names are those of `today` in the weather of a brief."""

    precipitation_mm: Annotated[Number, Field(ge=0, le=2000, description="The sum of the day")]
    temperature_max_c: Annotated[Number, Field(ge=-100, le=70)]
    temperature_min_c: Annotated[Number, Field(ge=-100, le=70)]
    wind_speed_m_s: Annotated[Number, Field(ge=0, le=150, description="The mean of the day, 10 m above the ground")]
    date: Annotated[date, BeforeValidator(_require_text), Field(description="The local date at the place")]
    latitude: Annotated[Number, Field(ge=-90, le=90, description="In degrees, negative in the south")]

    @model_validator(mode="after")
    def _check_temperatures(self) -> Self:
        if self.temperature_min_c > self.temperature_max_c:
            raise ValueError("temperature_min_c should not be above temperature_max_c")
        return self


EXAMPLE_DAY: JsonDict = {
    "precipitation_mm": 0,
    "temperature_max_c": 11.2,
    "temperature_min_c": -0.4,
    "wind_speed_m_s": 6,
    "date": "2026-11-24",
    "latitude": 47.4,
}


class PredictionRequest(RequestModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"days": [EXAMPLE_DAY]}]})

    days: Annotated[list[DayOfWeather], Field(min_length=1, max_length=MAX_DAYS, fail_fast=True)]


class Prediction(BaseModel):
    wet_tomorrow_probability: float = Field(description="The probability that the next day is wet")


class PredictionList(BaseModel):
    """One prediction for each day, in the order of the request."""

    items: list[Prediction]


@router.post(
    "",
    max_body_size=MAX_BODY_BYTES,
    summary="Predict wet days",
    responses=problem_responses(MALFORMED_REQUEST, BODY_TOO_LARGE, UNSUPPORTED_MEDIA_TYPE, INVALID_REQUEST),
)
async def predict(model: ModelDependency, request: PredictionRequest) -> PredictionList:
    """Return, for each day, the probability that the next day is wet."""
    probabilities = await model.precipitation_probabilities([DayFeatures(**day.model_dump()) for day in request.days])
    return PredictionList(items=[Prediction(wet_tomorrow_probability=probability) for probability in probabilities])
