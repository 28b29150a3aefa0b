"""A fake of Open-Meteo's `GET /v1/forecast`: invented weather, and faults that can be changed while it runs.

The format of requests, responses and errors is that of https://open-meteo.com/en/docs.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Literal, TypeVar
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.devstack.fake_weather import DailyWeather

T = TypeVar("T")
Clock = Callable[[], datetime]

_GRID = 0.0625  # degrees; as from Open-Meteo, a forecast is that of the nearest point of a grid
_QUARTER = timedelta(minutes=15)
_WIND = {"kmh": ("km/h", 3.6), "ms": ("m/s", 1.0), "mph": ("mp/h", 2.23694), "kn": ("kn", 1.94384)}
_CURRENT = ("temperature_2m", "relative_humidity_2m", "precipitation", "weather_code", "wind_speed_10m")
_DAILY = (
    "precipitation_sum",
    "temperature_2m_max",
    "temperature_2m_min",
    "wind_speed_10m_mean",
    "wind_speed_10m_max",
    "weather_code",
)
_PARAMETERS = {"latitude", "longitude", "current", "daily", "wind_speed_unit", "timezone", "forecast_days"}


class Faults(BaseModel):
    """The faults that are injected into forecasts. The default is none.

    Attributes:
        latency_s: delays every response by so many seconds.
        status: respond with this error status.
        body: respond with status 200 and a body that is not JSON, truncated JSON, or empty.
        fail_rate: the share of the calls with `status` or `body`. With 0.25, exactly one of any four successive calls.
        max_places: respond with status 400 to calls for more places.
        null_place: respond with null instead of the forecast in this position of a list.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    latency_s: float = Field(default=0, ge=0, le=3600, allow_inf_nan=False)
    status: int | None = Field(default=None, ge=400, le=599)
    body: Literal["garbage", "truncated", "empty"] | None = None
    fail_rate: float = Field(default=1, ge=0, le=1)
    max_places: int | None = Field(default=None, ge=1)
    null_place: int | None = Field(default=None, ge=0)


class CallCounts(BaseModel):
    """The calls for forecasts since the start or the last reset.

    Attributes:
        calls: the number of calls.
        places: the number of places in all calls; a call may have several.
        failed: the number of calls with an injected `status` or `body`.
    """

    calls: int = 0
    places: int = 0
    failed: int = 0


class BadRequestError(Exception):
    """A request that Open-Meteo rejects; the message is the `reason` of its response."""


