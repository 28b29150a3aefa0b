"""Empty and migrated databases."""

import secrets
from collections.abc import AsyncIterator

import pytest
from alembic import command
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from gateway.devstack.postgresql import PostgreSQLServer
from gateway.schema.migrate import configuration, migrate
from gateway.schema.revision import REVISIONS
from gateway.schema.transaction import connect, transaction

PREVIOUS_REVISION = "0002"
PENDING = REVISIONS[REVISIONS.index(PREVIOUS_REVISION) + 1 :]


@pytest.fixture
async def empty_database(postgresql_server: PostgreSQLServer) -> str:
    """The URL of a new database without tables, for its owner."""
    return await postgresql_server.create_database(f"schema_{secrets.token_hex(4)}")


@pytest.fixture
async def previous_database(empty_database: str) -> str:
    """The URL of a new database of the previous version."""
    async with connect(empty_database, application_name="test") as connection:
        await connection.run_sync(lambda sync: command.upgrade(configuration(sync), PREVIOUS_REVISION))
    return empty_database


@pytest.fixture
async def engine(empty_database: str) -> AsyncIterator[AsyncEngine]:
    """An engine for the empty database; every statement commits."""
    engine = create_async_engine(empty_database, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    yield engine
    await engine.dispose()


@pytest.fixture
async def connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection to the empty database; every statement commits."""
    async with engine.connect() as connection:
        yield connection


@pytest.fixture(scope="session")
async def migrated_database(postgresql_server: PostgreSQLServer) -> str:
    """The URL of a shared migrated database."""
    url = await postgresql_server.create_database("schema_migrated")
    await migrate(url)
    return url


@pytest.fixture
async def migrated(migrated_database: str) -> AsyncIterator[AsyncConnection]:
    """A connection to a migrated database, in a transaction that is rolled back after the test."""
    async with transaction(migrated_database, application_name="test") as connection:
        yield connection
        await connection.rollback()
