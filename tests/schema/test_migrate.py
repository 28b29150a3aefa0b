"""Migrating a database."""

import asyncio
import logging

import pytest
from alembic import command
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.schema.migrate import MigrationResult, configuration, migrate
from gateway.schema.revision import HEAD, REVISIONS, SchemaMismatchError, current_revision
from tests.support.waiting import TIMEOUT

ALL = {"alembic_version", "consumed_events", "observations", "outbox", "places"}

WAITING = text("""
    SELECT application_name FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'advisory'
    ORDER BY application_name
""")


async def tables(connection: AsyncConnection) -> set[str]:
    return set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))


async def test_an_empty_database_gets_every_revision(empty_database: str, connection: AsyncConnection) -> None:
    assert await migrate(empty_database) == MigrationResult(None, REVISIONS)
    assert await current_revision(connection) == HEAD
    assert await tables(connection) == ALL


async def test_a_migrated_database_gets_nothing(migrated_database: str) -> None:
    assert await migrate(migrated_database) == MigrationResult(HEAD, ())


async def test_it_says_what_it_did() -> None:
    assert str(MigrationResult(None, ("1", HEAD))) == f"from nothing to revision {HEAD}: applied 1, {HEAD}"
    assert str(MigrationResult("1", (HEAD,))) == f"from 1 to revision {HEAD}: applied {HEAD}"
    assert str(MigrationResult(HEAD, ())) == f"already at revision {HEAD}"


async def test_of_replicas_that_migrate_at_once_one_does_and_the_others_wait(
    empty_database: str, engine: AsyncEngine, connection: AsyncConnection
) -> None:
    names = ["one migrate", "three migrate", "two migrate"]
    async with asyncio.timeout(2 * TIMEOUT), asyncio.TaskGroup() as replicas, engine.connect() as other:
        await other.execute(text("SELECT pg_advisory_lock(4711001)"))
        done = [replicas.create_task(migrate(empty_database, application_name=name)) for name in names]
        while list(await connection.scalars(WAITING)) != names:  # noqa: ASYNC110 - only PostgreSQL knows
            await asyncio.sleep(0.01)
        assert await tables(connection) == set()
    assert sorted(len(task.result().applied) for task in done) == [0, 0, len(REVISIONS)]


async def test_a_database_of_a_newer_version_is_left_alone(empty_database: str, connection: AsyncConnection) -> None:
    await migrate(empty_database)
    await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaMismatchError, match="at revision 9999, which this version does not know"):
        await migrate(empty_database)
    assert await current_revision(connection) == "9999"


async def test_a_migration_that_fails_leaves_nothing_behind(empty_database: str, connection: AsyncConnection) -> None:
    await connection.execute(text("CREATE TABLE observations (in_the_way int)"))
    with pytest.raises(DBAPIError, match="already exists"):
        await migrate(empty_database)
    assert await tables(connection) == {"observations"}


async def test_logging_stays_as_it_was(empty_database: str) -> None:
    def settings() -> tuple[object, ...]:
        loggers = [logging.getLogger(name) for name in (None, "gateway", "alembic", "sqlalchemy")]
        return tuple((logger.level, logger.disabled, list(logger.handlers)) for logger in loggers)

    before = settings()
    await migrate(empty_database)
    assert settings() == before


async def test_it_can_be_undone_and_done_again(empty_database: str, connection: AsyncConnection) -> None:
    await migrate(empty_database)
    await connection.run_sync(lambda sync: command.downgrade(configuration(sync), "base"))
    assert await tables(connection) == {"alembic_version"}
    assert await migrate(empty_database) == MigrationResult(None, REVISIONS)


async def test_a_server_that_is_not_there_is_an_os_error(free_tcp_port: int) -> None:
    with pytest.raises(OSError, match="Connect call failed"):
        await migrate(f"postgresql+asyncpg://gateway@127.0.0.1:{free_tcp_port}/gateway")
