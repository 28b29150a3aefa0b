"""The queries of a brief: one statement to PostgreSQL and one command to Redis, each for several places."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from redis.asyncio import Redis
from sqlalchemy import ARRAY, Integer, Select, Text, any_, bindparam, cast, func, literal_column, select
from sqlalchemy.dialects import postgresql

from gateway.briefs.pinned_connections import PinnedConnections
from gateway.observations.queries import OBSERVATION_COLUMNS, Observation
from gateway.places.queries import PLACE_COLUMNS, Place
from gateway.schema.tables import observations, places

LATEST_LIMIT = 5  # observations in a brief

PARSE_CACHE_SIZE = 1_000
MAX_PARSE_CACHE_CHARS = 4096  # most lists of observations have some 1,000; longer ones are not cached, to save memory


class InvalidRowError(Exception):
    """The observations of a place have values that the gateway did not write."""


@dataclass(slots=True)
class PlaceRecord:
    """A place and its latest observations, the newest first.

    Attributes:
        place: the place.
        observations: None if they are unavailable.
        error: the reason why they are unavailable.
    """

    place: Place
    observations: list[Observation] | None
    error: Exception | None = None


@dataclass(slots=True)
class CachedEntry:
    """The values in Redis about one place, undecoded. None: the key does not exist, or is not a string.

    Attributes:
        weather: a `CachedWeather` as JSON.
        views: the count of its views, in decimal digits.
    """

    weather: bytes | None
    views: bytes | None


def _compile(statement: Select[*tuple[Any, ...]]) -> str:
    return str(statement.compile(dialect=postgresql.asyncpg.dialect()))  # type: ignore[no-untyped-call]


_BY_PLACE_IDS = places.c.id == any_(bindparam("place_ids", type_=ARRAY(Integer)))

_latest = (
    select(*OBSERVATION_COLUMNS)
    .where(observations.c.place_id == places.c.id)
    .order_by(observations.c.created_at.desc(), observations.c.id.desc())
    .limit(literal_column(str(LATEST_LIMIT)))
    .correlate(places)
    .subquery("latest")
)
# The observations of a place come as one JSON text, which is far cheaper than a row for each. PostgreSQL keeps their order.
_latest_as_json = select(cast(func.json_agg(_latest.table_valued()), Text)).scalar_subquery()
_PLACES = _compile(select(*PLACE_COLUMNS).where(_BY_PLACE_IDS))
_PLACES_WITH_OBSERVATIONS = _compile(select(*PLACE_COLUMNS, _latest_as_json).where(_BY_PLACE_IDS))

# MSET sets no expiry, and only Redis 8.4 has MSETEX.
_SET_ALL = """
for index, key in ipairs(KEYS) do
    redis.call('SET', key, ARGV[index + 1], 'EX', ARGV[1])
end
"""

_parse = TypeAdapter(list[Observation]).validate_json
_parse_cached = lru_cache(PARSE_CACHE_SIZE)(_parse)


async def fetch_places_with_observations(
    database: PinnedConnections, place_ids: Sequence[int]
) -> dict[int, PlaceRecord]:
    """Fetch several places, each with its latest observations, by id. Places that do not exist are left out.

    Raises:
        OSError, asyncpg.PostgresError, sqlalchemy.exc.SQLAlchemyError: the database is unavailable.
    """
    rows = await database.fetch(_PLACES_WITH_OBSERVATIONS, place_ids)
    return {row[0]: _to_record(Place(*row[:-1]), row[-1] or "[]") for row in rows}


async def fetch_places(database: PinnedConnections, place_ids: Sequence[int]) -> dict[int, Place]:
    """Fetch several places by id. Places that do not exist are left out.

    Raises:
        OSError, asyncpg.PostgresError, sqlalchemy.exc.SQLAlchemyError: the database is unavailable.
    """
    rows = await database.fetch(_PLACES, place_ids)
    return {row[0]: Place(*row) for row in rows}


async def fetch_cached(redis: Redis, place_ids: Sequence[int]) -> dict[int, CachedEntry]:
    """Fetch the values in Redis about several places, by id, in one command.

    Raises:
        redis.RedisError, OSError: Redis is unavailable.
    """
    keys = [key for place_id in place_ids for key in (weather_key(place_id), popularity_key(place_id))]
    values: Iterator[Any] = iter(await redis.mget(keys))  # bytes, because the client does not decode them
    return {place_id: CachedEntry(next(values), next(values)) for place_id in place_ids}


async def store_weather(redis: Redis, values: Mapping[int, bytes], *, ttl: int) -> None:
    """Store the weather of several places, by id, in one command. It expires after `ttl` seconds.

    Raises:
        redis.RedisError, OSError: Redis is unavailable, or rejects writes.
    """
    keys = map(weather_key, values)
    await redis.eval(_SET_ALL, len(values), *keys, ttl, *values.values())


def weather_key(place_id: int) -> str:
    """Return the key in Redis of the weather of a place."""
    return f"weather:{place_id}"


def popularity_key(place_id: int) -> str:
    """Return the key in Redis of the views of a place."""
    return f"popularity:{place_id}"


def _to_record(place: Place, latest: str) -> PlaceRecord:
    parse = _parse_cached if len(latest) <= MAX_PARSE_CACHE_CHARS else _parse
    try:
        return PlaceRecord(place, parse(latest))
    except ValidationError as error:  # a row was edited by hand; the other places are unaffected
        return PlaceRecord(place, None, InvalidRowError(f"place {place.id}: {error.error_count()} invalid values"))
