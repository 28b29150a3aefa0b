"""The migration of a database."""

import asyncio
import logging

import pytest
from alembic import command
from sqlalchemy import insert, inspect, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.schema.migrate import MigrationResult, configuration, migrate
from gateway.schema.revision import HEAD, REVISIONS, SchemaMismatchError, current_revision
from gateway.schema.tables import observations, places
from gateway.schema.transaction import connect
from tests.schema.test_tables import RAIN, ZURICH
from tests.support.waiting import TIMEOUT, wait_until

PREVIOUS_INSERT = text("""
    INSERT INTO observations (place_id, temperature_c, condition, note, idempotency_key)
    VALUES (:place_id, :temperature_c, :condition, :note, :key)
    ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
""")
ALL = {"alembic_version", "consumed_events", "observations", "outbox", "places"}


async def tables(connection: AsyncConnection) -> set[str]:
    return set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))


async def test_empty_database_gets_all_revisions(empty_database: str, connection: AsyncConnection) -> None:
    """An empty database is upgraded to the newest revision and has all tables."""
    assert await migrate(empty_database) == MigrationResult(None, REVISIONS)
    assert await current_revision(connection) == HEAD
    assert await tables(connection) == ALL


async def test_migrated_database_is_unchanged(migrated_database: str) -> None:
    """A second migration applies no revision."""
    assert await migrate(migrated_database) == MigrationResult(HEAD, ())


async def test_result_in_words() -> None:
    """The result as text names the revision that was found and those that were applied."""
    assert str(MigrationResult(None, ("1", HEAD))) == f"from nothing to revision {HEAD}: applied 1, {HEAD}"
    assert str(MigrationResult("1", (HEAD,))) == f"from 1 to revision {HEAD}: applied {HEAD}"
    assert str(MigrationResult(HEAD, ())) == f"already at revision {HEAD}"


async def test_concurrent_migrations_wait_for_each_other(
    empty_database: str, engine: AsyncEngine, connection: AsyncConnection
) -> None:
    """Of three concurrent migrations one applies all revisions. The others report that they wait, and apply none."""
    reports: list[str] = []
    async with asyncio.timeout(2 * TIMEOUT), asyncio.TaskGroup() as replicas, engine.connect() as locking:
        await locking.execute(text("SELECT pg_advisory_lock(4711001)"))
        tasks = [replicas.create_task(migrate(empty_database, report=reports.append)) for _ in range(3)]
        await wait_until(lambda: len(reports) == 3, "all migrations wait for the lock")
        assert await tables(connection) == set()

    assert sorted(len(task.result().applied) for task in tasks) == [0, 0, len(REVISIONS)]


async def test_unknown_revision_is_an_error(empty_database: str, connection: AsyncConnection) -> None:
    """A database that a newer version has migrated raises an error and is not changed."""
    await migrate(empty_database)
    await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaMismatchError, match="at revision 9999, which is unknown to this version"):
        await migrate(empty_database)

    assert await current_revision(connection) == "9999"


async def test_failed_revision_is_rolled_back(empty_database: str, connection: AsyncConnection) -> None:
    """A revision that fails changes nothing."""
    await connection.execute(text("CREATE TABLE observations (id int)"))
    with pytest.raises(DBAPIError, match="already exists"):
        await migrate(empty_database)

    assert await tables(connection) == {"observations"}


async def test_logging_is_unchanged(empty_database: str) -> None:
    """A migration does not configure logging."""

    def settings() -> tuple[object, ...]:
        loggers = [logging.getLogger(name) for name in (None, "gateway", "alembic", "sqlalchemy")]
        return tuple((logger.level, logger.disabled, list(logger.handlers)) for logger in loggers)

    before = settings()
    await migrate(empty_database)

    assert settings() == before


async def test_downgrade_and_upgrade(empty_database: str, connection: AsyncConnection) -> None:
    """A database can be downgraded to nothing and migrated again."""
    await migrate(empty_database)
    async with connect(empty_database, application_name="test") as downgrading:
        await downgrading.run_sync(lambda sync: command.downgrade(configuration(sync), "base"))
    assert await tables(connection) == {"alembic_version"}
    assert await migrate(empty_database) == MigrationResult(None, REVISIONS)


async def test_previous_version_goes_on(migrated: AsyncConnection) -> None:
    """The previous version inserts observations with its own statement after the migration. Each key is still stored once."""
    await migrated.execute(insert(places).values(ZURICH))
    stored = [(await migrated.execute(PREVIOUS_INSERT, RAIN | {"key": "one"})).rowcount for _ in range(2)]

    assert stored == [1, 0]
    assert await migrated.scalar(select(observations.c.reporter)) == ""


async def test_unavailable_server_is_an_os_error(free_tcp_port: int) -> None:
    """A refused connection raises OSError."""
    with pytest.raises(OSError, match="Connect call failed"):
        await migrate(f"postgresql+asyncpg://gateway@127.0.0.1:{free_tcp_port}/gateway")
