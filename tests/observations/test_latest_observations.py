"""Reading what people reported."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.devstack.postgresql import PostgreSQLServer
from gateway.observations.queries import _LATEST, Observation, latest_observations
from gateway.places.seed import SHIPPED_TABLE, load, read
from gateway.schema.migrate import migrate
from gateway.schema.tables import MAX_PLACE_ID, observations
from gateway.schema.transaction import transaction

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
PLACES = list(read(SHIPPED_TABLE))[:3]
HERE, THERE, NOWHERE = (place[0] for place in PLACES)


@pytest.fixture(scope="module")
async def database(postgresql_server: PostgreSQLServer) -> str:
    url = await postgresql_server.create_database("observations_read")
    await migrate(url)
    return url


@pytest.fixture
async def connection(database: str) -> AsyncIterator[AsyncConnection]:
    """A connection to a database with three places, in a transaction that is rolled back when the test ends."""
    async with transaction(database, application_name="test") as connection:
        await load(connection, PLACES)
        yield connection
        await connection.rollback()


async def report(connection: AsyncConnection, place_id: int, note: str | None, *, hours: int = 0) -> None:
    """Report rain at some time after noon."""
    await connection.execute(
        insert(observations).values(
            place_id=place_id,
            temperature_c=12.5,
            condition="rain",
            note=note,
            created_at=NOON + timedelta(hours=hours),
        )
    )


async def notes(connection: AsyncConnection, place_id: int) -> list[str | None]:
    return [observation.note for observation in await latest_observations(connection, place_id)]


async def test_an_observation_has_all_that_was_reported(connection: AsyncConnection) -> None:
    await report(connection, HERE, None, hours=1)
    (observation,) = await latest_observations(connection, HERE)
    assert observation == Observation(
        id=observation.id,
        place_id=HERE,
        temperature_c=12.5,
        condition="rain",
        note=None,
        created_at=NOON + timedelta(hours=1),
    )
    assert observation.id > 0


async def test_the_latest_five_of_that_place_come_newest_first(connection: AsyncConnection) -> None:
    for hours in (3, 1, 6, 2, 5, 4, 0):
        await report(connection, HERE, f"after {hours} h", hours=hours)
    await report(connection, THERE, "elsewhere", hours=9)
    assert await notes(connection, HERE) == [f"after {hours} h" for hours in (6, 5, 4, 3, 2)]


async def test_what_was_reported_at_the_same_time_comes_in_reverse(connection: AsyncConnection) -> None:
    for note in ("first", "second", "third"):
        await report(connection, HERE, note)
    assert await notes(connection, HERE) == ["third", "second", "first"]


@pytest.mark.parametrize("place_id", [NOWHERE, 1, -1, MAX_PLACE_ID, MAX_PLACE_ID + 1, 10**30])
async def test_a_place_without_observations_has_none(connection: AsyncConnection, place_id: int) -> None:
    await report(connection, HERE, "here")
    assert await latest_observations(connection, place_id) == []


async def test_the_latest_are_read_off_an_index_without_sorting(connection: AsyncConnection) -> None:
    crowd = text("""
        INSERT INTO observations (place_id, temperature_c, condition)
        SELECT :place_id, 12.5, 'rain' FROM generate_series(1, 2000)
    """)
    for place_id in (HERE, THERE):
        await connection.execute(crowd, {"place_id": place_id})
    await connection.execute(text("ANALYZE observations"))
    asked = _LATEST.compile(connection.sync_connection)
    plan = await connection.exec_driver_sql(f"EXPLAIN (COSTS OFF) {asked}", (HERE, 5))
    nodes = [line for (line,) in plan if "->" in line]
    assert nodes == ["  ->  Index Scan Backward using ix_observations_place_id_created_at_id on observations"]
