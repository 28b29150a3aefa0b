"""One brief, assembled by sequential calls: shared by the tutorial and the anti-pattern."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta, timezone
from uuid import uuid4

import httpx
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractExchange
from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict
from redis.asyncio import Redis
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.contenders.orm import Observation, Place
from gateway.resources.model import DayFeatures, Model, load
from gateway.settings import Settings


class PlaceOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str
    ascii_name: str
    country_code: str
    admin1_code: str
    latitude: float
    longitude: float
    population: int
    timezone: str
    observation_count: int


class ObservationOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    place_id: int
    temperature_c: float
    condition: str
    note: str | None
    created_at: datetime
    observed_at: datetime | None


class TodayOut(BaseModel):
    date: date
    precipitation_mm: float
    temperature_max_c: float
    temperature_min_c: float
    wind_speed_m_s: float
    wind_speed_max_m_s: float


class WeatherOut(BaseModel):
    observed_at: datetime
    temperature_c: float
    relative_humidity_percent: float
    precipitation_mm: float
    weather_code: int
    wind_speed_m_s: float
    today: TodayOut


class OutlookOut(BaseModel):
    wet_tomorrow_probability: float


class PopularityOut(BaseModel):
    views: int


class SectionOut(BaseModel):
    status: str = "ok"
    reason: str | None = None
    age_s: float = 0.0
    took_ms: float


class WeatherSection(SectionOut):
    data: WeatherOut


class OutlookSection(SectionOut):
    data: OutlookOut


class ObservationsSection(SectionOut):
    data: list[ObservationOut]


class PopularitySection(SectionOut):
    data: PopularityOut


class SectionsOut(BaseModel):
    weather: WeatherSection
    outlook: OutlookSection
    observations: ObservationsSection
    popularity: PopularitySection


class BriefOut(BaseModel):
    place: PlaceOut
    complete: bool
    sections: SectionsOut


def load_model(settings: Settings) -> Model:
    return load(settings.model.path, ThreadPoolExecutor(max_workers=1))


async def assemble_brief(
    place_id: int,
    *,
    session: AsyncSession,
    http: httpx.AsyncClient,
    redis: Redis,
    exchange: AbstractExchange,
    model: Model,
) -> BriefOut:
    """Call one backend after the other, publish the event, and return the brief."""
    started_at = time.perf_counter()
    place = await session.get(Place, place_id)
    if place is None:
        raise HTTPException(404)
    statement = (
        select(Observation)
        .where(Observation.place_id == place_id)
        .order_by(Observation.created_at.desc(), Observation.id.desc())
        .limit(5)
    )
    observations = (await session.scalars(statement)).all()
    database_done_at = time.perf_counter()
    weather = await _fetch_weather(http, place)
    upstream_done_at = time.perf_counter()
    views = await redis.get(f"popularity:{place_id}")
    redis_done_at = time.perf_counter()
    probability = model.precipitation_probability(
        DayFeatures(
            precipitation_mm=weather.today.precipitation_mm,
            temperature_max_c=weather.today.temperature_max_c,
            temperature_min_c=weather.today.temperature_min_c,
            wind_speed_m_s=weather.today.wind_speed_m_s,
            date=weather.today.date,
            latitude=place.latitude,
        )
    )
    predicted_at = time.perf_counter()
    await exchange.publish(_view_event(place_id), "brief.viewed")
    return BriefOut(
        place=PlaceOut.model_validate(place),
        complete=True,
        sections=SectionsOut(
            weather=WeatherSection(took_ms=_ms(database_done_at, upstream_done_at), data=weather),
            outlook=OutlookSection(
                took_ms=_ms(redis_done_at, predicted_at), data=OutlookOut(wet_tomorrow_probability=probability)
            ),
            observations=ObservationsSection(
                took_ms=_ms(started_at, database_done_at),
                data=[ObservationOut.model_validate(row) for row in observations],
            ),
            popularity=PopularitySection(
                took_ms=_ms(upstream_done_at, redis_done_at), data=PopularityOut(views=int(views or 0))
            ),
        ),
    )


async def _fetch_weather(http: httpx.AsyncClient, place: Place) -> WeatherOut:
    response = await http.get(
        "/v1/forecast",
        params={
            "latitude": place.latitude,
            "longitude": place.longitude,
            "current": "temperature_2m,relative_humidity_2m,precipitation,weather_code,wind_speed_10m",
            "daily": "precipitation_sum,temperature_2m_max,temperature_2m_min,wind_speed_10m_mean,wind_speed_10m_max",
            "wind_speed_unit": "ms",
            "timezone": "auto",
            "forecast_days": 1,
        },
    )
    forecast = response.raise_for_status().json()
    current, daily = forecast["current"], forecast["daily"]
    zone = timezone(timedelta(seconds=forecast["utc_offset_seconds"]))
    return WeatherOut(
        observed_at=datetime.fromisoformat(current["time"]).replace(tzinfo=zone),
        temperature_c=current["temperature_2m"],
        relative_humidity_percent=current["relative_humidity_2m"],
        precipitation_mm=current["precipitation"],
        weather_code=current["weather_code"],
        wind_speed_m_s=current["wind_speed_10m"],
        today=TodayOut(
            date=daily["time"][0],
            precipitation_mm=daily["precipitation_sum"][0],
            temperature_max_c=daily["temperature_2m_max"][0],
            temperature_min_c=daily["temperature_2m_min"][0],
            wind_speed_m_s=daily["wind_speed_10m_mean"][0],
            wind_speed_max_m_s=daily["wind_speed_10m_max"][0],
        ),
    )


def _view_event(place_id: int) -> Message:
    event = {
        "id": str(uuid4()),
        "type": "brief.viewed",
        "at": datetime.now(UTC).isoformat(),
        "data": {"views": {str(place_id): 1}},
    }
    return Message(json.dumps(event).encode(), content_type="application/json", delivery_mode=DeliveryMode.PERSISTENT)


def _ms(started_at: float, done_at: float) -> float:
    return round((done_at - started_at) * 1000, 3)
