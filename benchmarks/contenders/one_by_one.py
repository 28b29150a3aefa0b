"""The gateway without groups: a transaction of two statements for each observation, and an upstream call for each place."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any

import structlog
from sqlalchemy import bindparam, func, insert, select
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway import lifespan
from gateway.briefs import places_per_call
from gateway.cli import main
from gateway.events.messages import ObservationRef, ObservationReported, encode
from gateway.observations.queries import OBSERVATION_COLUMNS, Observation
from gateway.observations.reports import NewObservation, Stored
from gateway.observations.writer import ObservationWriter
from gateway.schema.tables import observations, outbox

MAX_TRANSACTIONS = 8  # at a time

_KEY = observations.c.idempotency_key
_COLUMNS = [*(observations.c[field.name] for field in fields(NewObservation)), _KEY]
_INSERT = (
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
_ENQUEUE = insert(outbox)

log = structlog.get_logger("gateway.writer")


class OneByOneWriter(ObservationWriter):
    """Stores observations with new idempotency keys, each in a transaction of its own."""

    def __init__(self, database: AsyncEngine, on_stored: Callable[[], object], **options: Any) -> None:
        super().__init__(database, on_stored, **options)
        self._engine = database
        self._notify_relay = on_stored
        self._transactions = asyncio.Semaphore(MAX_TRANSACTIONS)

    async def write(self, new: NewObservation, idempotency_key: str | None) -> Stored:
        async with self._transactions, self._engine.begin() as connection:
            key = f"{new.reporter} {new.place_id} {idempotency_key}"
            observation = Observation(*(await connection.execute(_INSERT, {**asdict(new), _KEY.name: key})).one())
            reference = ObservationRef(observation_id=observation.id, place_id=observation.place_id)
            event = ObservationReported.create(reference)
            body = encode(event).decode()
            await connection.execute(_ENQUEUE, {"event_id": event.id, "type": event.type, "body": body})
        self._notify_relay()
        log.info("observation stored", observation_id=observation.id, place_id=observation.place_id)
        return Stored(observation, is_new=True)


if __name__ == "__main__":
    places_per_call.MAX_PLACES_PER_CALL = 1
    lifespan.ObservationWriter = OneByOneWriter  # type: ignore[attr-defined]
    main()
