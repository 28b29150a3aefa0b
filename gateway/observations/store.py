"""The write path: an observation and its event are stored in one transaction."""

from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import bindparam, insert, select
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.events.messages import ObservationRef, ObservationReported, encode
from gateway.observations.queries import OBSERVATION_COLUMNS, Observation
from gateway.schema.tables import MAX_PLACE_ID, observations, outbox

_FOREIGN_KEY_VIOLATION = "23503"

# If the same key is inserted twice at the same time, the second statement waits until the first is committed.
_INSERT = (
    pg_insert(observations)
    .on_conflict_do_nothing(
        index_elements=[observations.c.idempotency_key], index_where=observations.c.idempotency_key.is_not(None)
    )
    .returning(*OBSERVATION_COLUMNS)
)
_BY_KEY = select(*OBSERVATION_COLUMNS).where(observations.c.idempotency_key == bindparam("key"))
_ENQUEUE = insert(outbox)


class UnknownPlaceError(Exception):
    """There is no place with this id."""


class IdempotencyConflictError(Exception):
    """The idempotency key was used for a different observation."""


@dataclass(frozen=True, slots=True)
class NewObservation:
    """An observation that is not stored yet.

    `condition` is one of `CONDITIONS`. `observed_at` has a time zone; the same time in two zones is equal.
    """

    place_id: int
    temperature_c: float
    condition: str
    note: str | None
    observed_at: datetime | None = None


async def insert_observation(
    connection: AsyncConnection, new: NewObservation, idempotency_key: str | None
) -> tuple[Observation, bool]:
    """Store an observation and its event in the transaction of `connection`.

    If the key was used before for an equal observation, nothing is stored, and the stored one is returned.

    Returns:
        The stored observation, and whether this call has stored it.

    Raises:
        UnknownPlaceError: the transaction has failed.
        IdempotencyConflictError: the key was used for a different observation.
    """
    if not 0 < new.place_id <= MAX_PLACE_ID:
        raise UnknownPlaceError
    values = asdict(new)
    try:
        row = (await connection.execute(_INSERT, {**values, "idempotency_key": idempotency_key})).first()
    except IntegrityError as error:
        if getattr(error.orig, "sqlstate", None) == _FOREIGN_KEY_VIOLATION:
            raise UnknownPlaceError from error
        raise
    if row is None:
        stored = Observation(*(await connection.execute(_BY_KEY, {"key": idempotency_key})).one())
        if any(getattr(stored, name) != value for name, value in values.items()):
            raise IdempotencyConflictError
        return stored, False
    observation = Observation(*row)
    event = ObservationReported.create(ObservationRef(observation_id=observation.id, place_id=observation.place_id))
    await connection.execute(_ENQUEUE, {"event_id": event.id, "type": event.type, "body": encode(event).decode()})
    return observation, True
