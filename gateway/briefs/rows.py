"""What PostgreSQL knows for a brief: places with their latest observations, all in one statement."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from asyncpg import Record
from sqlalchemy import ARRAY, Integer, Select, any_, bindparam, func, literal_column, select, true
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.briefs.sections import Reason
from gateway.observations.queries import OBSERVATION_COLUMNS, Observation
from gateway.places.queries import PLACE_COLUMNS, Place
from gateway.resources.database import reading
from gateway.schema.tables import observations, places

OBSERVATIONS = 5
"""How many of the latest a brief has."""


@dataclass(slots=True)
class Known:
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
    .lateral("latest")
)
# One row for each place, with an array for each column of its observations, in the order of the subquery, which PostgreSQL
# keeps: as rows of their own they would repeat the place.
_columns = select(*(func.array_agg(column).label(column.name) for column in _latest.c)).lateral("columns")
_PLACES = _sql(select(*PLACE_COLUMNS).where(_WANTED))
_PLACES_WITH_OBSERVATIONS = _sql(
    select(*PLACE_COLUMNS, *_columns.c).select_from(places.join(_columns, true())).where(_WANTED)
)


async def places_with_observations(database: AsyncEngine, place_ids: Sequence[int]) -> dict[int, Known]:
    """Fetch places, each with its latest observations. Those that do not exist are left out."""
    async with reading(database) as connection:
        rows = await connection.fetch(_PLACES_WITH_OBSERVATIONS, place_ids)
    return {row[0]: _known(row) for row in rows}


async def only_places(database: AsyncEngine, place_ids: Sequence[int]) -> dict[int, Place]:
    """Fetch places. Those that do not exist are left out."""
    async with reading(database) as connection:
        rows = await connection.fetch(_PLACES, place_ids)
    return {row[0]: Place(*row) for row in rows}


def _known(row: Record) -> Known:
    width = len(PLACE_COLUMNS)
    has_any = row[width] is not None
    return Known(Place(*row[:width]), list(map(Observation, *row[width:])) if has_any else [])
