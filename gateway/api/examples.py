"""The examples in the OpenAPI: objects of the models, so that they change together with the models."""

from datetime import UTC, date, datetime
from http import HTTPStatus
from typing import Any

from fastapi.encoders import jsonable_encoder

from gateway.briefs.models import Brief, Outlook, Popularity, Section, Sections, Status
from gateway.briefs.weather import DailyForecast, Weather
from gateway.observations.queries import Observation
from gateway.places.queries import Place

REQUEST_ID = "15c79ca12af943768c5b8f16f3e71864"
PLACE = Place(2657896, "Zürich", "Zurich", "CH", "ZH", 47.36667, 8.55, 415367, "Europe/Zurich", 1)
OBSERVATION = Observation(1, PLACE.id, 12.5, "rain", "wet", datetime(2026, 11, 24, 14, 20, 42, tzinfo=UTC))
WEATHER = Weather(
    observed_at="2026-11-24T14:15",
    temperature_c=11.1,
    relative_humidity_percent=46,
    precipitation_mm=0,
    weather_code=0,
    wind_speed_m_s=6.03,
    today=DailyForecast(
        date=date(2026, 11, 24),
        precipitation_mm=0,
        temperature_max_c=11.2,
        temperature_min_c=-0.4,
        wind_speed_max_m_s=9.6,
    ),
)
BRIEF = Brief(
    place=PLACE,
    complete=True,
    sections=Sections(
        weather=Section(status=Status.OK, age_s=0, took_ms=3.309, data=WEATHER),
        outlook=Section(status=Status.OK, age_s=0, took_ms=1.421, data=Outlook(0.14)),
        observations=Section(status=Status.OK, age_s=0, took_ms=12.506, data=[OBSERVATION]),
        popularity=Section(status=Status.OK, age_s=0, took_ms=2.246, data=Popularity(7)),
    ),
)


def example_response(
    example: object, status: HTTPStatus = HTTPStatus.OK, *, headers: dict[str, Any] | None = None
) -> dict[int | str, dict[str, Any]]:
    """Return the part of a route's `responses` argument with an example of its successful response."""
    content = {"application/json": {"example": jsonable_encoder(example)}}
    return {status.value: {"content": content, "headers": headers or {}}}
