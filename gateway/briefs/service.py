"""Putting a brief together: everything is asked for at once, and what does not answer in time is left out, and said."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Collection, ItemsView
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Self

import httpx
from pydantic import Field
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.briefs.models import OK, STALE, UNAVAILABLE, Reason, Section, milliseconds, unavailable
from gateway.briefs.place_loader import LoadedPlaces, PlaceLoader
from gateway.briefs.queries import PlaceRecord
from gateway.briefs.reasons import reason_for
from gateway.briefs.weather import DailyForecast, Weather
from gateway.briefs.weather_cache import WeatherCache, WeatherResult, read
from gateway.concurrency import TaskPool
from gateway.observations.queries import Observation
from gateway.places.queries import Place
from gateway.resources.base import Resource
from gateway.resources.model import DayFeatures, Model
from gateway.resources.reading import DatabaseReader, RedisReader

CALL_WITHIN = 1.0
"""Seconds for one call to a backend. That is longer than a brief waits for it: it may have to connect anew, and were that
given up each time, a slow network would never be connected again. Whoever comes next finds it done."""

OUTLOOKS = 10_000
"""The most days whose outlook is remembered."""

MOST_VIEWS = 2**63
"""Redis' own counters stay below it; a text that somebody has put there need not."""


@dataclass(frozen=True)
class Outlook:
    """What the model makes of the weather."""

    wet_tomorrow_probability: Annotated[float, Field(ge=0, le=1, description="The chance that tomorrow is wet")]


@dataclass
class Popularity:
    """How often a place was asked for."""

    views: Annotated[int, Field(ge=0, lt=MOST_VIEWS)]

    def __post_init__(self) -> None:
        if not 0 <= self.views < MOST_VIEWS:
            raise ValueError("what Redis has there is no count")


@dataclass(kw_only=True)
class Sections:
    """The parts of a brief."""

    weather: Section[Weather]
    outlook: Section[Outlook]
    observations: Section[list[Observation]]
    popularity: Section[Popularity]

    def named(self) -> ItemsView[str, Section[Any]]:
        """Each with its name."""
        return vars(self).items()


@dataclass(kw_only=True)
class Brief:
    """The aggregated answer about one place."""

    place: Place
    complete: Annotated[bool, Field(description="Whether no section is unavailable")]
    sections: Sections


