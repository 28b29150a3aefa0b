"""Queries of the table of observations, one statement each."""

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Annotated, NamedTuple

from pydantic import Field
from sqlalchemy import BigInteger, bindparam, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.schema.tables import CONDITIONS, MAX_OBSERVATION_ID, MAX_PLACE_ID, observations


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


class ObservationPosition(NamedTuple):
    """The position of an observation in the list of its place: the latest first, then the highest id."""

    created_at: datetime
    id: int


BEFORE_ALL_OBSERVATIONS = ObservationPosition(datetime.max.replace(tzinfo=UTC), MAX_OBSERVATION_ID)

OBSERVATION_COLUMNS = [observations.c[field.name] for field in fields(Observation)]

_LATEST = (
    select(*OBSERVATION_COLUMNS)
    .where(
        observations.c.place_id == bindparam("place_id"),
        tuple_(observations.c.created_at, observations.c.id)
        < tuple_(bindparam("created_at", type_=observations.c.created_at.type), bindparam("id", type_=BigInteger)),
    )
    .order_by(observations.c.created_at.desc(), observations.c.id.desc())
    .limit(bindparam("limit"))
)
_BY_ID = select(*OBSERVATION_COLUMNS).where(
    observations.c.id == bindparam("observation_id"), observations.c.place_id == bindparam("place_id")
)


async def latest_observations(
    connection: AsyncConnection, place_id: int, limit: int = 5, after: ObservationPosition = BEFORE_ALL_OBSERVATIONS
) -> list[Observation]:
    """Fetch the latest observations of a place, the newest first. The list is empty for an unknown place.

    `after` is the position of the last observation of the previous page.
    """
    if not 0 <= place_id <= MAX_PLACE_ID:
        return []
    rows = await connection.execute(_LATEST, {"place_id": place_id, "limit": limit, **after._asdict()})
    return [Observation(*row) for row in rows]


async def get_observation(connection: AsyncConnection, place_id: int, observation_id: int) -> Observation | None:
    """Fetch one observation. Return None if the place has no observation with this id."""
    row = (await connection.execute(_BY_ID, {"place_id": place_id, "observation_id": observation_id})).first()
    return None if row is None else Observation(*row)
