"""The query for the latest observations of a place."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.devstack.postgresql import PostgreSQLServer
from gateway.observations.queries import _LATEST, Observation, ObservationPosition, latest_observations
from gateway.places.seed import load
from gateway.schema.migrate import migrate
from gateway.schema.tables import MAX_PLACE_ID, observations
from gateway.schema.transaction import transaction
from tests.support.shipped_places import SHIPPED

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
PLACES = SHIPPED[:3]
PLACE_ID, OTHER_PLACE_ID, EMPTY_PLACE_ID = (place[0] for place in PLACES)


@pytest.fixture(scope="module")
async def database(postgresql_server: PostgreSQLServer) -> str:
    url = await postgresql_server.create_database("observations_read")
    await migrate(url)
    return url


@pytest.fixture
async def connection(database: str) -> AsyncIterator[AsyncConnection]:
    """A connection to a database with three places, in a transaction that is rolled back after the test."""
    async with transaction(database, application_name="test") as connection:
        await load(connection, PLACES)
        yield connection
        await connection.rollback()


async def insert_observation(connection: AsyncConnection, place_id: int, note: str | None, *, hours: int = 0) -> None:
    """Insert an observation of rain. It was stored some hours after noon, and observed as long before midnight."""
    await connection.execute(
        insert(observations).values(
            place_id=place_id,
            temperature_c=12.5,
            condition="rain",
            note=note,
            created_at=NOON + timedelta(hours=hours),
            observed_at=NOON - timedelta(hours=12 + hours),
        )
    )


async def latest_notes(connection: AsyncConnection, place_id: int) -> list[str | None]:
    return [observation.note for observation in await latest_observations(connection, place_id)]


async def test_observation_has_all_columns(connection: AsyncConnection) -> None:
    """An observation is read as it was stored, with its id."""
    await insert_observation(connection, PLACE_ID, None, hours=1)

    (observation,) = await latest_observations(connection, PLACE_ID)

    assert observation == Observation(
        id=observation.id,
        place_id=PLACE_ID,
        temperature_c=12.5,
        condition="rain",
        note=None,
        created_at=NOON + timedelta(hours=1),
        observed_at=NOON - timedelta(hours=13),
    )
    assert observation.id > 0


async def test_latest_five_newest_first(connection: AsyncConnection) -> None:
    """The five observations of the place that were stored last are returned, the newest first, whenever they were observed."""
    for hours in (3, 1, 6, 2, 5, 4, 0):
        await insert_observation(connection, PLACE_ID, f"after {hours} h", hours=hours)
    await insert_observation(connection, OTHER_PLACE_ID, "elsewhere", hours=9)

    assert await latest_notes(connection, PLACE_ID) == [f"after {hours} h" for hours in (6, 5, 4, 3, 2)]


async def test_equal_times_are_ordered_by_id(connection: AsyncConnection) -> None:
    """Observations with the same time are sorted by id, the highest first."""
    for note in ("first", "second", "third"):
        await insert_observation(connection, PLACE_ID, note)

    assert await latest_notes(connection, PLACE_ID) == ["third", "second", "first"]


async def test_next_page(connection: AsyncConnection) -> None:
    """A page continues after the position, also between equal times. An observation that is stored meanwhile is not in it."""
    for hours, note in ((1, "first"), (1, "second"), (1, "third"), (0, "earlier")):
        await insert_observation(connection, PLACE_ID, note, hours=hours)
    (first,) = await latest_observations(connection, PLACE_ID, 1)
    await insert_observation(connection, PLACE_ID, "new", hours=2)

    found = await latest_observations(connection, PLACE_ID, 3, ObservationPosition(first.created_at, first.id))

    assert (first.note, [observation.note for observation in found]) == ("third", ["second", "first", "earlier"])


@pytest.mark.parametrize("place_id", [EMPTY_PLACE_ID, 1, -1, MAX_PLACE_ID, MAX_PLACE_ID + 1, 10**30])
async def test_place_without_observations(connection: AsyncConnection, place_id: int) -> None:
    """A place without observations, an unknown place and an impossible id have an empty list."""
    await insert_observation(connection, PLACE_ID, "another place")

    assert await latest_observations(connection, place_id) == []


async def test_query_reads_an_index_without_sorting(connection: AsyncConnection) -> None:
    """The plan is a backward scan of one index from the position, without a sort and without a filter."""
    fill = text("""
        INSERT INTO observations (place_id, temperature_c, condition)
        SELECT :place_id, 12.5, 'rain' FROM generate_series(1, 2000)
    """)
    for place_id in (PLACE_ID, OTHER_PLACE_ID):
        await connection.execute(fill, {"place_id": place_id})
    await connection.execute(text("ANALYZE observations"))

    sql = _LATEST.compile(connection.sync_connection)
    arguments = (PLACE_ID, NOON, 1000, 5)
    plan = [line for (line,) in await connection.exec_driver_sql(f"EXPLAIN (COSTS OFF) {sql}", arguments)]

    nodes = [line for line in plan if "->" in line]
    assert nodes == ["  ->  Index Scan Backward using ix_observations_place_id_created_at_id on observations"]
    assert "Index Cond: ((place_id = " in plan[2]
    assert " AND (ROW(created_at, id) < ROW(" in plan[2]
    assert plan[3:] == []
