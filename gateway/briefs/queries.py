"""What PostgreSQL knows for a brief: places with their latest observations, all in one statement."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import ARRAY, Integer, Select, Text, any_, bindparam, cast, func, literal_column, select
from sqlalchemy.dialects.postgresql import asyncpg

from gateway.briefs.models import Reason
from gateway.observations.queries import OBSERVATION_COLUMNS, Observation
from gateway.places.queries import PLACE_COLUMNS, Place
from gateway.resources.reading import DatabaseReader
from gateway.schema.tables import observations, places

OBSERVATIONS = 5
"""How many of the latest a brief has."""

READ = 1_000
"""The most lists of observations that are remembered as what they are, and not only as text."""

LARGEST_READ = 4096
"""In characters. Most have some 900; what is larger is read each time, for it would take memory."""


@dataclass(slots=True)
class PlaceRecord:
    """A place, and what was reported about it lately, the newest first."""

    place: Place
    observations: list[Observation] | None
    """None: they could not be fetched."""
    reason: Reason | None = None
    """Why not."""


def _sql(statement: Select[*tuple[Any, ...]]) -> str:
    """The text of a statement: compiled once, and not with each brief."""
    return str(statement.compile(dialect=asyncpg.dialect()))  # type: ignore[no-untyped-call]


_NEWEST_FIRST = (observations.c.created_at.desc(), observations.c.id.desc())
_WANTED = places.c.id == any_(bindparam("place_ids", type_=ARRAY(Integer)))

_latest = (
    select(*OBSERVATION_COLUMNS)
    .where(observations.c.place_id == places.c.id)
    .order_by(*_NEWEST_FIRST)
    .limit(literal_column(str(OBSERVATIONS)))
    .correlate(places)
    .subquery("latest")
)
# As the text of JSON, in the order of the subquery, which PostgreSQL keeps: their columns would take the driver longer than all else.
_as_json = select(cast(func.json_agg(_latest.table_valued()), Text)).scalar_subquery()
_PLACES = _sql(select(*PLACE_COLUMNS).where(_WANTED))
_PLACES_WITH_OBSERVATIONS = _sql(select(*PLACE_COLUMNS, _as_json).where(_WANTED))

_read = TypeAdapter(list[Observation]).validate_json
_read_once = lru_cache(READ)(_read)  # the same text is the same observations


async def places_with_observations(database: DatabaseReader, place_ids: Sequence[int]) -> dict[int, PlaceRecord]:
    """Fetch places, each with its latest observations. Those that do not exist are left out."""
    rows = await database.fetch(_PLACES_WITH_OBSERVATIONS, place_ids)
    return {row[0]: _known(Place(*row[:-1]), row[-1] or "[]") for row in rows}


async def only_places(database: DatabaseReader, place_ids: Sequence[int]) -> dict[int, Place]:
    """Fetch places. Those that do not exist are left out."""
    rows = await database.fetch(_PLACES, place_ids)
    return {row[0]: Place(*row) for row in rows}


def _known(place: Place, latest: str) -> PlaceRecord:
    try:
        return PlaceRecord(place, _read_once(latest) if len(latest) <= LARGEST_READ else _read(latest))
    except ValidationError:  # somebody has spoiled a row by hand; that is nothing to the other places
        return PlaceRecord(place, None, Reason.ERROR)
