"""The migration that adds conditions: no scan under a lock, and the rows and statements of the previous version."""

import pytest
from alembic import command
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.schema.migrate import configuration, migrate
from gateway.schema.transaction import connect

IS_VALID = text("SELECT convalidated FROM pg_constraint WHERE conname = 'ck_observations_condition'")
PLACE = text("INSERT INTO places VALUES (1, 'Bern', 'Bern', 'CH', 'BE', 46.9, 7.4, 1, 'Europe/Zurich', 'bern', 'bern')")
OBSERVATION = text("INSERT INTO observations (place_id, temperature_c, condition) VALUES (1, 12.5, :condition)")


async def upgrade(url: str, revision: str) -> None:
    async with connect(url, application_name="test") as connection:
        await connection.run_sync(lambda sync: command.upgrade(configuration(sync), revision))


async def test_previous_version_goes_on_writing(empty_database: str, connection: AsyncConnection) -> None:
    """Rows of the previous version stay, and its INSERT works. No revision scans the table while it holds a strong lock: one
    replaces the constraint, and the next one validates it.
    """
    await upgrade(empty_database, "0004")
    await connection.execute(PLACE)
    await connection.execute(OBSERVATION, {"condition": "sun"})
    await upgrade(empty_database, "0005")
    assert await connection.scalar(IS_VALID) is False
    await migrate(empty_database)
    assert await connection.scalar(IS_VALID) is True
    await connection.execute(OBSERVATION, {"condition": "rain"})

    rows = await connection.execute(text("SELECT condition, observed_at FROM observations ORDER BY id"))
    assert [tuple(row) for row in rows] == [("sun", None), ("rain", None)]


async def test_downgrade_keeps_other_conditions(empty_database: str, connection: AsyncConnection) -> None:
    """A downgrade keeps the rows with conditions that the previous version does not have, and accepts no new ones."""
    await migrate(empty_database)
    await connection.execute(PLACE)
    await connection.execute(OBSERVATION, {"condition": "hail"})
    async with connect(empty_database, application_name="test") as downgrading:
        await downgrading.run_sync(lambda sync: command.downgrade(configuration(sync), "0004"))

    assert await connection.scalar(text("SELECT condition FROM observations")) == "hail"
    with pytest.raises(DBAPIError, match="ck_observations_condition"):
        await connection.execute(OBSERVATION, {"condition": "hail"})
