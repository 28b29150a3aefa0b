"""The weather of a place, from an upstream with the forecast API of Open-Meteo."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import Annotated
from urllib.parse import urlencode

import httpx
from pydantic import BaseModel, Field, NaiveDatetime, ValidationError

from gateway.places.queries import Place

FORECAST_PATH = "/v1/forecast"
MAX_RESPONSE_BYTES = 256 * 1024  # a response for one place has less than 1 kB

# Encoded once, because httpx takes 0.1 ms for it.
_VARIABLES = urlencode(
    {
        "current": "temperature_2m,relative_humidity_2m,precipitation,weather_code,wind_speed_10m",
        "daily": "precipitation_sum,temperature_2m_max,temperature_2m_min,wind_speed_10m_mean,wind_speed_10m_max",
        "wind_speed_unit": "ms",
        "timezone": "auto",
        "forecast_days": "1",
    },
    safe=",",
)

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


class UpstreamError(Exception):
    """The response of the upstream is not a valid forecast."""


async def fetch_weather(http: httpx.AsyncClient, place: Place) -> Weather:
    """Fetch the weather of a place.

    Raises:
        httpx.HTTPError: there is no response, or its status is an error.
        UpstreamError: the response is too large, or not a valid forecast.
    """
    url = f"{FORECAST_PATH}?latitude={place.latitude:.5f}&longitude={place.longitude:.5f}&{_VARIABLES}"
    # A small compressed response could have any size in memory.
    uncompressed = {"Accept-Encoding": "identity"}
    async with http.stream("GET", url, headers=uncompressed) as response:
        response.raise_for_status()
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > MAX_RESPONSE_BYTES:
                raise UpstreamError(f"the response has more than {MAX_RESPONSE_BYTES} bytes")
    return _parse_weather(bytes(content))


# The response of Open-Meteo, as far as it is used.
class _Current(BaseModel):
    time: NaiveDatetime
    temperature_2m: Finite
    relative_humidity_2m: Finite
    precipitation: Finite
    weather_code: Code
    wind_speed_10m: Finite


class _Daily(BaseModel):
    time: tuple[date]
    precipitation_sum: tuple[Finite]
    temperature_2m_max: tuple[Finite]
    temperature_2m_min: tuple[Finite]
    wind_speed_10m_mean: tuple[Finite | None] = (None,)  # some services with this API lack it
    wind_speed_10m_max: tuple[Finite]


class _Forecast(BaseModel):
    # RFC 3339 has offsets of whole minutes, less than a day.
    utc_offset_seconds: Annotated[int, Field(gt=-86_400, lt=86_400, multiple_of=60)]
    current: _Current
    daily: _Daily


def _parse_weather(content: bytes) -> Weather:
    try:
        forecast = _Forecast.model_validate_json(content)
    except ValidationError as error:
        raise UpstreamError(f"the response is not a forecast: {error.error_count()} errors") from None
    current, daily = forecast.current, forecast.daily
    return Weather(
        observed_at=_format_local_time(current.time, forecast.utc_offset_seconds),
        temperature_c=current.temperature_2m,
        relative_humidity_percent=current.relative_humidity_2m,
        precipitation_mm=current.precipitation,
        weather_code=current.weather_code,
        wind_speed_m_s=current.wind_speed_10m,
        today=DailyForecast(
            date=daily.time[0],
            precipitation_mm=daily.precipitation_sum[0],
            temperature_max_c=daily.temperature_2m_max[0],
            temperature_min_c=daily.temperature_2m_min[0],
            wind_speed_m_s=daily.wind_speed_10m_mean[0],
            wind_speed_max_m_s=daily.wind_speed_10m_max[0],
        ),
    )


def _format_local_time(local: datetime, offset_s: int) -> str:
    """Return a time of RFC 3339. UTC is `Z`, as in the other times of the gateway."""
    aware = local.replace(tzinfo=timezone(timedelta(seconds=offset_s)))
    return aware.isoformat(timespec="seconds").replace("+00:00", "Z")
