"""Putting a brief together: everything is asked for at once, and what does not answer in time is left out, and said."""

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, Field
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.briefs.questions import Questions
from gateway.briefs.reasons import reason_of
from gateway.briefs.sections import Reason, Section, Status
from gateway.briefs.weather import Weather, fetch_weather
from gateway.observations.queries import Observation, latest_observations
from gateway.places.queries import Place, get
from gateway.resources.model import Day, Model

T = TypeVar("T")

SHARE = 0.9
"""How much of the brief's time its parts may take, so that there is time left to answer."""

PLACE_SHARE = 0.4
"""How much of it the place may take. The weather waits for it, and shall have its time however slow the database is."""


class Outlook(BaseModel):
    """What the model makes of the weather."""

    wet_tomorrow_probability: float = Field(ge=0, le=1, description="The chance that tomorrow is wet")


class Popularity(BaseModel):
    """How often a place was asked for."""

    views: int = Field(ge=0)


class Sections(BaseModel):
    """The parts of a brief."""

    weather: Section[Weather]
    outlook: Section[Outlook]
    observations: Section[list[Observation]]
    popularity: Section[Popularity]


class Brief(BaseModel):
    """The aggregated answer about one place."""

    place: Place
    complete: bool = Field(description="Whether no section is unavailable")
    sections: Sections


class PlaceUnavailableError(Exception):
    """The database did not say in time what place that is, so there is nothing to ask the others about."""

    def __init__(self, reason: Reason | None) -> None:
        super().__init__(reason)
        self.reason = reason


class Briefs:
    """Answers what is known about a place, from all backends, within `timeout` seconds."""

    def __init__(
        self,
        *,
        http: httpx.AsyncClient,
        database: AsyncEngine,
        redis: Redis,
        model: Model,
        timeout: float,
    ) -> None:
        self._http = http
        self._database = database.execution_options(isolation_level="AUTOCOMMIT")
        self._redis = redis
        self._model = model
        self._questions = Questions()
        self._timeout = timeout

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Before this is left, whatever is still being asked has ended."""
        try:
            yield
        finally:
            await self._questions.end()

    async def about(self, place_id: int) -> Brief | None:
        """Put together the brief of a place. None: there is no such place.

        Raises:
            PlaceUnavailableError: the database is away.
        """
        began = time.monotonic()
        by = began + self._timeout * SHARE
        async with asyncio.TaskGroup() as group:
            observations = group.create_task(self._section(self._observations(place_id), by))
            popularity = group.create_task(self._section(self._popularity(place_id), by))
            found = await self._section(self._place(place_id), began + self._timeout * PLACE_SHARE)
            place = found.data
            if place is None:
                observations.cancel()
                popularity.cancel()
            else:
                weather = await self._section(fetch_weather(self._http, place), by)
                outlook = await self._outlook(place, weather, by)
        if found.status is Status.UNAVAILABLE:
            raise PlaceUnavailableError(found.reason)
        if place is None:
            return None
        sections = Sections(
            weather=weather, outlook=outlook, observations=observations.result(), popularity=popularity.result()
        )
        complete = all(section.status is not Status.UNAVAILABLE for _, section in sections)
        return Brief(place=place, complete=complete, sections=sections)

    async def _section(self, question: Coroutine[Any, Any, T], by: float) -> Section[T]:
        """Ask, and make of the answer or of its absence a section. It never raises, whatever the source does."""
        began = time.monotonic()
        try:
            data = await self._questions.ask(question, within=by - began)
        except Exception as error:  # noqa: BLE001 - any failure is this section's, and no other's
            return _unavailable(reason_of(error), began)
        return Section(status=Status.OK, age_s=0, took_ms=_milliseconds_since(began), data=data)

    async def _place(self, place_id: int) -> Place | None:
        async with self._database.connect() as connection:
            return await get(connection, place_id)

    async def _observations(self, place_id: int) -> list[Observation]:
        async with self._database.connect() as connection:
            return await latest_observations(connection, place_id)

    async def _popularity(self, place_id: int) -> Popularity:
        views = await self._redis.get(popularity_key(place_id))
        return Popularity(views=0 if views is None else int(views))

    async def _outlook(self, place: Place, weather: Section[Weather], by: float) -> Section[Outlook]:
        if weather.data is None:
            return _unavailable(Reason.NO_WEATHER, time.monotonic())
        section = await self._section(self._predict(place, weather.data), by)
        return (
            section.model_copy(update={"status": weather.status, "age_s": weather.age_s}) if section.data else section
        )

    async def _predict(self, place: Place, weather: Weather) -> Outlook:
        today = weather.today
        day = Day(
            precipitation_mm=today.precipitation_mm,
            temperature_max_c=today.temperature_max_c,
            temperature_min_c=today.temperature_min_c,
            wind_m_s=today.wind_speed_max_m_s,
            date=today.date,
            latitude=place.latitude,
        )
        return Outlook(wet_tomorrow_probability=self._model.precipitation_probability(day))


def popularity_key(place_id: int) -> str:
    """Where in Redis the views of a place are counted."""
    return f"popularity:{place_id}"


def _unavailable(reason: Reason, began: float) -> Section[Any]:
    return Section(status=Status.UNAVAILABLE, reason=reason, took_ms=_milliseconds_since(began))


def _milliseconds_since(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 3)
