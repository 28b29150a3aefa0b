"""Counting: each event once, however often it is delivered, and the cleanup of expired event ids."""

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.events.messages import ObservationRef, ObservationReported
from gateway.observations.counting import ConsumedEventsCleanup, count_observation, delete_expired_events
from gateway.schema.tables import consumed_events, places
from tests.observations.conftest import PLACES
from tests.support.waiting import wait_until

PLACE_ID = PLACES[0][0]


def new_event() -> ObservationReported:
    return ObservationReported.create(ObservationRef(observation_id=1, place_id=PLACE_ID))


async def observation_count(database: AsyncEngine) -> int:
    async with database.connect() as connection:
        return await connection.scalar(select(places.c.observation_count).where(places.c.id == PLACE_ID)) or 0


async def stored_ids(database: AsyncEngine) -> int:
    """Return the number of stored event ids."""
    async with database.connect() as connection:
        return await connection.scalar(select(func.count()).select_from(consumed_events)) or 0


async def store_ids(database: AsyncEngine, count: int, *, days_ago: int) -> None:
    """Store the ids of `count` events that were consumed some days ago."""
    consumed_at = func.now() - timedelta(days=days_ago)
    async with database.begin() as connection:
        for _ in range(count):
            await connection.execute(insert(consumed_events).values(event_id=uuid4(), consumed_at=consumed_at))


async def test_repeated_event_is_counted_once(database: AsyncEngine) -> None:
    """An event is counted once, even if it is delivered many times at the same time and again later."""
    event = new_event()
    await asyncio.gather(*(count_observation(database, event) for _ in range(10)))
    await count_observation(database, event)

    assert await observation_count(database) == 1


async def test_different_events_are_all_counted(database: AsyncEngine) -> None:
    """Concurrent events of one place are all counted."""
    await asyncio.gather(*(count_observation(database, new_event()) for _ in range(30)))

    assert await observation_count(database) == 30


async def test_failed_count_stores_no_id(database: AsyncEngine, owner: AsyncEngine) -> None:
    """If the count cannot be updated, the id is not stored either, so that the event can be counted later."""
    async with owner.begin() as connection:
        await connection.execute(text("ALTER TABLE places ADD CHECK (observation_count = 0)"))
    with pytest.raises(Exception, match="places_observation_count_check"):
        await count_observation(database, new_event())

    assert (await observation_count(database), await stored_ids(database)) == (0, 0)


async def test_ids_expire_after_thirty_days(database: AsyncEngine) -> None:
    """Only ids that are older than thirty days are deleted."""
    await store_ids(database, 3, days_ago=31)
    await store_ids(database, 2, days_ago=29)

    assert await delete_expired_events(database) == 3
    assert await stored_ids(database) == 2


async def test_cleanup_deletes_in_batches(database: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement deletes a thousand ids at most. The cleanup runs until all expired ids are deleted."""
    monkeypatch.setattr("gateway.observations.counting.BATCH_PAUSE", 0.01)
    await store_ids(database, 2500, days_ago=31)
    assert await delete_expired_events(database) == 1000

    async def is_empty() -> bool:
        return await stored_ids(database) == 0

    async with ConsumedEventsCleanup(database).open():
        await wait_until(is_empty, "all ids are deleted")
