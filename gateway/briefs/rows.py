"""What PostgreSQL knows for a brief: places with their latest observations, all in one statement."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from asyncpg import Record
from sqlalchemy import ARRAY, Integer, Select, any_, bindparam, literal_column, select, true
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
    .lateral("latest")
)
_PLACES = _sql(select(*PLACE_COLUMNS).where(_WANTED))
_PLACES_WITH_OBSERVATIONS = _sql(
    select(*PLACE_COLUMNS, *_latest.c)
    .select_from(places.outerjoin(_latest, true()))
    .where(_WANTED)
    .order_by(places.c.id, _latest.c.created_at.desc(), _latest.c.id.desc())
)


async def places_with_observations(database: AsyncEngine, place_ids: Sequence[int]) -> dict[int, Known]:
    """Fetch places, each with its latest observations. Those that do not exist are left out."""
    async with reading(database) as connection:
        rows = await connection.fetch(_PLACES_WITH_OBSERVATIONS, place_ids)
    return {place_id: _known(list(its_rows)) for place_id, its_rows in groupby(rows, key=itemgetter(0))}


async def only_places(database: AsyncEngine, place_ids: Sequence[int]) -> dict[int, Place]:
    """Fetch places. Those that do not exist are left out."""
    async with reading(database) as connection:
        rows = await connection.fetch(_PLACES, place_ids)
    return {row[0]: Place(*row) for row in rows}


def _known(rows: Sequence[Record]) -> Known:
    width = len(PLACE_COLUMNS)
    return Known(Place(*rows[0][:width]), [Observation(*row[width:]) for row in rows if row[width] is not None])
