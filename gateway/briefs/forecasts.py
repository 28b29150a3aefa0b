"""Calls an upstream with the forecast API of Open-Meteo, for one place or for a list of places."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta, timezone
from http import HTTPStatus
from math import cos, radians
from typing import Annotated, Any
from urllib.parse import urlencode

import httpx
from pydantic import BaseModel, Field, NaiveDatetime, ValidationError
from pydantic_core import from_json

from gateway.briefs.weather import Code, DailyForecast, Finite, Weather
from gateway.places.queries import Place

FORECAST_PATH = "/v1/forecast"
MAX_RESPONSE_BYTES = 256 * 1024  # a response has less than 1 kB for each place

# The forecast is that of a point of the upstream's grid. The points of a coarse grid are one degree apart, and the nearest one on
# land may be the next but one.
MAX_GRID_DISTANCE = 2.0  # degrees

# An upstream that does not know lists may respond with them, also with 500: "1.5,2.5" is no number. Other statuses are about the
# server or the client, and a single place would get them, too.
_LIST_REFUSALS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.REQUEST_URI_TOO_LONG,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.NOT_IMPLEMENTED,
)

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


class UpstreamError(Exception):
    """The response of the upstream is not a valid forecast."""


class UnusableListError(UpstreamError):
    """The response to a list of places has no weather that can be used. Single places may get a better one."""


async def fetch_weather(http: httpx.AsyncClient, places: Sequence[Place]) -> list[Weather | UpstreamError]:
    """Fetch the weather of places in one call.

    Returns:
        The weather of each place, in order. If the response is a list, it has an error in the position of each place whose
        forecast is not valid.

    Raises:
        httpx.HTTPError: there is no response, or its status is an error.
        UnusableListError: the upstream rejects a list that may be valid place by place, or its response has no valid forecast.
        UpstreamError: the response for a single place is too large, or not a valid forecast.
    """
    try:
        content = await _fetch(http, places)
        return [_parse_forecast(content)] if len(places) == 1 else _parse_forecasts(content, places)
    except httpx.HTTPStatusError as error:
        if len(places) > 1 and error.response.status_code in _LIST_REFUSALS:
            raise UnusableListError(str(error)) from error
        raise
    except UpstreamError as error:
        if len(places) > 1:
            raise UnusableListError(str(error)) from error
        raise


async def _fetch(http: httpx.AsyncClient, places: Sequence[Place]) -> bytes:
    latitudes = ",".join(f"{place.latitude:.5f}" for place in places)
    longitudes = ",".join(f"{place.longitude:.5f}" for place in places)
    # httpx parses a relative URL three times, character by character, and an absolute one once.
    url = f"{str(http.base_url).rstrip('/')}{FORECAST_PATH}?latitude={latitudes}&longitude={longitudes}&{_VARIABLES}"
    # A small compressed response could have any size in memory.
    uncompressed = {"Accept-Encoding": "identity"}
    async with http.stream("GET", url, headers=uncompressed) as response:
        response.raise_for_status()
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > MAX_RESPONSE_BYTES:
                raise UpstreamError(f"the response has more than {MAX_RESPONSE_BYTES} bytes")
    return bytes(content)


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
    latitude: Finite | None = None
    longitude: Finite | None = None
    # RFC 3339 has offsets of whole minutes, less than a day.
    utc_offset_seconds: Annotated[int, Field(gt=-86_400, lt=86_400, multiple_of=60)]
    current: _Current
    daily: _Daily


def _parse_forecast(content: bytes) -> Weather:
    try:
        return _to_weather(_Forecast.model_validate_json(content))
    except ValidationError as error:
        raise _invalid_forecast(error) from None


def _parse_forecasts(content: bytes, places: Sequence[Place]) -> list[Weather | UpstreamError]:
    """Parse a list, entry by entry, so that an invalid one affects no other.

    Raises:
        UpstreamError: it is no list with one entry for each place in its position, or no entry is valid.
    """
    try:
        entries = from_json(content)
    except ValueError:
        raise UpstreamError("the response is not JSON") from None
    if not isinstance(entries, list) or len(entries) != len(places):
        raise UpstreamError(f"the response is not a list of {len(places)} forecasts")
    results = [_parse_entry(entry, place) for entry, place in zip(entries, places, strict=True)]
    if not any(isinstance(result, Weather) for result in results):
        raise UpstreamError("the response has no valid forecast")
    return results


def _parse_entry(entry: Any, place: Place) -> Weather | UpstreamError:
    """Return the weather, or why the entry is invalid.

    Raises:
        UpstreamError: the entry is about another place, so that the whole list may have another order.
    """
    try:
        forecast = _Forecast.model_validate(entry)
    except ValidationError as error:
        return _invalid_forecast(error)
    if forecast.latitude is not None and forecast.longitude is not None:
        north = forecast.latitude - place.latitude
        east = (forecast.longitude - place.longitude + 180) % 360 - 180
        # A degree of longitude becomes shorter towards the poles.
        if max(abs(north), abs(east) * cos(radians(place.latitude))) > MAX_GRID_DISTANCE:
            raise UpstreamError("an entry of the response is about another place")
    return _to_weather(forecast)


def _invalid_forecast(error: ValidationError) -> UpstreamError:
    return UpstreamError(f"the response is not a forecast: {error.error_count()} errors")


def _to_weather(forecast: _Forecast) -> Weather:
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
