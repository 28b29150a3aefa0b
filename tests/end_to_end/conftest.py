"""Fixtures: a gateway that uses the real servers. Each test has its own instance name."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path

import httpx
import pytest

from gateway.briefs.forecasts import UpstreamError, fetch_weather
from gateway.briefs.weather import Weather
from gateway.devstack.stack import Devstack
from gateway.places.queries import Place
from gateway.settings import Settings
from tests.end_to_end.harness import Process, RunningGateway, running_gateway

BRIEF_TIMEOUT = 2.0
CALL_TIMEOUT = 60.0
MAX_RESPONSE_TIME = 20.0  # far above BRIEF_TIMEOUT even on a busy machine, far below CALL_TIMEOUT

_numbers = count(1)


@pytest.fixture
async def empty_database(servers: Devstack) -> AsyncIterator[str]:
    """The URL of a database that is not migrated, for its owner."""
    name = f"empty-{next(_numbers)}"
    yield await servers.postgresql.create_database(name)
    await servers.postgresql.drop_database(name)


@pytest.fixture
def instance() -> str:
    """The prefix of the names of all connections of the gateway in this test."""
    return f"test-{os.getpid()}-{next(_numbers)}-"


@pytest.fixture
def timeout_variables() -> dict[str, str]:
    """A brief timeout of ten times the default, so that no section is late on a busy machine. A test of deadlines sets its own."""
    return {"GATEWAY_BRIEF_TIMEOUT": "8"}


@pytest.fixture
def environment(servers: Devstack, instance: str, timeout_variables: dict[str, str]) -> dict[str, str]:
    """The environment variables of a gateway that uses the servers."""
    return {
        **servers.environment(),
        **timeout_variables,
        "GATEWAY_INSTANCE": instance,
        "GATEWAY_GRACEFUL_SECONDS": "2",
    }


@pytest.fixture
def settings(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings()


@pytest.fixture(autouse=True)
def large_max_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readiness accepts any lag of the event loop, so that a busy machine does not degrade it. A test of the lag sets its own."""
    monkeypatch.setattr("gateway.readiness.MAX_LAG", MAX_RESPONSE_TIME)


@pytest.fixture
async def gateway(settings: Settings) -> AsyncIterator[RunningGateway]:
    """A gateway in this process with an active lifespan."""
    async with running_gateway(settings) as gateway:
        yield gateway


@pytest.fixture
def long_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the timeout of calls to backends to CALL_TIMEOUT. A call to a server that does not respond takes that long."""
    monkeypatch.setattr("gateway.briefs.service.BACKEND_CALL_TIMEOUT", CALL_TIMEOUT)
    monkeypatch.setattr("gateway.resources.database.COMMAND_TIMEOUT", CALL_TIMEOUT)
    monkeypatch.setattr("gateway.resources.database.CONNECT_TIMEOUT", CALL_TIMEOUT)


@pytest.fixture
async def gateway_with_deadline(long_calls: None, settings: Settings) -> AsyncIterator[RunningGateway]:
    """A gateway whose brief timeout is a thirtieth of the timeout of its calls to backends."""
    del long_calls
    async with running_gateway(settings.model_copy(update={"brief_timeout": BRIEF_TIMEOUT})) as gateway:
        yield gateway


@pytest.fixture
def release_forecasts(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """An event. Until it is set, the gateway in this process does not get the responses of the weather server."""
    release = asyncio.Event()

    async def fetch_and_hold(http: httpx.AsyncClient, places: Sequence[Place]) -> list[Weather | UpstreamError]:
        weather = await fetch_weather(http, places)
        await release.wait()
        return weather

    monkeypatch.setattr("gateway.briefs.weather_fetcher.fetch_weather", fetch_and_hold)
    return release


StartProcess = Callable[..., Process]


@pytest.fixture
def run(
    tmp_path: Path, environment: dict[str, str], servers: Devstack, devstack_folder: Path
) -> Iterator[StartProcess]:
    """A function that runs Python in a child process until the end of the test. No output may contain a password."""
    started: list[Process] = []

    def run_python(*arguments: str, **variables: str) -> Process:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Process(folder, environment | variables, *arguments, stack_folder=devstack_folder))
        return started[-1]

    yield run_python
    for process in started:
        process.kill()
    urls = [servers.postgresql.owner_url, *environment.values()]
    passwords = [url.split("://")[1].split("@")[0].split(":")[1] for url in urls if "@" in url]
    assert len(passwords) >= 4
    assert not [password for password in passwords for process in started if password in process.output]


@pytest.fixture
def start(run: StartProcess) -> StartProcess:
    """A function that runs a `gateway` command in a child process, with arguments and additional variables."""
    return partial(run, "-m", "gateway")
