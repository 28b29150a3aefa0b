"""Assembles briefs from all backends. A section that is not ready in time is left out and marked."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self

import httpx
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.briefs.failures import Failures
from gateway.briefs.models import (
    Brief,
    Outlook,
    Popularity,
    Reason,
    Section,
    Sections,
    Status,
    milliseconds,
    reason_for,
    unavailable,
)
from gateway.briefs.outlooks import Outlooks
from gateway.briefs.pinned_connections import PinnedConnections
from gateway.briefs.place_loader import LoadedPlaces, PlaceLoader, PlaceUnavailableError
from gateway.briefs.queries import PlaceRecord
from gateway.briefs.section_spans import record_sections
from gateway.briefs.weather import Weather
from gateway.briefs.weather_cache import WeatherCache, WeatherResult, decode_cached
from gateway.concurrency import TaskPool
from gateway.event_loop import EventLoopMonitor, OverloadedError
from gateway.observations.queries import Observation
from gateway.places.queries import Place
from gateway.resources.base import Resource
from gateway.resources.model import Model
from gateway.telemetry.providers import records_metrics, records_traces

# Longer than a brief's own deadline, so that a slow reconnect can finish and serve the next request instead of being
# cancelled every time.
BACKEND_CALL_TIMEOUT = 1.0


class BriefService(Resource["BriefService"]):
    """Assembles briefs from all backends.

    Briefs that are requested together share one statement to PostgreSQL and one command to Redis.

    Attributes:
        section_counts: the number of sections by name, status and reason, if there is any telemetry.
    """

    name = "briefs"

    def __init__(
        self,
        http: httpx.AsyncClient,
        database: AsyncEngine,
        redis: Redis,
        model: Model,
        event_loop: EventLoopMonitor,
        *,
        on_viewed: Callable[[int], object],
        timeout: float,
    ) -> None:
        """Create a service that has called no backend yet.

        Args:
            http: for the weather upstream.
            database: for places and observations.
            redis: for cached weather and popularity.
            model: for the outlook.
            event_loop: explains the timeouts at which the gateway was overloaded.
            on_viewed: called with the place id of each brief. It must not block.
            timeout: seconds that a brief may take.
        """
        super().__init__()
        self.section_counts: Counter[tuple[str, Status, Reason | None]] = Counter()
        self._has_telemetry = records_traces() or records_metrics()
        self._outlooks = Outlooks(model)
        self._on_viewed = on_viewed
        self._tasks = TaskPool()
        self._event_loop = event_loop
        self._call_timeout = max(BACKEND_CALL_TIMEOUT, timeout)
        self._database = PinnedConnections(database)
        self._loader = PlaceLoader(
            self._database,
            redis,
            tasks=self._tasks,
            timeout=timeout,
            call_timeout=self._call_timeout,
            is_overload=self._is_overload,
        )
        self._failures = Failures()
        self._weather_cache = WeatherCache(
            http=http,
            redis=redis,
            tasks=self._tasks,
            failures=self._failures,
            timeout=self._call_timeout,
            is_overload=self._is_overload,
            on_fetched=self._outlooks.prepare,
        )

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Self]:
        """Yield the service. At the end of the block, end all calls that are in flight, and release their connections."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._database.close)
            stack.push_async_callback(self._tasks.aclose)
            yield self

    async def get(self, place_id: int, requested_at: float | None = None) -> Brief | None:
        """Return the brief of a place, or None if there is no such place.

        Args:
            place_id: the place.
            requested_at: the time (`time.monotonic()`) from which the timeout counts. None: now.

        Raises:
            PlaceUnavailableError: the database is unavailable.
        """
        return await self._assemble(place_id, await self._load([place_id], requested_at))

    async def get_many(self, place_ids: Collection[int], requested_at: float | None = None) -> list[Brief | None]:
        """Return the briefs of several places in their order, with None for places that do not exist.

        Args:
            place_ids: the places.
            requested_at: the time (`time.monotonic()`) from which the timeout counts. None: now.

        Raises:
            PlaceUnavailableError: the database is unavailable.
        """
        loaded = await self._load(place_ids, requested_at)
        async with asyncio.TaskGroup() as group:
            briefs = [group.create_task(self._assemble(place_id, loaded)) for place_id in place_ids]
        return [brief.result() for brief in briefs]

    @property
    def cache_lookups(self) -> Counter[str]:
        """The number of lookups of cached weather by their result: fresh, stale or miss."""
        return self._weather_cache.lookups

    async def check(self) -> str | None:
        """Return how often each part of the briefs has failed."""
        return self._failures.summary()

    async def _load(self, place_ids: Collection[int], requested_at: float | None) -> LoadedPlaces:
        started_at = time.monotonic() if requested_at is None else requested_at
        try:
            return await self._loader.load(place_ids, started_at)
        except PlaceUnavailableError as error:
            cause = self._cause(error.__cause__ or error, started_at)
            raise PlaceUnavailableError(self._failures.record("place", cause)) from cause

    async def _assemble(self, place_id: int, loaded: LoadedPlaces) -> Brief | None:
        record = loaded.places.get(place_id)
        if record is None:
            return None
        weather = await self._weather(record.place, loaded)
        sections = Sections(
            weather=weather,
            outlook=self._outlook(record.place, weather),
            observations=self._observations(record, loaded),
            popularity=await self._popularity(place_id, loaded),
        )
        if self._failures.outages:
            self._failures.record_success(
                ["place", *(name for name, section in sections.items() if section.status is Status.OK)]
            )
        self._on_viewed(place_id)
        if self._has_telemetry:
            self.section_counts.update((name, section.status, section.reason) for name, section in sections.items())
            record_sections(place_id, sections, loaded.started_at)
        complete = Status.UNAVAILABLE not in [section.status for _, section in sections.items()]
        return Brief(place=record.place, complete=complete, sections=sections)

    async def _weather(self, place: Place, loaded: LoadedPlaces) -> Section[Weather]:
        cached = loaded.cached_if_ready(place.id)
        result = await self._weather_cache.get(
            place, None if cached is None else cached.weather, deadline=loaded.deadline
        )
        if result.entry is None and cached is None and (late := loaded.cached_if_ready(place.id)) is not None:
            # Upstream failed, but Redis has responded meanwhile: stale weather is better than none.
            result = WeatherResult(decode_cached(late.weather), is_fresh=False, error=result.error)
        reason = None if result.error is None else self._record("weather", result.error, loaded)
        elapsed = milliseconds(time.monotonic() - loaded.started_at)
        if result.entry is None:
            return Section(status=Status.UNAVAILABLE, reason=reason, took_ms=elapsed)
        return Section(
            status=Status.OK if result.is_fresh else Status.STALE,
            reason=reason,
            age_s=math.ceil(result.entry.age * 1000) / 1000,  # rounded up, so that it is never too low
            took_ms=elapsed,
            data=result.entry.weather,
        )

    def _outlook(self, place: Place, weather: Section[Weather]) -> Section[Outlook]:
        """Predict from the weather. The outlook has the weather's age and status."""
        started_at = time.monotonic()
        if weather.data is None:
            return unavailable(Reason.NO_WEATHER, 0.0)
        try:
            outlook = self._outlooks.get(place, weather.data)
        except Exception as error:  # noqa: BLE001 - an error of the model must not affect other sections
            return unavailable(self._failures.record("outlook", error), time.monotonic() - started_at)
        return Section(
            status=weather.status,
            reason=weather.reason,
            age_s=weather.age_s,
            took_ms=milliseconds(time.monotonic() - started_at),
            data=outlook,
        )

    def _observations(self, record: PlaceRecord, loaded: LoadedPlaces) -> Section[list[Observation]]:
        if record.observations is None:
            error = record.error or RuntimeError("no observations were loaded")
            return unavailable(self._record("observations", error, loaded), loaded.places_elapsed)
        elapsed = milliseconds(loaded.places_elapsed)
        return Section(status=Status.OK, age_s=0.0, took_ms=elapsed, data=record.observations)

    async def _popularity(self, place_id: int, loaded: LoadedPlaces) -> Section[Popularity]:
        try:
            entry = await loaded.wait_for_cached(place_id)
            popularity = Popularity(int(entry.views) if entry.views is not None else 0)
        except Exception as error:  # noqa: BLE001 - an error of Redis must not affect other sections
            return unavailable(self._record("popularity", error, loaded), loaded.cached_elapsed)
        return Section(status=Status.OK, age_s=0.0, took_ms=milliseconds(loaded.cached_elapsed), data=popularity)

    def _record(self, part: str, error: BaseException, loaded: LoadedPlaces) -> Reason:
        """Record a failure of a section, and return its reason."""
        return self._failures.record(part, self._cause(error, loaded.started_at))

    def _cause(self, error: BaseException, started_at: float) -> BaseException:
        """Return an `OverloadedError` instead of a timeout if the event loop was held for most of the time."""
        if reason_for(error) is Reason.TIMEOUT and self._event_loop.was_held_since(started_at):
            return OverloadedError()
        return error

    def _is_overload(self, error: Exception) -> bool:
        """Return whether a call to a backend has timed out because the event loop was held."""
        return isinstance(self._cause(error, time.monotonic() - self._call_timeout), OverloadedError)
