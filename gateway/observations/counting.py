"""Counting: what the worker does with each observation that was reported."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Self

from sqlalchemy import Interval, bindparam, delete, func, literal_column, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.concurrency import background_task
from gateway.events.messages import ObservationReported
from gateway.resources.base import Resource
from gateway.resources.database import is_unavailable
from gateway.schema.tables import consumed_events, places

RETENTION = timedelta(days=30)
"""For how long an event is known again. An event that comes later than this, and twice, is counted twice."""

DELETE_BATCH_SIZE = 1000
"""The most events that one statement forgets."""

CLEANUP_INTERVAL = 600.0
BATCH_PAUSE = 1.0
"""Seconds between two statements: when nothing was left, and when there may be more."""

_REMEMBER = (
    insert(consumed_events)
    .values(event_id=bindparam("event_id"))
    .on_conflict_do_nothing()
    .returning(consumed_events.c.event_id)
    .cte("new")
)
# One statement, so one transaction: counted and remembered, or neither. Of two at once, the second waits for the first.
_COUNT = (
    update(places)
    .values(observation_count=places.c.observation_count + 1)
    .where(places.c.id == bindparam("place"), select(literal_column("1")).select_from(_REMEMBER).exists())
)
_OLD = (
    select(consumed_events.c.event_id)
    .where(consumed_events.c.consumed_at < func.now() - bindparam("age", type_=Interval))
    .limit(DELETE_BATCH_SIZE)
)
_FORGET = delete(consumed_events).where(consumed_events.c.event_id.in_(_OLD))


async def count_observation(database: AsyncEngine, event: ObservationReported) -> None:
    """Count an observation of its place, unless this event was counted before."""
    async with database.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(_COUNT, {"event_id": event.id, "place": event.data.place_id})


async def delete_expired_events(database: AsyncEngine, *, age: timedelta = RETENTION) -> int:
    """Forget some of the events that are older; return how many."""
    async with database.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        return (await connection.execute(_FORGET, {"age": age})).rowcount


class ConsumedEventsCleanup(Resource["ConsumedEventsCleanup"]):
    """Forgets old events, some at a time."""

    name = "cleanup"

    def __init__(self, database: AsyncEngine) -> None:
        super().__init__()
        self._database = database

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Self]:
        """Forget until this is left."""
        async with background_task(self._work(), name="forgetting"):
            yield self

    async def _work(self) -> None:
        while True:
            try:
                more = await delete_expired_events(self._database) == DELETE_BATCH_SIZE
            except Exception as error:
                if not is_unavailable(error):
                    raise
                more = False
            await asyncio.sleep(BATCH_PAUSE if more else CLEANUP_INTERVAL)
