"""Counting: once for each event, however often and however many at once it comes; and events are forgotten some day."""

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

HERE = PLACES[0][0]


def event() -> ObservationReported:
    return ObservationReported.create(ObservationRef(observation_id=1, place_id=HERE))


async def counted(database: AsyncEngine) -> int:
    async with database.connect() as connection:
        return await connection.scalar(select(places.c.observation_count).where(places.c.id == HERE)) or 0


async def remembered(database: AsyncEngine) -> int:
    async with database.connect() as connection:
        return await connection.scalar(select(func.count()).select_from(consumed_events)) or 0


async def test_the_same_event_is_counted_once_though_it_comes_many_times_at_once(database: AsyncEngine) -> None:
    same = event()
    await asyncio.gather(*(count_observation(database, same) for _ in range(10)))
    await count_observation(database, same)

    assert await counted(database) == 1


async def test_different_events_are_all_counted(database: AsyncEngine) -> None:
    await asyncio.gather(*(count_observation(database, event()) for _ in range(30)))

    assert await counted(database) == 30


async def test_what_was_not_counted_is_not_remembered(database: AsyncEngine) -> None:
    async with database.begin() as connection:
        await connection.execute(text("ALTER TABLE places ADD CHECK (observation_count = 0)"))
    with pytest.raises(Exception, match="places_observation_count_check"):
        await count_observation(database, event())

    assert (await counted(database), await remembered(database)) == (0, 0)


async def remember(database: AsyncEngine, count: int, *, days: int) -> None:
    """As if so many events had been consumed so many days ago."""
    ago = func.now() - timedelta(days=days)
    async with database.begin() as connection:
        for _ in range(count):
            await connection.execute(insert(consumed_events).values(event_id=uuid4(), consumed_at=ago))


async def test_only_what_is_older_than_thirty_days_is_forgotten(database: AsyncEngine) -> None:
    await remember(database, 3, days=31)
    await remember(database, 2, days=29)

    assert await delete_expired_events(database) == 3
    assert await remembered(database) == 2


async def test_the_worker_forgets_in_small_steps(database: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.observations.counting.BATCH_PAUSE", 0.01)
    await remember(database, 2500, days=31)
    assert await delete_expired_events(database) == 1000

    async with ConsumedEventsCleanup(database).open():

        async def all_forgotten() -> bool:
            return await remembered(database) == 0

        await wait_until(all_forgotten, "all are forgotten")