@dataclass
class FakeOpenMeteo:
    """The endpoints of the fake, and their state."""

    clock: Clock = lambda: datetime.now(UTC)
    faults: Faults = field(default_factory=Faults)
    calls: CallCounts = field(default_factory=CallCounts)
    _failure_credit: float = 0.0

    async def forecast(self, request: Request) -> Response:
        faults = self.faults
        self.calls.calls += 1
        await asyncio.sleep(faults.latency_s)
        try:
            result = forecast(request.query_params, now=self.clock())
        except BadRequestError as error:
            return _error_response(400, str(error))
        places = len(result) if isinstance(result, list) else 1
        if faults.max_places is not None and places > faults.max_places:
            return _error_response(400, f"Only {faults.max_places} locations are allowed. Given {places}.")
        self.calls.places += places
        if isinstance(result, list) and faults.null_place is not None:
            result[faults.null_place : faults.null_place + 1] = [None]
        response = JSONResponse(result)
        return self._faulty_response(response, faults) if self._should_fail(faults) else response

    async def show_faults(self, request: Request) -> Response:
        del request
        return JSONResponse(self.faults.model_dump())

    async def set_faults(self, request: Request) -> Response:
        try:
            self.faults = Faults.model_validate_json(await request.body())
        except ValidationError as error:
            return _error_response(422, str(error))
        self._failure_credit = 0.0
        return await self.show_faults(request)

    async def clear_faults(self, request: Request) -> Response:
        self.faults = Faults()
        return await self.show_faults(request)

    async def show_calls(self, request: Request) -> Response:
        del request
        return JSONResponse(self.calls.model_dump())

    async def reset_calls(self, request: Request) -> Response:
        self.calls = CallCounts()
        return await self.show_calls(request)

    def _should_fail(self, faults: Faults) -> bool:
        """Return whether this call fails. Failures are spread evenly, not at random, so that tests are deterministic."""
        if faults.status is None and faults.body is None:
            return False
        self._failure_credit += faults.fail_rate
        if self._failure_credit < 1:
            return False
        self._failure_credit -= 1
        self.calls.failed += 1
        return True

    @staticmethod
    def _faulty_response(response: Response, faults: Faults) -> Response:
        if faults.status is not None:
            return _error_response(faults.status, "Injected fault")
        bodies = {
            "garbage": b"<html><body>\xff\xfe It works!</body></html>",
            "truncated": bytes(response.body[: len(response.body) // 2]),
        }
        return Response(bodies.get(faults.body or "", b""), media_type="application/json")


def create_app(clock: Clock | None = None) -> Starlette:
    """Create a fake. `clock` returns its current time, an aware datetime."""
    fake = FakeOpenMeteo(clock) if clock else FakeOpenMeteo()
    return Starlette(
        routes=[
            Route("/v1/forecast", fake.forecast),
            Route("/faults", fake.show_faults),
            Route("/faults", fake.set_faults, methods=["PUT"]),
            Route("/faults", fake.clear_faults, methods=["DELETE"]),
            Route("/calls", fake.show_calls),
            Route("/calls", fake.reset_calls, methods=["DELETE"]),
            Route("/livez", lambda request: JSONResponse({"status": "ok"})),  # noqa: ARG005
        ]
    )


def forecast(query: QueryParams, *, now: datetime) -> object:
    """Return the forecast for a query: an object for one place, a list for several.

    Raises:
        BadRequestError: Open-Meteo would reject the query, too, or the fake does not support a parameter.
    """
    started_at = time.perf_counter()
    if unknown := sorted(set(query) - _PARAMETERS):
        raise BadRequestError(f"This fake does not support the parameter '{unknown[0]}'")
    latitudes = _numbers(query, "latitude", limit=90)
    longitudes = _numbers(query, "longitude", limit=180)
    if len(latitudes) != len(longitudes) or not latitudes:
        raise BadRequestError("Parameter 'latitude' and 'longitude' must have the same number of elements")
    current = _names(query, "current", _CURRENT)
    daily = _names(query, "daily", _DAILY)
    unit, factor = _choice(query.get("wind_speed_unit", "kmh"), _WIND, "WindspeedUnit")
    days = _days(query.get("forecast_days", "7"))
    zones = query.get("timezone", "GMT").split(",")
    if len(zones) not in {1, len(latitudes)}:
        raise BadRequestError("Parameter 'timezone' must have one element, or one for each coordinate")

    forecasts: list[dict[str, object]] = []
    for index, (latitude, longitude) in enumerate(zip(latitudes, longitudes, strict=True)):
        on_grid = (round(latitude / _GRID) * _GRID, round(longitude / _GRID) * _GRID)
        name, zone = _zone(zones[index % len(zones)], longitude)
        local = now.astimezone(zone)
        offset = local.utcoffset() or timedelta()
        result: dict[str, object] = {
            "latitude": on_grid[0],
            "longitude": on_grid[1],
            "generationtime_ms": 0.0,
            "utc_offset_seconds": int(offset.total_seconds()),
            "timezone": name,
            "timezone_abbreviation": _abbreviation(offset),
            "elevation": float(round(abs(on_grid[0] * on_grid[1])) % 600),
        }
        if current:
            result |= _current(current, on_grid, local, unit=unit, factor=factor)
        if daily:
            result |= _daily(daily, on_grid, local, days=days, unit=unit, factor=factor)
        if index:
            result["location_id"] = index
        forecasts.append(result)
    for result in forecasts:
        result["generationtime_ms"] = round((time.perf_counter() - started_at) * 1000, 4)
    return forecasts if len(forecasts) > 1 else forecasts[0]


def _current(
    names: list[str], place: tuple[float, float], local: datetime, *, unit: str, factor: float
) -> dict[str, object]:
    quarter = local.replace(minute=local.minute // 15 * 15, second=0, microsecond=0)
    hour = quarter.hour + quarter.minute / 60
    day = DailyWeather.at(*place, quarter.date())
    temperature, rain = day.temperature(hour), day.rain(hour)
    values: dict[str, tuple[str, object]] = {
        "temperature_2m": ("°C", temperature),
        "relative_humidity_2m": ("%", day.humidity(hour)),
        "precipitation": ("mm", rain),
        "weather_code": ("wmo code", day.code(rain, temperature)),
        "wind_speed_10m": (unit, round(day.wind(hour) * factor, 2)),
    }
    return {
        "current_units": {"time": "iso8601", "interval": "seconds"} | {name: values[name][0] for name in names},
        "current": {"time": quarter.strftime("%Y-%m-%dT%H:%M"), "interval": int(_QUARTER.total_seconds())}
        | {name: values[name][1] for name in names},
    }


def _daily(
    names: list[str], place: tuple[float, float], local: datetime, *, days: int, unit: str, factor: float
) -> dict[str, object]:
    dates = [local.date() + timedelta(days=ahead) for ahead in range(days)]
    weather = [DailyWeather.at(*place, date) for date in dates]
    values: dict[str, tuple[str, list[object]]] = {
        "precipitation_sum": ("mm", [day.precipitation for day in weather]),
        "temperature_2m_max": ("°C", [day.temperature_max for day in weather]),
        "temperature_2m_min": ("°C", [day.temperature_min for day in weather]),
        "wind_speed_10m_mean": (unit, [round(day.wind_mean * factor, 2) for day in weather]),
        "wind_speed_10m_max": (unit, [round(day.wind_max * factor, 2) for day in weather]),
        "weather_code": ("wmo code", [day.code(day.precipitation, day.temperature_max) for day in weather]),
    }
    return {
        "daily_units": {"time": "iso8601"} | {name: values[name][0] for name in names},
        "daily": {"time": [date.isoformat() for date in dates]} | {name: values[name][1] for name in names},
    }


def _list(query: QueryParams, name: str) -> list[str]:
    """Return the values of a parameter, joined by commas or given several times."""
    return [value for values in query.getlist(name) for value in values.split(",") if value]


def _numbers(query: QueryParams, name: str, *, limit: int) -> list[float]:
    numbers = []
    for value in _list(query, name):
        try:
            number = float(value)
        except ValueError:
            raise BadRequestError(f"Parameter '{name}' should be a number. Given: {value}") from None
        if not -limit <= number <= limit:
            raise BadRequestError(f"{name.capitalize()} must be in range of -{limit} to {limit}°. Given: {number}.")
        numbers.append(number)
    return numbers


def _names(query: QueryParams, name: str, known: tuple[str, ...]) -> list[str]:
    names = _list(query, name)
    for unknown in names:
        if unknown not in known:
            raise BadRequestError(
                f"Data corrupted at path '{name}'. Cannot initialize a variable from invalid String value {unknown}."
            )
    return names


def _choice(value: str, known: dict[str, T], kind: str) -> T:
    if value not in known:
        raise BadRequestError(f"Data corrupted. Cannot initialize {kind} from invalid String value {value}.")
    return known[value]


def _days(value: str) -> int:
    if not value.isdecimal() or int(value) > 16:  # noqa: PLR2004
        raise BadRequestError(f"Forecast days is invalid. Allowed range 0 to 16. Given {value}.")
    return int(value)


def _zone(name: str, longitude: float) -> tuple[str, tzinfo]:
    """Return a time zone and its name. `auto` is the nautical one, which needs no map of the real ones."""
    if name == "auto":
        hours = round(longitude / 15)
        return (f"Etc/GMT{-hours:+d}" if hours else "GMT"), timezone(timedelta(hours=hours))
    try:
        return name, ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise BadRequestError("Invalid timezone") from None


def _abbreviation(offset: timedelta) -> str:
    hours = offset.total_seconds() / 3600
    return f"GMT{hours:+g}" if hours else "GMT"


def _error_response(status: int, reason: str) -> Response:
    return JSONResponse({"error": True, "reason": reason}, status)