class BriefService(Resource["BriefService"]):
    """Answers what is known about places, from all backends, within `timeout` seconds.

    Briefs that are asked for together share one statement to PostgreSQL and one command to Redis.
    """

    name = "briefs"

    def __init__(
        self,
        *,
        http: httpx.AsyncClient,
        database: AsyncEngine,
        redis: Redis,
        model: Model,
        on_viewed: Callable[[int], object],
        timeout: float,
    ) -> None:
        """Ask nothing yet. `on_viewed` is called with the id of each place whose brief was put together, and takes no time."""
        super().__init__()
        self._model = model
        self._outlook_of = lru_cache(OUTLOOKS)(self._predict)  # the same day has the same, and the model takes its time
        self._on_viewed = on_viewed
        self._questions = TaskPool()
        call_within = max(CALL_WITHIN, timeout)
        self._readers = (DatabaseReader(database), RedisReader(redis))
        self._lookups = PlaceLoader(*self._readers, questions=self._questions, timeout=timeout, call_within=call_within)
        self._forecasts = WeatherCache(http=http, redis=redis, questions=self._questions, timeout=call_within)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Self]:
        """Before this is left, whatever is still being asked has ended, and the pools have their connections back."""
        async with AsyncExitStack() as stack:
            for reader in self._readers:
                stack.push_async_callback(reader.close)
            stack.push_async_callback(self._questions.aclose)
            yield self

    async def get_many(self, place_ids: Collection[int]) -> list[Brief | None]:
        """Put together the briefs of several places, in their order. None: there is no such place.

        Raises:
            PlaceUnavailableError: the database is away.
        """
        lookup = await self._lookups.ask(place_ids)
        async with asyncio.TaskGroup() as group:
            briefs = [group.create_task(self._put_together(place_id, lookup)) for place_id in place_ids]
        return [brief.result() for brief in briefs]

    async def get(self, place_id: int) -> Brief | None:
        """Put together the brief of a place. None: there is no such place.

        Raises:
            PlaceUnavailableError: the database is away.
        """
        return await self._put_together(place_id, await self._lookups.ask([place_id]))

    async def _put_together(self, place_id: int, lookup: LoadedPlaces) -> Brief | None:
        known = lookup.known.get(place_id)
        if known is None:
            return None
        weather = await self._weather(known.place, lookup)
        outlook = self._outlook(known.place, weather)
        observations = _observations(known, lookup.known_took)
        popularity = await _popularity(place_id, lookup)
        self._on_viewed(place_id)
        return Brief(
            place=known.place,
            complete=UNAVAILABLE not in (weather.status, outlook.status, observations.status, popularity.status),
            sections=Sections(weather=weather, outlook=outlook, observations=observations, popularity=popularity),
        )

    async def _weather(self, place: Place, lookup: LoadedPlaces) -> Section[Weather]:
        kept = lookup.kept_by_now(place.id)
        found = await self._forecasts.find(place, None if kept is None else kept.weather, by=lookup.by)
        if found.forecast is None and kept is None and (late := lookup.kept_by_now(place.id)) is not None:
            found = WeatherResult(read(late.weather), fresh=False, reason=found.reason)  # better than none
        took = milliseconds(time.monotonic() - lookup.began)
        if found.forecast is None:
            return Section(status=UNAVAILABLE, reason=found.reason, took_ms=took)
        return Section(
            status=OK if found.fresh else STALE,
            reason=found.reason,
            age_s=math.ceil(found.forecast.age * 1000) / 1000,  # not younger than it is
            took_ms=took,
            data=found.forecast.weather,
        )

    def _outlook(self, place: Place, weather: Section[Weather]) -> Section[Outlook]:
        """What the model makes of the weather: as old as that, and as stale."""
        began = time.monotonic()
        if weather.data is None:
            return unavailable(Reason.NO_WEATHER, 0.0)
        try:
            outlook = self._outlook_of(weather.data.today, place.latitude)
        except Exception as error:  # noqa: BLE001 - any failure is this section's, and no other's
            return unavailable(reason_for(error), time.monotonic() - began)
        return Section(
            status=weather.status,
            reason=weather.reason,
            age_s=weather.age_s,
            took_ms=milliseconds(time.monotonic() - began),
            data=outlook,
        )

    def _predict(self, today: DailyForecast, latitude: float) -> Outlook:
        day = DayFeatures(
            precipitation_mm=today.precipitation_mm,
            temperature_max_c=today.temperature_max_c,
            temperature_min_c=today.temperature_min_c,
            wind_m_s=today.wind_speed_max_m_s,
            date=today.date,
            latitude=latitude,
        )
        return Outlook(self._model.precipitation_probability(day))


def _observations(known: PlaceRecord, took: float) -> Section[list[Observation]]:
    if known.observations is None:
        return unavailable(known.reason or Reason.ERROR, took)
    return Section(status=OK, age_s=0.0, took_ms=milliseconds(took), data=known.observations)


async def _popularity(place_id: int, lookup: LoadedPlaces) -> Section[Popularity]:
    kept = lookup.kept
    try:
        there = (await kept.until(lookup.by))[place_id]
        popularity = Popularity(int(there.views) if there.views is not None else 0)
    except Exception as error:  # noqa: BLE001 - any failure is this section's, and no other's
        return unavailable(reason_for(error), kept.took)
    return Section(status=OK, age_s=0.0, took_ms=milliseconds(kept.took), data=popularity)
