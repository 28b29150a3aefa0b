"""The servers that tests ask for: each is started by the first test that names it, and lives as long as the session."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from gateway.devstack.folder import data_folder
from gateway.devstack.open_meteo import Faults
from gateway.devstack.postgresql import PostgreSQL
from gateway.devstack.rabbitmq import RabbitMQ
from gateway.devstack.redis import Redis
from gateway.devstack.server import Server
from gateway.devstack.stack import Devstack
from gateway.devstack.weather import Weather
from gateway.places.seed import seed
from gateway.schema.migrate import migrate

S = TypeVar("S", bound=Server)

pytest.register_assert_rewrite("tests.faults", "tests.end_to_end", "tests.support")  # they assert, too
pytest_plugins = ["tests.faults.report_plugin"]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """One event loop for the session, so that its servers can live in it."""
    return "asyncio"


@pytest.fixture
def timeout_variables() -> dict[str, str]:
    """Variables of a gateway that change its timeouts. A folder whose tests claim no times has longer ones."""
    return {}


@pytest.fixture(scope="session")
def devstack_folder(anyio_backend: str) -> Iterator[Path]:
    """Where the servers of this session live."""
    del anyio_backend  # asked for, so that a test that is not async may ask for a server too
    with data_folder() as folder:
        yield folder


@asynccontextmanager
async def until_killed(server: S) -> AsyncIterator[S]:
    """Run a server; kill it in the end, because its data is not needed and a graceful stop takes seconds."""
    async with server:
        yield server
        server.kill()


@pytest.fixture(scope="session")
async def postgresql_server(devstack_folder: Path) -> AsyncIterator[PostgreSQL]:
    async with until_killed(PostgreSQL(devstack_folder / "postgresql")) as server:
        yield server


@pytest.fixture(scope="session")
async def redis_server(devstack_folder: Path) -> AsyncIterator[Redis]:
    async with until_killed(Redis(devstack_folder / "redis")) as server:
        yield server


@pytest.fixture(scope="session")
async def rabbitmq_server(devstack_folder: Path) -> AsyncIterator[RabbitMQ]:
    async with until_killed(RabbitMQ(devstack_folder / "rabbitmq")) as server:
        yield server


@pytest.fixture(scope="session")
async def weather_server(devstack_folder: Path) -> AsyncIterator[Weather]:
    async with until_killed(Weather(devstack_folder / "weather")) as server:
        yield server


@pytest.fixture
async def weather(weather_server: Weather) -> AsyncIterator[Weather]:
    """The weather upstream without faults, its calls counted from zero."""
    await weather_server.reset_calls()
    yield weather_server
    await weather_server.set_faults(Faults())


@pytest.fixture(scope="session")
def devstack(
    devstack_folder: Path,
    weather_server: Weather,
    postgresql_server: PostgreSQL,
    redis_server: Redis,
    rabbitmq_server: RabbitMQ,
) -> Devstack:
    """All four, with the environment that makes a gateway use them."""
    return Devstack(
        folder=devstack_folder,
        weather=weather_server,
        postgresql=postgresql_server,
        redis=redis_server,
        rabbitmq=rabbitmq_server,
    )


@pytest.fixture(scope="session")
async def servers(devstack: Devstack) -> Devstack:
    """All servers, with the database migrated and the places in it."""
    await migrate(devstack.postgresql.url)
    await seed(devstack.postgresql.url)
    return devstack
