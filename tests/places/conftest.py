"""Databases for the tests of the places."""

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
    """The URL of a migrated database of this test's own, without places."""
    url = await postgresql_server.create_database(f"places_{secrets.token_hex(4)}")
    await migrate(url)
    return url


@pytest.fixture(scope="session")
async def full_database(postgresql_server: PostgreSQLServer) -> str:
    """The URL of a database with all places that tests share."""
    url = await postgresql_server.create_database("places_full")
    await migrate(url)
    await seed(url)
    return url


@pytest.fixture
async def full(full_database: str) -> AsyncIterator[AsyncConnection]:
    """A connection to all places, in a transaction that is rolled back when the test ends."""
    async with transaction(full_database, application_name="test") as connection:
        yield connection
        await connection.rollback()
