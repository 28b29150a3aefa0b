"""The write path: an observation and its event, both or none, and once for a key."""

import asyncio
import json
from dataclasses import replace

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.devstack.postgresql import PostgreSQL
from gateway.events.messages import ObservationReported, decode
from gateway.observations.queries import Observation
from gateway.observations.store import (
    IdempotencyConflictError,
    NewObservation,
    UnknownPlaceError,
    insert_observation,
)
from gateway.observations.writer import ObservationWriter, WriteUnavailableError
from gateway.schema.tables import MAX_PLACE_ID, observations, outbox
from tests.observations.conftest import PLACES
from tests.support.waiting import wait_until

HERE, THERE = PLACES[0][0], PLACES[1][0]
RAIN = NewObservation(HERE, 12.5, "rain", "wet")


async def counts(database: AsyncEngine) -> tuple[int, int]:
    """How many observations there are, and how many events wait."""
    async with database.connect() as connection:
        rows = [await connection.scalar(select(func.count()).select_from(table)) for table in (observations, outbox)]
    return rows[0] or 0, rows[1] or 0


async def stored(database: AsyncEngine, report: NewObservation, key: str | None = None) -> tuple[Observation, bool]:
    async with database.begin() as connection:
        return await insert_observation(connection, report, key)


async def test_an_observation_comes_with_an_event_that_names_it(database: AsyncEngine) -> None:
    observation, new = await stored(database, RAIN)

    async with database.connect() as connection:
        (entry,) = (await connection.execute(outbox.select())).all()
    event = decode(entry.body.encode(), ObservationReported)
    assert new
    assert (observation.place_id, observation.temperature_c, observation.note) == (HERE, 12.5, "wet")
    assert (event.data.observation_id, event.data.place_id) == (observation.id, HERE)
    assert (event.id, event.type) == (entry.event_id, entry.type)


async def test_when_the_event_cannot_be_written_neither_is_the_observation(database: AsyncEngine) -> None:
    async with database.begin() as connection:
        await connection.execute(text("ALTER TABLE outbox ADD CHECK (false)"))
    with pytest.raises(DBAPIError):
        await stored(database, RAIN)

    assert await counts(database) == (0, 0)


async def test_the_same_key_again_gives_the_same_observation_and_no_second_event(database: AsyncEngine) -> None:
    first, _ = await stored(database, RAIN, "one")
    second, new = await stored(database, RAIN, "one")

    assert (first, new) == (second, False)
    assert await counts(database) == (1, 1)


async def test_without_a_key_each_report_is_another(database: AsyncEngine) -> None:
    first, _ = await stored(database, RAIN)
    second, _ = await stored(database, RAIN)

    assert first.id != second.id
    assert await counts(database) == (2, 2)


@pytest.mark.parametrize(
    "other",
    [
        replace(RAIN, place_id=THERE),
        replace(RAIN, place_id=MAX_PLACE_ID),
        replace(RAIN, temperature_c=12.6),
        replace(RAIN, condition="sun"),
        replace(RAIN, note=None),
    ],
)
async def test_a_key_belongs_to_one_report(database: AsyncEngine, other: NewObservation) -> None:
    await stored(database, RAIN, "one")
    with pytest.raises(IdempotencyConflictError):
        await stored(database, other, "one")

    assert await counts(database) == (1, 1)


async def test_of_many_at_once_with_the_same_key_one_is_stored_and_all_are_told_which(database: AsyncEngine) -> None:
    outcomes = await asyncio.gather(*(stored(database, RAIN, "one") for _ in range(10)))

    assert len({observation.id for observation, _ in outcomes}) == 1
    assert [new for _, new in outcomes].count(True) == 1
    assert await counts(database) == (1, 1)


@pytest.mark.parametrize("place_id", [0, 1, -1, MAX_PLACE_ID, MAX_PLACE_ID + 1])
async def test_an_unknown_place_is_said_so(database: AsyncEngine, place_id: int) -> None:
    with pytest.raises(UnknownPlaceError):
        await stored(database, replace(RAIN, place_id=place_id))

    assert await counts(database) == (0, 0)


async def test_the_body_of_an_event_is_json_for_anyone(database: AsyncEngine) -> None:
    observation, _ = await stored(database, RAIN)

    async with database.connect() as connection:
        body = json.loads(await connection.scalar(select(outbox.c.body)) or "")
    assert set(body) == {"id", "type", "at", "data"}
    assert body["type"] == "observation.reported"
    assert body["data"] == {"observation_id": observation.id, "place_id": HERE}


class TestWhoeverReports:
    async def test_wakes_the_relay_once_it_is_committed(self, database: AsyncEngine) -> None:
        woken: list[asyncio.Task[tuple[int, int]]] = []
        reports = ObservationWriter(database, on_stored=lambda: woken.append(asyncio.create_task(counts(database))))
        async with reports.open():
            await reports.write(RAIN, "one")
            await reports.write(RAIN, "one")

        (seen,) = woken
        assert await seen == (1, 1)

    async def test_has_an_answer_in_time_and_the_write_goes_on(
        self, database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reports = ObservationWriter(database, on_stored=lambda: None)
        async with reports.open():
            async with database.begin() as blocking:
                await blocking.execute(text("LOCK TABLE outbox"))
                with monkeypatch.context() as short, pytest.raises(WriteUnavailableError):
                    short.setattr("gateway.observations.writer.WRITE_TIMEOUT", 0.2)
                    await reports.write(RAIN, "one")
                assert (await blocking.execute(observations.select())).all() == []

            async def is_stored() -> bool:
                return await counts(database) == (1, 1)

            await wait_until(is_stored, "it is stored")
            await reports.write(RAIN, "one")
        assert await counts(database) == (1, 1)

    async def test_may_go_away_and_the_write_is_ended_before_the_database_is_released(
        self, database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("gateway.observations.writer.DRAIN_TIMEOUT", 0.2)
        reports = ObservationWriter(database, on_stored=lambda: None)
        async with database.begin() as blocking:
            await blocking.execute(text("LOCK TABLE outbox"))
            async with reports.open():
                asking = asyncio.create_task(reports.write(RAIN, "one"))

                async def waits_for_the_lock() -> bool:
                    return bool(await blocking.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))

                await wait_until(waits_for_the_lock, "the write waits for the lock")
                asking.cancel()
                await asyncio.wait({asking})
            assert asking.cancelled()
            assert reports._writing == set()
        assert await counts(database) == (0, 0)

    async def test_is_told_that_it_may_be_stored_while_the_database_is_away(
        self, database: AsyncEngine, postgresql_server: PostgreSQL
    ) -> None:
        reports = ObservationWriter(database, on_stored=lambda: None)
        async with reports.open():
            postgresql_server.kill()
            try:
                with pytest.raises(WriteUnavailableError):
                    await reports.write(RAIN, "one")
            finally:
                await postgresql_server.start()
            await reports.write(RAIN, "one")
        assert await counts(database) == (1, 1)
