"""Putting a brief together: everything is asked for at once, and what does not answer in time is left out, and said."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

import httpx
from pydantic import Field
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.briefs.asked import Asked
from gateway.briefs.batcher import Batcher
from gateway.briefs.breaker import Breaker
from gateway.briefs.forecasts import Forecasts, Found, read
from gateway.briefs.kept import Kept, fetch_kept
from gateway.briefs.questions import Questions
from gateway.briefs.reasons import reason_of
from gateway.briefs.rows import Known, only_places, places_with_observations
from gateway.briefs.sections import Reason, Section, Status, milliseconds, unavailable
from gateway.briefs.weather import Today, Weather
from gateway.observations.queries import Observation
from gateway.places.queries import Place
from gateway.resources.model import Day, Model

# How much of the brief's time its parts have, counted from its begin: each gets less than the whole, so that there is
# time left for what waits for it, and to answer.

SHARE = 0.9
"""For any section."""

PLACE_SHARE = 0.5
"""For the place: the weather waits for it."""

OBSERVATIONS_SHARE = 0.25
"""For the place with its observations. If that is not enough, the place is asked for alone."""

LOOKUP_SHARE = 0.25
"""For what Redis keeps of the weather. Then it is asked for upstream."""

CALL_WITHIN = 1.0
"""Seconds for one call to a backend. That is longer than a brief waits for it: it may have to connect anew, and were that
given up each time, a slow network would never be connected again. Whoever comes next finds it done."""

AT_ONCE = 2
"""How many batches to one backend are under way at most: the fewer, the more questions share one."""

MOST_IN_A_BATCH = 100


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

    def named(self) -> Iterator[tuple[str, Section[Any]]]:
        """Each with its name."""
        yield "weather", self.weather
        yield "outlook", self.outlook
        yield "observations", self.observations
        yield "popularity", self.popularity


@dataclass(kw_only=True)
class Brief:
    """The aggregated answer about one place."""

    place: Place
    complete: Annotated[bool, Field(description="Whether no section is unavailable")]
    sections: Sections


class PlaceUnavailableError(Exception):
    """The database did not say in time what place that is, so there is nothing to ask the others about."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class Briefs:
    """Answers what is known about places, from all backends, within `timeout` seconds.

    Briefs that are asked for together share one statement to PostgreSQL and one command to Redis.
    """

    def __init__(
        self,
        *,
        http: httpx.AsyncClient,
        database: AsyncEngine,
        redis: Redis,
        model: Model,
        viewed: Callable[[int], object],
        timeout: float,
    ) -> None:
        """Ask nothing yet. `viewed` is called with the id of each place whose brief was put together, and takes no time."""
        self._database = database
        self._redis = redis
        self._model = model
        self._outlook_of = lru_cache(OUTLOOKS)(self._predict)  # the same day has the same, and the model takes its time
        self._viewed = viewed
        self._timeout = timeout
        self._call_within = max(CALL_WITHIN, timeout)
        self._questions = Questions()
        self._redis_breaker = Breaker(self._questions.keep)
        self._rows = Batcher(self._load_rows, self._questions.keep, at_once=AT_ONCE, most=MOST_IN_A_BATCH)
        self._places = Batcher(self._load_places, self._questions.keep, at_once=AT_ONCE, most=MOST_IN_A_BATCH)
        self._kept = Batcher(self._load_kept, self._questions.keep, at_once=AT_ONCE, most=MOST_IN_A_BATCH)
        self._forecasts = Forecasts(http=http, redis=redis, questions=self._questions, timeout=self._call_within)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Before this is left, whatever is still being asked has ended."""
        try:
            yield
        finally:
            await self._questions.end()

    async def about_all(self, place_ids: Iterable[int]) -> list[Brief | None]:
        """Put together the briefs of several places, in their order. None: there is no such place.

        Raises:
            PlaceUnavailableError: the database is away.
        """
        try:
            async with asyncio.TaskGroup() as group:
                briefs = [group.create_task(self.about(place_id)) for place_id in place_ids]
        except* PlaceUnavailableError as errors:
            unavailable_place = errors.exceptions[0]
        else:
            return [brief.result() for brief in briefs]
        raise unavailable_place

    async def about(self, place_id: int) -> Brief | None:
        """Put together the brief of a place. None: there is no such place.

        Raises:
            PlaceUnavailableError: the database is away.
        """
        began = time.monotonic()
        by = began + self._timeout * SHARE
        rows = Asked(self._rows.ask(place_id))
        kept = Asked(self._kept.ask(place_id))
        try:
            known = await self._known(place_id, rows, began)
            if known is None:
                return None
            weather = await self._weather(known.place, kept, began)
            sections = Sections(
                weather=weather,
                outlook=self._outlook(known.place, weather),
                observations=_observations(known, rows.took),
                popularity=await _popularity(kept, by),
            )
        finally:
            rows.give_up()
            kept.give_up()
        self._viewed(place_id)
        complete = all(section.status is not Status.UNAVAILABLE for _, section in sections.named())
        return Brief(place=known.place, complete=complete, sections=sections)

    async def _known(self, place_id: int, rows: Asked[Known | None], began: float) -> Known | None:
        """What PostgreSQL knows: all of it, or the place alone if that comes first where the rest fails or takes long."""
        try:
            return await rows.until(began + self._timeout * OBSERVATIONS_SHARE)
        except Exception as error:  # noqa: BLE001 - whatever it is, the place may be there
            reason = reason_of(error)
        alone = Asked(self._places.ask(place_id))
        try:
            await rows.or_until(alone, began + self._timeout * PLACE_SHARE)
            if rows.has_come:
                return await rows.until(0)
            place = await alone.until(0)
        except Exception as error:
            raise PlaceUnavailableError(reason_of(error)) from error
        finally:
            alone.give_up()
        return None if place is None else Known(place, None, reason)

    async def _weather(self, place: Place, kept: Asked[Kept | None], began: float) -> Section[Weather]:
        try:
            there = await kept.until(began + self._timeout * LOOKUP_SHARE)
        except Exception:  # noqa: BLE001 - Redis is away: whatever it has is not needed
            there = None
        remembered = None if there is None else there.weather
        found = await self._forecasts.find(place, remembered, by=began + self._timeout * SHARE)
        if found.forecast is None and kept.has_come and (late := await kept.until(0)) is not None:
            found = Found(read(late.weather), fresh=False, reason=found.reason)  # better than none
        took = milliseconds(time.monotonic() - began)
        if found.forecast is None:
            return Section(status=Status.UNAVAILABLE, reason=found.reason, took_ms=took)
        return Section(
            status=Status.OK if found.fresh else Status.STALE,
            reason=found.reason,
            age_s=round(found.forecast.age, 3),
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
            return unavailable(reason_of(error), time.monotonic() - began)
        return Section(
            status=weather.status,
            reason=weather.reason,
            age_s=weather.age_s,
            took_ms=milliseconds(time.monotonic() - began),
            data=outlook,
        )

    def _predict(self, today: Today, latitude: float) -> Outlook:
        day = Day(
            precipitation_mm=today.precipitation_mm,
            temperature_max_c=today.temperature_max_c,
            temperature_min_c=today.temperature_min_c,
            wind_m_s=today.wind_speed_max_m_s,
            date=today.date,
            latitude=latitude,
        )
        return Outlook(self._model.precipitation_probability(day))

    async def _load_rows(self, place_ids: list[int]) -> Mapping[int, Known]:
        return await self._questions.ask(places_with_observations(self._database, place_ids), within=self._call_within)

    async def _load_places(self, place_ids: list[int]) -> Mapping[int, Place]:
        return await self._questions.ask(only_places(self._database, place_ids), within=self._call_within)

    async def _load_kept(self, place_ids: list[int]) -> Mapping[int, Kept]:
        """Ask Redis, unless it has been failing."""

        async def ask() -> Mapping[int, Kept]:
            return await self._questions.ask(fetch_kept(self._redis, place_ids), within=self._call_within)

        return await self._redis_breaker.call(ask)


def _observations(known: Known, took: float) -> Section[list[Observation]]:
    if known.observations is None:
        return unavailable(known.reason or Reason.ERROR, took)
    return Section(status=Status.OK, age_s=0.0, took_ms=milliseconds(took), data=known.observations)


async def _popularity(kept: Asked[Kept | None], by: float) -> Section[Popularity]:
    try:
        there = await kept.until(by)
        views = int(there.views) if there is not None and there.views is not None else 0
        popularity = Popularity(views)
    except Exception as error:  # noqa: BLE001 - any failure is this section's, and no other's
        return unavailable(reason_of(error), kept.took)
    return Section(status=Status.OK, age_s=0.0, took_ms=milliseconds(kept.took), data=popularity)
