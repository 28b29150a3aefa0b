"""The weather of places, cached in Redis and fetched upstream: stale-while-revalidate with single flight."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Annotated

import httpx
import orjson
import stamina
from pydantic import Field, TypeAdapter, ValidationError
from redis.asyncio import Redis

from gateway.briefs.circuit_breaker import CircuitBreaker
from gateway.briefs.failures import Failures
from gateway.briefs.queries import weather_key
from gateway.briefs.weather import Weather, fetch_weather
from gateway.concurrency import TaskPool, failed_future
from gateway.places.queries import Place
from gateway.resources import http as http_errors

FRESH_TTL = 60.0
STALE_TTL = 24 * 3600
REVALIDATE_WAIT_SHARE = 0.5  # of the time to the deadline; after that, the revalidating caller returns stale weather
MAX_CONCURRENT_FETCHES = 50
CACHE_WRITE_TIMEOUT = 1.0
MAX_CONCURRENT_WRITES = 10  # to Redis; writes that hang must not take all connections of its pool from the reads

WRITE_PART = "cache write"  # its name among the failures

PARSE_CACHE_SIZE = 10_000
MAX_CACHED_BYTES = 4096  # the gateway writes some 350; larger values are not its own, and are ignored
MAX_CLOCK_SKEW = 1.0  # seconds that the clock of another replica may be ahead; weather from later than that is ignored


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


# Redis returns the same bytes until the next fetch, so each value is parsed only once.
_parse_cached = lru_cache(PARSE_CACHE_SIZE)(TypeAdapter(CachedWeather).validate_json)


@dataclass(slots=True)
class WeatherResult:
    """The best weather that is available.

    Attributes:
        entry: None if there is no weather.
        is_fresh: it is younger than `FRESH_TTL`.
        error: why it is not fresh. None if it is, or if another caller revalidates it at present.
    """

    entry: CachedWeather | None
    is_fresh: bool
    error: BaseException | None = None


class WeatherCache:
    """Gets the weather: fresh from Redis, else from upstream, else stale from Redis.

    Callers of the same place share one fetch (single flight). If stale weather is available, one caller revalidates it, and
    the others get it without waiting.
    """

    def __init__(
        self,
        *,
        http: httpx.AsyncClient,
        redis: Redis,
        tasks: TaskPool,
        failures: Failures,
        timeout: float,
        is_overload: Callable[[Exception], bool],
    ) -> None:
        """Create a cache. A fetch, with the retry after a failure, may take `timeout` seconds.

        The circuit breaker ignores the errors for which `is_overload` is true.
        """
        self._http = http
        self._redis = redis
        self._tasks = tasks
        self._failures = failures
        self._timeout = timeout
        self._breaker = CircuitBreaker(tasks.spawn, is_failure=http_errors.is_server_failure, is_overload=is_overload)
        self._fetch_slots = asyncio.Semaphore(MAX_CONCURRENT_FETCHES)
        self._write_slots = asyncio.Semaphore(MAX_CONCURRENT_WRITES)
        self._in_flight: dict[int, asyncio.Future[CachedWeather]] = {}  # by place id

    async def get(self, place: Place, cached: bytes | None, *, deadline: float) -> WeatherResult:
        """Return the best weather of a place that is available by `deadline`. It does not raise if upstream fails.

        Args:
            place: the place.
            cached: its value in Redis. An unreadable value counts as none.
            deadline: the time (`time.monotonic()`) at which to return at the latest.
        """
        entry = decode_cached(cached)
        if entry is not None and entry.age < FRESH_TTL:
            return WeatherResult(entry, is_fresh=True)
        fetch = self._in_flight.get(place.id)
        if fetch is None:
            return await self._await_fetch(self._start_fetch(place), entry, deadline)
        if entry is not None and not fetch.done():
            return WeatherResult(entry, is_fresh=False)  # another caller revalidates it
        result = await self._await_fetch(fetch, entry, deadline)
        if result.is_fresh or not fetch.done():
            return result
        # The shared fetch has failed. It started before this call, so this call has time left for a fetch of its own.
        return await self._await_fetch(self._in_flight.get(place.id) or self._start_fetch(place), entry, deadline)

    async def _await_fetch(
        self, fetch: "asyncio.Future[CachedWeather]", stale: CachedWeather | None, deadline: float
    ) -> WeatherResult:
        """Wait for a fetch until the deadline, or only for a share of that time if there is stale weather to return."""
        timeout = (deadline - time.monotonic()) * (1 if stale is None else REVALIDATE_WAIT_SHARE)
        await asyncio.wait({fetch}, timeout=max(0, timeout))
        if not fetch.done():
            return WeatherResult(stale, is_fresh=False, error=TimeoutError("no weather before the deadline"))
        if fetch.cancelled():
            return WeatherResult(stale, is_fresh=False, error=ConnectionError("the task pool is closed"))
        error = fetch.exception()
        if error is not None:
            return WeatherResult(stale, is_fresh=False, error=error)
        return WeatherResult(fetch.result(), is_fresh=True)

    def _start_fetch(self, place: Place) -> "asyncio.Future[CachedWeather]":
        """Start the fetch that all callers of a place share, unless upstream kept failing."""
        if self._breaker.is_open:
            return failed_future(self._breaker.reject(partial(self._fetch, place)))
        fetch: asyncio.Future[CachedWeather] = asyncio.get_running_loop().create_future()
        self._in_flight[place.id] = fetch
        self._tasks.spawn(self._run_fetch(place, fetch))
        return fetch

    async def _run_fetch(self, place: Place, fetch: "asyncio.Future[CachedWeather]") -> None:
        """Resolve `fetch` as soon as the weather is there, and write it to Redis after that.

        The fetch stays in flight during the write, so that no caller fetches what Redis is about to have.
        """
        try:
            async with self._fetch_slots:  # outside of the breaker: waiting for a slot is no failure of upstream
                entry = await self._breaker.call(partial(self._fetch, place))
        except Exception as error:  # noqa: BLE001 - it reaches the callers through the future
            fetch.set_exception(error)
            fetch.exception()  # marks it as retrieved, in case all callers are gone
        else:
            fetch.set_result(entry)
            await self._cache(place, entry)
        finally:
            del self._in_flight[place.id]
            fetch.cancel()  # no effect once resolved; on cancellation, wake all waiters

    def _fetch(self, place: Place) -> "asyncio.Future[CachedWeather]":
        return self._tasks.call(self._fetch_with_retry(place), timeout=self._timeout)

    async def _fetch_with_retry(self, place: Place) -> CachedWeather:
        async for attempt in stamina.retry_context(
            on=http_errors.is_retryable, attempts=2, timeout=None, wait_initial=0.02, wait_jitter=0.05
        ):
            with attempt:
                weather = await fetch_weather(self._http, place)
        return CachedWeather(fetched_at=time.time(), weather=weather)

    async def _cache(self, place: Place, entry: CachedWeather) -> None:
        try:
            await self._tasks.call(self._write_to_redis(place, entry), timeout=CACHE_WRITE_TIMEOUT)
        except Exception as error:  # noqa: BLE001 - without an entry, the next caller fetches it again
            self._failures.record(WRITE_PART, error)
        else:
            if self._failures.outages:
                self._failures.record_success([WRITE_PART])

    async def _write_to_redis(self, place: Place, entry: CachedWeather) -> None:
        async with self._write_slots:
            await self._redis.set(weather_key(place.id), orjson.dumps(entry), ex=STALE_TTL)


def decode_cached(value: bytes | None) -> CachedWeather | None:
    """Decode a value of Redis. Return None if there is no value, or if it is invalid, too old or from the future."""
    if value is None or len(value) > MAX_CACHED_BYTES:
        return None
    try:
        entry = _parse_cached(value)
    except ValidationError:
        return None
    age = time.time() - entry.fetched_at
    return entry if -MAX_CLOCK_SKEW <= age <= STALE_TTL else None
