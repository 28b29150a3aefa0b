"""Databases with and without places."""

import secrets
from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.devstack.postgresql import PostgreSQLServer
from gateway.places.seed import seed
from gateway.schema.migrate import migrate
from gateway.schema.transaction import transaction


@pytest.fixture
async def database(postgresql_server: PostgreSQLServer) -> str:
    """The URL of a new migrated database without places."""
    url = await postgresql_server.create_database(f"places_{secrets.token_hex(4)}")
    await migrate(url)
    return url


@pytest.fixture(scope="session")
async def full_database(postgresql_server: PostgreSQLServer) -> str:
    """The URL of a shared database with all places."""
    url = await postgresql_server.create_database("places_full")
    await migrate(url)
    await seed(url)
    return url


@pytest.fixture
async def full(full_database: str) -> AsyncIterator[AsyncConnection]:
    """A connection to the database with all places, in a transaction that is rolled back after the test."""
    async with transaction(full_database, application_name="test") as connection:
        yield connection
        await connection.rollback()
