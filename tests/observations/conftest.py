"""A database with three places for each test."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from gateway.devstack.postgresql import RUNTIME_ROLE, PostgreSQLServer
from gateway.places.seed import load
from gateway.resources.database import DatabaseEngine
from gateway.schema.migrate import migrate
from gateway.schema.transaction import transaction
from gateway.settings import DatabaseSettings
from tests.events.conftest import channel, rabbitmq, vhost
from tests.support.shipped_places import SHIPPED

__all__ = ["channel", "rabbitmq", "vhost"]

PLACES = SHIPPED[:3]


@asynccontextmanager
async def locked_place(owner: AsyncEngine, place_id: int) -> AsyncIterator[AsyncConnection]:
    """Hold up the transactions that store an observation of a place, at the check of its foreign key.

    Yields:
        The connection that holds the lock.
    """
    async with owner.begin() as connection:
        await connection.execute(text("SELECT FROM places WHERE id = :id FOR UPDATE"), {"id": place_id})
        yield connection


@pytest.fixture(scope="session")
async def template_database(postgresql_server: PostgreSQLServer) -> str:
    """The name of a migrated database with three places. A copy of it takes a fifth of the time of a migration."""
    name = f"observations_{secrets.token_hex(4)}"
    url = await postgresql_server.create_database(name)
    await migrate(url, grant_to=RUNTIME_ROLE)
    async with transaction(url, application_name="test") as connection:
        await load(connection, PLACES)
    return name


@pytest.fixture
async def database_url(postgresql_server: PostgreSQLServer, template_database: str) -> str:
    """The URL of a new database with three places, for the role of the gateway."""
    name = f"observations_{secrets.token_hex(4)}"
    await postgresql_server.create_database(name, template=template_database)
    return postgresql_server.url_of(name)


@pytest.fixture
def owner(postgresql_server: PostgreSQLServer, database_url: str) -> AsyncEngine:
    """An engine of the owner of the database, for changes of the schema and of observations."""
    return create_async_engine(postgresql_server.owner_url_of(database_url.rpartition("/")[2]), poolclass=NullPool)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[AsyncEngine]:
    """The engine as the gateway opens it."""
    settings = DatabaseSettings.model_validate({"url": database_url})
    async with DatabaseEngine(settings, "test").open() as engine:
        yield engine
