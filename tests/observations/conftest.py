"""A database with three places for the tests of what is written."""

import secrets
from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.devstack.postgresql import PostgreSQLServer
from gateway.places.seed import SHIPPED_TABLE, load, read
from gateway.resources.database import DatabaseEngine
from gateway.schema.migrate import migrate
from gateway.schema.transaction import transaction
from gateway.settings import DatabaseSettings
from tests.events.conftest import channel, rabbitmq, vhost

__all__ = ["channel", "rabbitmq", "vhost"]

PLACES = list(read(SHIPPED_TABLE))[:3]


@pytest.fixture(scope="session")
async def written_template(postgresql_server: PostgreSQLServer) -> str:
    """The name of a migrated database with three places; a copy takes a fifth of the time."""
    name = f"written_{secrets.token_hex(4)}"
    url = await postgresql_server.create_database(name)
    await migrate(url)
    async with transaction(url, application_name="test") as connection:
        await load(connection, PLACES)
    return name


@pytest.fixture
async def written_database(postgresql_server: PostgreSQLServer, written_template: str) -> str:
    """The URL of a database of this test's own, with three places."""
    return await postgresql_server.create_database(f"written_{secrets.token_hex(4)}", template=written_template)


@pytest.fixture
async def database(written_database: str) -> AsyncIterator[AsyncEngine]:
    """The engine as the gateway has it."""
    settings = DatabaseSettings.model_validate({"url": written_database})
    async with DatabaseEngine(settings, "test").open() as engine:
        yield engine
