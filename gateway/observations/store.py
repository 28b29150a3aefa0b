"""The write path: an observation and its event are stored in one transaction, once for each idempotency key."""

from dataclasses import asdict, dataclass, fields
from datetime import datetime

from sqlalchemy import bindparam, func, insert, select
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.events.messages import ObservationRef, ObservationReported, encode
from gateway.observations.queries import OBSERVATION_COLUMNS, Observation
from gateway.schema.tables import MAX_PLACE_ID, observations, outbox

_FOREIGN_KEY_VIOLATION = "23503"


class UnknownPlaceError(Exception):
    """There is no place with this id."""


class KeyReusedError(Exception):
    """The idempotency key was used for a different observation."""


class KeyInFlightError(Exception):
    """Another transaction stores an observation with the same idempotency key, and has not ended."""


@dataclass(frozen=True, slots=True)
class NewObservation:
    """An observation that is not stored yet.

    `condition` is one of `CONDITIONS`. `observed_at` has a time zone; the same time in two zones is equal. `reporter` is the
    name of the API key, or empty without one. It is not public.
    """

    place_id: int
    temperature_c: float
    condition: str
    note: str | None
    observed_at: datetime | None = None
    reporter: str = ""


_INSERT = insert(observations).returning(*OBSERVATION_COLUMNS)

# Nothing is inserted if the key was used before, or if another transaction uses it now and holds the lock of the key. Without
# the lock, the statement would wait for the end of that transaction.
_KEY = observations.c.idempotency_key
_COLUMNS = [*(observations.c[field.name] for field in fields(NewObservation)), _KEY]
_INSERT_ONCE = (
    pg_insert(observations)
    .from_select(
        _COLUMNS,
        select(*(bindparam(column.name, type_=column.type) for column in _COLUMNS)).where(
            func.pg_try_advisory_xact_lock(func.hashtextextended(bindparam(_KEY.name, type_=_KEY.type), 0))
        ),
    )
    .on_conflict_do_nothing(index_elements=[_KEY], index_where=_KEY.is_not(None))
    .returning(*OBSERVATION_COLUMNS)
)
_BY_KEY = select(*OBSERVATION_COLUMNS).where(observations.c.idempotency_key == bindparam("key"))
_ENQUEUE = insert(outbox)


async def insert_observation(
    connection: AsyncConnection, new: NewObservation, idempotency_key: str | None
) -> tuple[Observation, bool]:
    """Store an observation and its event in the transaction of `connection`.

    If the reporter has used the key before for an equal observation of the same place, nothing is stored, and the stored one
    is returned.

    Returns:
        The stored observation, and whether this call has stored it.

    Raises:
        UnknownPlaceError: the transaction has failed.
        KeyReusedError: the key was used for a different observation.
        KeyInFlightError: another transaction with the key has not ended.
    """
    if not 0 < new.place_id <= MAX_PLACE_ID:
        raise UnknownPlaceError
    key = None if idempotency_key is None else _stored_key(new, idempotency_key)
    statement, parameters = (_INSERT, {}) if key is None else (_INSERT_ONCE, {_KEY.name: key})
    try:
        row = (await connection.execute(statement, {**asdict(new), **parameters})).one_or_none()
    except IntegrityError as error:
        if getattr(error.orig, "sqlstate", None) == _FOREIGN_KEY_VIOLATION:
            raise UnknownPlaceError from error
        raise
    if row is None:
        stored = (await connection.execute(_BY_KEY, {"key": key})).one_or_none()
        if stored is None:
            raise KeyInFlightError
        return _require_equal(Observation(*stored), new), False
    observation = Observation(*row)
    event = ObservationReported.create(ObservationRef(observation_id=observation.id, place_id=observation.place_id))
    await connection.execute(_ENQUEUE, {"event_id": event.id, "type": event.type, "body": encode(event).decode()})
    return observation, True


def _stored_key(new: NewObservation, idempotency_key: str) -> str:
    """Return the key as it is stored: each reporter has keys of its own for each place. None of the parts has a space."""
    return f"{new.reporter} {new.place_id} {idempotency_key}"


def _require_equal(stored: Observation, new: NewObservation) -> Observation:
    """Return the stored observation.

    Raises:
        KeyReusedError: the new one is different.
    """
    if any(getattr(stored, name) != value for name, value in asdict(new).items() if name != "reporter"):
        raise KeyReusedError
    return stored
