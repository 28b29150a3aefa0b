"""The weather of a place, and the same with the time of its fetch."""

import time
from dataclasses import dataclass
from datetime import date
from typing import Annotated

from pydantic import Field

Finite = Annotated[float, Field(allow_inf_nan=False)]
Code = Annotated[int, Field(ge=0, le=99, description="WMO code 4677, as Open-Meteo uses it")]
# A text, because it is formatted once for each fetch instead of once for each brief.
LocalTime = Annotated[
    str,
    Field(
        pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)$",
        description="The local time at the place, with its offset from UTC",
        json_schema_extra={"format": "date-time"},
    ),
]


@dataclass(frozen=True, kw_only=True)
class DailyForecast:
    """The forecast for a day."""

    date: Annotated[date, Field(description="The local date at the place")]
    precipitation_mm: Annotated[Finite, Field(description="The sum of the day")]
    temperature_max_c: Finite
    temperature_min_c: Finite
    wind_speed_m_s: Annotated[
        Finite | None, Field(description="The mean of the day, 10 m above the ground, if the upstream has it")
    ]
    wind_speed_max_m_s: Finite


@dataclass(frozen=True, kw_only=True)
class Weather:
    """The weather now and today."""

    observed_at: LocalTime
    temperature_c: Finite
    relative_humidity_percent: Finite
    precipitation_mm: Finite
    weather_code: Code
    wind_speed_m_s: Finite
    today: DailyForecast


@dataclass(frozen=True, kw_only=True)
class CachedWeather:
    """A cache entry. Redis holds it as JSON.

    Attributes:
        fetched_at: in seconds since 1970.
        weather: the weather as it was fetched.
    """

    fetched_at: Annotated[float, Field(allow_inf_nan=False)]
    weather: Weather

    @property
    def age(self) -> float:
        """The seconds since it was fetched."""
        return max(0.0, time.time() - self.fetched_at)
