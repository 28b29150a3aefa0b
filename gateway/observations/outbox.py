"""The entries of the outbox for an operator: list them, replay or drop those that the relay has parked."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Delete, Integer, Update, cast, delete, func, null, select, true, update
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.resources.progress import note_progress
from gateway.schema.tables import outbox

BATCH_SIZE = 10_000  # entries that one statement changes

_IS_PARKED = outbox.c.parked_at.is_not(None)


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """An event that is not published.

    Attributes:
        id: of the entry.
        event_id: the id of its message.
        type: of the event.
        age_s: seconds since it was stored.
        attempts: that have failed.
        parked: the relay does not try it any more.
        size: of the body, in bytes.
        error: the reason of the last failure, or None.
        body: the JSON of the event, or None if it was not requested.
    """

    id: int
    event_id: UUID
    type: str
    age_s: int
    attempts: int
    parked: bool
    size: int
    error: str | None
    body: str | None


async def list_entries(database: AsyncEngine, *, with_waiting: bool, with_body: bool, limit: int) -> list[OutboxEntry]:
    """Return the oldest parked entries, or the oldest of all."""
    statement = (
        select(
            outbox.c.id,
            outbox.c.event_id,
            outbox.c.type,
            cast(func.extract("epoch", func.now() - outbox.c.created_at), Integer),
            outbox.c.attempts,
            _IS_PARKED,
            func.octet_length(outbox.c.body),
            outbox.c.last_error,
            outbox.c.body if with_body else null(),
        )
        .where(true() if with_waiting else _IS_PARKED)
        .order_by(outbox.c.id)
        .limit(limit)
    )
    async with database.connect() as connection:
        return [OutboxEntry(*row) for row in await connection.execute(statement)]


async def replay_entries(database: AsyncEngine, ids: Sequence[int] | None) -> list[int]:
    """Let the relay try parked entries again, those with the ids or all. Return their ids."""
    replay = update(outbox).values(attempts=0, next_attempt_at=func.now(), parked_at=None, last_error=None)
    return await _execute_in_batches(database, replay, ids, "replayed")


async def drop_entries(database: AsyncEngine, ids: Sequence[int] | None) -> list[int]:
    """Delete parked entries, those with the ids or all. Their events are never published. Return their ids."""
    return await _execute_in_batches(database, delete(outbox), ids, "dropped")


async def _execute_in_batches(
    database: AsyncEngine, statement: Update | Delete, ids: Sequence[int] | None, verb: str
) -> list[int]:
    """Execute the statement for parked entries, `BATCH_SIZE` in a transaction. Return their ids.

    A note of an error has the number of those of the transactions before it, which are committed.
    """
    selected = select(outbox.c.id).where(_IS_PARKED, true() if ids is None else outbox.c.id.in_(ids)).limit(BATCH_SIZE)
    # After a wait for a lock, PostgreSQL evaluates the condition of the statement again, but not that of the subquery.
    batch = statement.where(outbox.c.id.in_(selected), _IS_PARKED).returning(outbox.c.id)
    done: list[int] = []
    with note_progress(done, verb):
        while True:
            async with database.begin() as connection:
                batch_ids = (await connection.scalars(batch)).all()
            if not batch_ids:
                return sorted(done)
            done += batch_ids
