"""The write path: an observation and the event that tells of it, in one transaction."""

from dataclasses import dataclass

from sqlalchemy import bindparam, insert, select
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.events.messages import ObservationRef, ObservationReported, encode
from gateway.observations.queries import OBSERVATION_COLUMNS, Observation
from gateway.schema.tables import MAX_PLACE_ID, observations, outbox

_FOREIGN_KEY = "23503"


class UnknownPlaceError(Exception):
    """There is no place to report about."""


class IdempotencyConflictError(Exception):
    """The key belongs to another report already."""


@dataclass(frozen=True, slots=True)
class NewObservation:
    """What somebody says about a place."""

    place_id: int
    temperature_c: float
    condition: str
    note: str | None


# Of two with the same key that come at once, the second waits here until the first is committed.
_INSERT = (
    pg_insert(observations)
    .on_conflict_do_nothing(
        index_elements=[observations.c.idempotency_key], index_where=observations.c.idempotency_key.is_not(None)
    )
    .returning(*OBSERVATION_COLUMNS)
)
_BY_KEY = select(*OBSERVATION_COLUMNS).where(observations.c.idempotency_key == bindparam("key"))
_ENQUEUE = insert(outbox)


async def insert_observation(
    connection: AsyncConnection, report: NewObservation, key: str | None
) -> tuple[Observation, bool]:
    """Store a report in the transaction of `connection`, and whether it was new.

    The same `key` again stores nothing, and returns what was stored for it. Whether it was the same report, the
    observation itself tells: it has all of it.

    Raises:
        UnknownPlaceError: the transaction has failed.
        IdempotencyConflictError: the key was used for another report.
    """
    if not 0 < report.place_id <= MAX_PLACE_ID:
        raise UnknownPlaceError
    values = {
        "place_id": report.place_id,
        "temperature_c": report.temperature_c,
        "condition": report.condition,
        "note": report.note,
    }
    try:
        row = (await connection.execute(_INSERT, {**values, "idempotency_key": key})).first()
    except IntegrityError as error:
        if getattr(error.orig, "sqlstate", None) == _FOREIGN_KEY:
            raise UnknownPlaceError from error
        raise
    if row is None:
        stored = Observation(*(await connection.execute(_BY_KEY, {"key": key})).one())
        if any(getattr(stored, name) != value for name, value in values.items()):
            raise IdempotencyConflictError
        return stored, False
    observation = Observation(*row)
    event = ObservationReported.create(ObservationRef(observation_id=observation.id, place_id=report.place_id))
    await connection.execute(_ENQUEUE, {"event_id": event.id, "type": event.type, "body": encode(event).decode()})
    return observation, True
