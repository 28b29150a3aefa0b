"""The weather of places: kept in Redis, and asked for upstream by one caller for all who want it."""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Annotated

import httpx
import orjson
import stamina
from pydantic import Field, TypeAdapter, ValidationError
from redis.asyncio import Redis

from gateway.briefs.circuit_breaker import CircuitBreaker
from gateway.briefs.kept import weather_key
from gateway.briefs.models import Reason
from gateway.briefs.reasons import reason_for
from gateway.briefs.weather import Weather, fetch_weather
from gateway.concurrency import TaskPool, failed_future
from gateway.places.queries import Place
from gateway.resources import http as http_errors

FRESH_FOR = 60.0
"""Seconds for which the weather is as good as new."""

KEPT_FOR = 24 * 3600
"""Seconds for which it is better than none."""

WAIT_WITH_STALE = 0.5
"""How much of its time the one who revalidates waits for news, while there is stale weather to answer with."""

CALLS = 50
"""The most calls upstream at once; one beyond them waits."""

KEEP_WITHIN = 1.0
"""Seconds that writing to Redis may take."""

PARSED = 10_000
"""The most forecasts that are remembered as what they are, and not only as bytes."""

LARGEST_KEPT = 4096
"""In bytes. Ours have some 400; what is larger is somebody else's, and nothing to remember."""

CLOCKS_DIFFER = 1.0
"""Seconds by which another replica's clock may be ahead of ours. What was fetched later than that is not ours."""


@dataclass(frozen=True, kw_only=True)
class CachedWeather:
    """The weather, and when it was fetched, in seconds since 1970. As JSON it is what Redis keeps."""

    fetched_at: Annotated[float, Field(allow_inf_nan=False)]
    weather: Weather

    @property
    def age(self) -> float:
        """In seconds."""
        return max(0.0, time.time() - self.fetched_at)


# Redis gives the same bytes for a minute: they are read once.
_parse = lru_cache(PARSED)(TypeAdapter(CachedWeather).validate_json)


@dataclass(slots=True)
class WeatherResult:
    """What there is to say about the weather: a forecast or none, and the reason why it is not fresh."""

    forecast: CachedWeather | None
    fresh: bool
    reason: Reason | None = None


class WeatherCache:
    """Finds the weather: fresh from Redis, else from upstream, else stale from Redis."""

    def __init__(self, *, http: httpx.AsyncClient, redis: Redis, questions: TaskPool, timeout: float) -> None:
        """`timeout` is how many seconds upstream has for an answer, with the second try after a first that failed."""
        self._http = http
        self._redis = redis
        self._questions = questions
        self._timeout = timeout
        self._breaker = CircuitBreaker(questions.spawn, counts=http_errors.is_server_failure)
        self._calls = asyncio.Semaphore(CALLS)
        self._flights: dict[int, asyncio.Future[CachedWeather]] = {}
        """The calls under way, by place: one for all who want the same."""

    async def find(self, place: Place, kept: bytes | None, *, by: float) -> WeatherResult:
        """Find the weather of a place until `by` (`time.monotonic()`). It never raises, whatever upstream does.

        `kept` is what Redis has of it; what cannot be read is as good as nothing.
        """
        forecast = read(kept)
        if forecast is not None and forecast.age < FRESH_FOR:
            return WeatherResult(forecast, fresh=True)
        flight = self._flights.get(place.id)
        if flight is None:
            return await self._from(self._start(place), forecast, by)
        if forecast is not None and not flight.done():
            return WeatherResult(forecast, fresh=False)  # somebody is at it
        found = await self._from(flight, forecast, by)
        if found.fresh or not flight.done():
            return found
        # It began before us, and so it had to end before our time is up.
        return await self._from(self._flights.get(place.id) or self._start(place), forecast, by)

    async def _from(
        self, flight: "asyncio.Future[CachedWeather]", forecast: CachedWeather | None, by: float
    ) -> WeatherResult:
        """Wait for a flight; with stale weather at hand not to the end."""
        patience = (by - time.monotonic()) * (1 if forecast is None else WAIT_WITH_STALE)
        await asyncio.wait({flight}, timeout=max(0, patience))
        if not flight.done():
            return WeatherResult(forecast, fresh=False, reason=Reason.TIMEOUT)
        if flight.cancelled():
            return WeatherResult(forecast, fresh=False, reason=Reason.ERROR)
        error = flight.exception()
        if error is not None:
            return WeatherResult(forecast, fresh=False, reason=reason_for(error))
        return WeatherResult(flight.result(), fresh=True)

    def _start(self, place: Place) -> "asyncio.Future[CachedWeather]":
        if self._breaker.is_open:
            return failed_future(self._breaker.refuse(partial(self._fetch, place)))
        flight: asyncio.Future[CachedWeather] = asyncio.get_running_loop().create_future()
        self._flights[place.id] = flight
        self._questions.spawn(self._fly(place, flight))
        return flight

    async def _fly(self, place: Place, flight: "asyncio.Future[CachedWeather]") -> None:
        """Fetch the weather for whoever waits for the flight; and only then keep it, so that nobody waits for that."""
        try:
            async with self._calls:  # a call that has to wait for us says nothing about upstream
                forecast = await self._breaker.call(partial(self._fetch, place))
        except Exception as error:  # noqa: BLE001 - whoever waits tells it
            flight.set_exception(error)
            flight.exception()  # so that the loop does not miss them, if they are gone
        else:
            flight.set_result(forecast)
            await self._keep(place, forecast)
        finally:
            del self._flights[place.id]
            flight.cancel()  # unless it has landed: we were cancelled, and nobody shall wait for ever

    def _fetch(self, place: Place) -> "asyncio.Future[CachedWeather]":
        return self._questions.call(self._fetch_persistently(place), timeout=self._timeout)

    async def _fetch_persistently(self, place: Place) -> CachedWeather:
        async for attempt in stamina.retry_context(
            on=http_errors.is_retryable, attempts=2, timeout=None, wait_initial=0.02, wait_jitter=0.05
        ):
            with attempt:
                weather = await fetch_weather(self._http, place)
        return CachedWeather(fetched_at=time.time(), weather=weather)

    async def _keep(self, place: Place, forecast: CachedWeather) -> None:
        with contextlib.suppress(Exception):  # then it is fetched again
            await self._questions.call(self._write(place, forecast), timeout=KEEP_WITHIN)

    async def _write(self, place: Place, forecast: CachedWeather) -> None:
        await self._redis.set(weather_key(place.id), orjson.dumps(forecast), ex=KEPT_FOR)


def read(kept: bytes | None) -> CachedWeather | None:
    """The forecast that Redis keeps, if it is one, of the last day and not of the future."""
    if kept is None or len(kept) > LARGEST_KEPT:
        return None
    try:
        forecast = _parse(kept)
    except ValidationError:
        return None
    age = time.time() - forecast.fetched_at
    return forecast if -CLOCKS_DIFFER <= age <= KEPT_FOR else None
