"""The servers that tests use. They run as long as the session."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.devstack.folder import temporary_data_dir
from gateway.devstack.open_meteo import Faults
from gateway.devstack.postgresql import PostgreSQLServer
from gateway.devstack.rabbitmq import RabbitMQServer
from gateway.devstack.redis import RedisServer
from gateway.devstack.server import Server
from gateway.devstack.stack import Devstack, enter_together
from gateway.devstack.weather import WeatherServer
from gateway.places.seed import seed
from gateway.schema.migrate import migrate

pytest.register_assert_rewrite("tests.faults", "tests.end_to_end", "tests.support")  # they assert, too
pytest_plugins = ["tests.faults.report_plugin"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the minute of chaos first: at the end it would run alone, and it mostly waits."""
    items.sort(key=lambda item: item.path.parent.name != "chaos")


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
    with temporary_data_dir() as folder:
        yield folder


@pytest.fixture(scope="session")
async def session_servers(request: pytest.FixtureRequest, devstack_folder: Path) -> AsyncIterator[Devstack]:
    """The servers; those that a collected test needs are up. They start together at the first test that needs any."""
    servers = Devstack(
        folder=devstack_folder,
        weather=WeatherServer(devstack_folder / "weather"),
        postgresql=PostgreSQLServer(devstack_folder / "postgresql"),
        redis=RedisServer(devstack_folder / "redis"),
        rabbitmq=RabbitMQServer(devstack_folder / "rabbitmq"),
    )
    all_servers: dict[str, Server] = {
        "weather_server": servers.weather,
        "postgresql_server": servers.postgresql,
        "redis_server": servers.redis,
        "rabbitmq_server": servers.rabbitmq,
    }
    fixtures = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    needed = [server for name, server in all_servers.items() if name in fixtures]
    async with AsyncExitStack() as stack:
        await enter_together(stack, needed)
        yield servers
        for server in needed:
            server.kill()  # a graceful stop takes seconds, and the data is not needed


@pytest.fixture(scope="session")
def postgresql_server(session_servers: Devstack) -> PostgreSQLServer:
    return session_servers.postgresql


@pytest.fixture(scope="session")
def redis_server(session_servers: Devstack) -> RedisServer:
    return session_servers.redis


@pytest.fixture(scope="session")
def rabbitmq_server(session_servers: Devstack) -> RabbitMQServer:
    return session_servers.rabbitmq


@pytest.fixture(scope="session")
def weather_server(session_servers: Devstack) -> WeatherServer:
    return session_servers.weather


@pytest.fixture
async def weather(weather_server: WeatherServer) -> AsyncIterator[WeatherServer]:
    """The weather upstream without faults, its calls counted from zero."""
    await weather_server.reset_calls()
    yield weather_server
    await weather_server.set_faults(Faults())


@pytest.fixture(scope="session")
def devstack(
    session_servers: Devstack,
    weather_server: WeatherServer,
    postgresql_server: PostgreSQLServer,
    redis_server: RedisServer,
    rabbitmq_server: RabbitMQServer,
) -> Devstack:
    """All four, with the environment that makes a gateway use them."""
    del (
        weather_server,
        postgresql_server,
        redis_server,
        rabbitmq_server,
    )  # `session_servers` starts the servers that are named like this
    return session_servers


@pytest.fixture(scope="session")
async def servers(devstack: Devstack) -> Devstack:
    """All servers, with the database migrated and the places in it."""
    await migrate(devstack.postgresql.url)
    await seed(devstack.postgresql.url)
    return devstack
