"""Counting: the worker's handler for reported observations, and the cleanup of the ids that it stores."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Self

import structlog
from sqlalchemy import Interval, bindparam, delete, func, literal_column, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.concurrency import Backoff, background_task
from gateway.events.messages import ObservationReported
from gateway.lifecycle import format_error
from gateway.resources.base import DegradedError, Resource
from gateway.resources.database_errors import driver_error, is_retryable
from gateway.schema.tables import consumed_events, places

RETENTION = timedelta(days=30)  # of the ids of counted events; an event that is repeated later is counted again
DELETE_BATCH_SIZE = 1000  # rows deleted by one statement
BATCH_PAUSE = 1.0  # between two batches, while there may be more to delete
CLEANUP_INTERVAL = 600.0

log = structlog.get_logger("gateway.cleanup")

_NEW_EVENT = (
    insert(consumed_events)
    .values(event_id=bindparam("event_id"))
    .on_conflict_do_nothing()
    .returning(consumed_events.c.event_id)
    .cte("new_event")
)
# One statement, and so one transaction: the event is counted and its id stored, or neither. If the same event is counted
# twice at the same time, the second statement waits for the first.
_COUNT = (
    update(places)
    .values(observation_count=places.c.observation_count + 1)
    .where(places.c.id == bindparam("place_id"), select(literal_column("1")).select_from(_NEW_EVENT).exists())
)
_EXPIRED = (
    select(consumed_events.c.event_id)
    .where(consumed_events.c.consumed_at < func.now() - bindparam("retention", type_=Interval))
    .limit(DELETE_BATCH_SIZE)
)
_DELETE_EXPIRED = delete(consumed_events).where(consumed_events.c.event_id.in_(_EXPIRED))


async def count_observation(database: AsyncEngine, event: ObservationReported) -> None:
    """Add one to the observation count of the place, unless the event was counted before."""
    async with database.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(_COUNT, {"event_id": event.id, "place_id": event.data.place_id})


async def delete_expired_events(database: AsyncEngine, *, retention: timedelta = RETENTION) -> int:
    """Delete one batch of event ids that are older than `retention`. Return their number."""
    async with database.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        return (await connection.execute(_DELETE_EXPIRED, {"retention": retention})).rowcount


class ConsumedEventsCleanup(Resource["ConsumedEventsCleanup"]):
    """Deletes expired event ids, in batches.

    Attributes:
        last_error: the reason why the last attempt failed, or None if it succeeded.
    """

    name = "cleanup"

    def __init__(self, database: AsyncEngine) -> None:
        super().__init__()
        self.last_error: Exception | None = None
        self._database = database

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Self]:
        """Clean up for the duration of the block."""
        async with background_task(self._run(), name=self.name):
            yield self

    async def check(self) -> str | None:
        """Return None.

        Raises:
            DegradedError: the last attempt has failed, and is repeated.
        """
        if self.last_error is not None:
            raise DegradedError(f"trying again: {format_error(driver_error(self.last_error) or self.last_error)}")
        return None

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            try:
                may_be_more = await delete_expired_events(self._database) == DELETE_BATCH_SIZE
            except Exception as error:
                if not is_retryable(error):
                    raise
                if self.last_error is None:
                    log.warning("cleanup failed, retrying", error=format_error(error))
                self.last_error = error
                await asyncio.sleep(backoff.next_delay())
                continue
            self.last_error = None
            backoff.reset()
            await asyncio.sleep(BATCH_PAUSE if may_be_more else CLEANUP_INTERVAL)
