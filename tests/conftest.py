"""The servers for the tests. They run as long as the session."""

import asyncio
import inspect
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.devstack.folder import temporary_data_dir
from gateway.devstack.open_meteo import Faults
from gateway.devstack.postgresql import RUNTIME_ROLE
from gateway.devstack.server import Server
from gateway.devstack.stack import Devstack, enter_concurrently
from gateway.devstack.weather import WeatherServer
from gateway.places.seed import seed
from gateway.schema.migrate import migrate

pytest.register_assert_rewrite("tests.faults", "tests.end_to_end", "tests.support")  # modules with assertions
pytest_plugins = ["tests.faults.report_plugin", "tests.support.certificates"]


def pytest_configure() -> None:
    """Restore the signal that `nohup` ignores: tests send it, and their processes inherit whether it is ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the chaos first. It mostly waits, so the other worker should have other tests to run meanwhile.

    Async tests get the fixture `uncancelled`.
    """
    items.sort(key=lambda item: item.path.parent.name != "chaos")
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.fixturenames.append("uncancelled")


@pytest.fixture
async def uncancelled() -> AsyncIterator[None]:
    """Fail an async test that leaves its task cancelled. The task runs all tests: since Python 3.13, the next ones would fail."""
    yield
    task = asyncio.current_task()
    assert task is not None
    cancellations = task.cancelling()
    for _ in range(cancellations):
        task.uncancel()
    # Before Python 3.13, an `asyncio.TaskGroup` that failed leaves its task cancelled.
    if sys.version_info >= (3, 13):
        assert cancellations == 0, "the test cancelled its own task: run the cancelled code in another task"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """One event loop for the session, so that session fixtures can use it."""
    return "asyncio"


@pytest.fixture
def timeout_variables() -> dict[str, str]:
    """Variables of a gateway that change its timeouts. Folders whose tests claim no durations override it."""
    return {}


@pytest.fixture(scope="session")
def devstack_folder(anyio_backend: str) -> Iterator[Path]:
    """The folder of this session's servers."""
    del anyio_backend  # requested, so that tests that are not async can request a server, too
    with temporary_data_dir() as folder:
        yield folder


@pytest.fixture(scope="session")
async def session_servers(request: pytest.FixtureRequest, devstack_folder: Path) -> AsyncIterator[Devstack]:
    """The servers. The first test that requests a server starts all servers that the collected tests request."""
    devstack = Devstack(devstack_folder)
    requested = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    needed = [server for name, server in devstack.by_name.items() if {"devstack", f"{name}_server"} & requested]
    async with AsyncExitStack() as stack:
        await enter_concurrently(stack, needed)
        yield devstack
        for server in needed:
            server.kill()  # a graceful stop takes seconds, and the data is not needed


def _server_fixture(name: str) -> object:
    @pytest.fixture(scope="session", name=f"{name}_server")
    def server(session_servers: Devstack) -> Server:
        return session_servers.by_name[name]

    return server


weather_server = _server_fixture("weather")
postgresql_server = _server_fixture("postgresql")
redis_server = _server_fixture("redis")
rabbitmq_server = _server_fixture("rabbitmq")


@pytest.fixture(scope="session")
def devstack(session_servers: Devstack) -> Devstack:
    """All servers."""
    return session_servers


@pytest.fixture
async def weather(weather_server: WeatherServer) -> AsyncIterator[WeatherServer]:
    """The weather upstream without faults, its counts reset to zero."""
    await weather_server.reset_calls()
    yield weather_server
    await weather_server.set_faults(Faults())


@pytest.fixture(scope="session")
async def servers(devstack: Devstack) -> Devstack:
    """All servers, with a migrated database and the places in it."""
    await migrate(devstack.postgresql.owner_url, grant_to=RUNTIME_ROLE)
    await seed(devstack.postgresql.owner_url)
    return devstack
