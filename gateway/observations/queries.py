"""Queries of the table of observations, one statement each."""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Annotated

from pydantic import Field
from sqlalchemy import bindparam, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.schema.tables import CONDITIONS, MAX_PLACE_ID, observations


@dataclass
class Observation:
    """A report about the weather at a place. Both times have a time zone."""

    id: int
    place_id: int
    temperature_c: float
    # Not validated as a `Condition`: a brief must accept the words that the next version adds.
    condition: Annotated[
        str, Field(json_schema_extra={"enum": list(CONDITIONS)}, description="Later versions may add words")
    ]
    note: str | None
    created_at: Annotated[datetime, Field(description="The time at which it was stored. Lists are sorted by it.")]
    observed_at: Annotated[datetime | None, Field(description="The time of the observation, if the reporter gave one")]


OBSERVATION_COLUMNS = [observations.c[field.name] for field in fields(Observation)]

_LATEST = (
    select(*OBSERVATION_COLUMNS)
    .where(observations.c.place_id == bindparam("place_id"))
    .order_by(observations.c.created_at.desc(), observations.c.id.desc())
    .limit(bindparam("limit"))
)
_BY_ID = select(*OBSERVATION_COLUMNS).where(
    observations.c.id == bindparam("observation_id"), observations.c.place_id == bindparam("place_id")
)


async def latest_observations(connection: AsyncConnection, place_id: int, limit: int = 5) -> list[Observation]:
    """Fetch the latest observations of a place, the newest first. The list is empty for an unknown place."""
    if not 0 <= place_id <= MAX_PLACE_ID:
        return []
    rows = await connection.execute(_LATEST, {"place_id": place_id, "limit": limit})
    return [Observation(*row) for row in rows]


async def get_observation(connection: AsyncConnection, place_id: int, observation_id: int) -> Observation | None:
    """Fetch one observation. Return None if the place has no observation with this id."""
    row = (await connection.execute(_BY_ID, {"place_id": place_id, "observation_id": observation_id})).first()
    return None if row is None else Observation(*row)
