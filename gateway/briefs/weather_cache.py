"""The weather of places, cached in Redis and fetched upstream: stale-while-revalidate with single flight."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import httpx
import orjson
from pydantic import TypeAdapter, ValidationError
from redis.asyncio import Redis

from gateway.briefs.failures import Failures
from gateway.briefs.queries import store_weather
from gateway.briefs.weather import CachedWeather, Weather
from gateway.briefs.weather_fetcher import WeatherFetcher
from gateway.concurrency import TaskPool
from gateway.places.queries import Place

FRESH_TTL = 60.0
STALE_TTL = 24 * 3600
REVALIDATE_WAIT_SHARE = 0.5  # of the time to the deadline; after that, the revalidating caller returns stale weather
CACHE_WRITE_TIMEOUT = 1.0
MAX_CONCURRENT_WRITES = 10  # to Redis; writes that hang must not take all connections of its pool from the reads

WRITE_PART = "cache write"  # its name among the failures

PARSE_CACHE_SIZE = 10_000
MAX_CACHED_BYTES = 4096  # the gateway writes some 350; larger values are not its own, and are ignored
MAX_CLOCK_SKEW = 1.0  # seconds that the clock of another replica may be ahead; weather from later than that is ignored

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

    Attributes:
        lookups: the number of lookups in Redis by their result: fresh, stale or miss.
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
        on_fetched: Callable[[Sequence[tuple[Place, Weather]]], Awaitable[None]],
    ) -> None:
        """Create a cache. A fetch, with the retry after a failure, may take `timeout` seconds.

        The circuit breaker ignores the errors for which `is_overload` is true. `on_fetched` is called with the weather of each
        call of the upstream, before the callers get it. It must not raise.
        """
        self.lookups: Counter[str] = Counter()
        self._redis = redis
        self._tasks = tasks
        self._failures = failures
        self._fetcher = WeatherFetcher(
            http, tasks=tasks, timeout=timeout, is_overload=is_overload, on_fetched=on_fetched, store=self._store
        )
        self._write_slots = asyncio.Semaphore(MAX_CONCURRENT_WRITES)

    async def get(self, place: Place, cached: bytes | None, *, deadline: float) -> WeatherResult:
        """Return the best weather of a place that is available by `deadline`. It does not raise if upstream fails.

        Args:
            place: the place.
            cached: its value in Redis. An unreadable value counts as none.
            deadline: the time (`time.monotonic()`) at which to return at the latest.
        """
        entry = decode_cached(cached)
        is_fresh = entry is not None and entry.age < FRESH_TTL
        self.lookups["miss" if entry is None else "fresh" if is_fresh else "stale"] += 1
        if is_fresh:
            return WeatherResult(entry, is_fresh=True)
        fetch = self._fetcher.in_flight(place)
        if fetch is None:
            return await self._await_fetch(self._fetcher.start(place), entry, deadline)
        if entry is not None and not fetch.done():
            return WeatherResult(entry, is_fresh=False)  # another caller revalidates it
        result = await self._await_fetch(fetch, entry, deadline)
        if result.is_fresh or not fetch.done():
            return result
        # The shared fetch has failed. It started before this call, so this call has time left for a fetch of its own.
        return await self._await_fetch(self._fetcher.in_flight(place) or self._fetcher.start(place), entry, deadline)

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

    async def _store(self, entries: Mapping[int, CachedWeather]) -> None:
        """Write the weather of places to Redis, by place id."""
        try:
            await self._tasks.call(self._write_to_redis(entries), timeout=CACHE_WRITE_TIMEOUT)
        except Exception as error:  # noqa: BLE001 - without an entry, the next caller fetches it again
            self._failures.record(WRITE_PART, error)
        else:
            if self._failures.outages:
                self._failures.record_success([WRITE_PART])

    async def _write_to_redis(self, entries: Mapping[int, CachedWeather]) -> None:
        values = {place_id: orjson.dumps(entry) for place_id, entry in entries.items()}
        async with self._write_slots:
            await store_weather(self._redis, values, ttl=STALE_TTL)


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
