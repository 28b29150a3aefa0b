"""A gateway in front of the real servers, under a name of its own for each test."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

import httpx
import pytest

from gateway.briefs.weather import Weather, fetch_weather
from gateway.devstack.stack import Devstack
from gateway.places.queries import Place
from gateway.settings import Settings
from tests.end_to_end.harness import Process, Running, running

BRIEF_TIMEOUT = 2.0
CALL_TIMEOUT = 60.0
LATE = 20.0  # far more than BRIEF_TIMEOUT on any machine, far less than CALL_TIMEOUT

_numbers = count(1)


@pytest.fixture
async def empty_database(servers: Devstack) -> AsyncIterator[str]:
    """The URL of a database that was never migrated."""
    name = f"empty-{next(_numbers)}"
    yield await servers.postgresql.create_database(name)
    await servers.postgresql.drop_database(name)


@pytest.fixture
def instance() -> str:
    """The name that all connections of this test's gateway begin with."""
    return f"test-{os.getpid()}-{next(_numbers)}-"


@pytest.fixture
def timeout_variables() -> dict[str, str]:
    """Ten times the default: no section is late because the machine is busy. A test that claims a deadline sets its own."""
    return {"GATEWAY_BRIEF_TIMEOUT": "8"}


@pytest.fixture
def environment(servers: Devstack, instance: str, timeout_variables: dict[str, str]) -> dict[str, str]:
    """The variables of a gateway in front of the servers."""
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


@pytest.fixture
async def gateway(settings: Settings) -> AsyncIterator[Running]:
    """An app in this process, its lifespan entered."""
    async with running(settings) as it:
        yield it


@pytest.fixture
def long_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls to backends have CALL_TIMEOUT: who waits for a server that does not answer is later than any load makes it."""
    monkeypatch.setattr("gateway.briefs.service.CALL_WITHIN", CALL_TIMEOUT)
    monkeypatch.setattr("gateway.resources.database.COMMAND_TIMEOUT", CALL_TIMEOUT)
    monkeypatch.setattr("gateway.resources.database.CONNECT_TIMEOUT", CALL_TIMEOUT)


@pytest.fixture
async def gateway_with_deadline(long_calls: None, settings: Settings) -> AsyncIterator[Running]:
    """An app whose briefs have BRIEF_TIMEOUT, a thirtieth of what calls to backends have."""
    del long_calls
    async with running(settings.model_copy(update={"brief_timeout": BRIEF_TIMEOUT})) as it:
        yield it


@pytest.fixture
def release_forecasts(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """The gateway in this process gets no weather that upstream has sent until this event is set."""
    release = asyncio.Event()

    async def fetch_and_hold(http: httpx.AsyncClient, place: Place) -> Weather:
        weather = await fetch_weather(http, place)
        await release.wait()
        return weather

    monkeypatch.setattr("gateway.briefs.weather_cache.fetch_weather", fetch_and_hold)
    return release


Start = Callable[..., Process]


@pytest.fixture
def run(tmp_path: Path, environment: dict[str, str], devstack_folder: Path) -> Iterator[Start]:
    """Run Python with arguments, and variables that differ, as a process; none outlives the test, or says a password."""
    started: list[Process] = []

    def run_one(*arguments: str, **variables: str) -> Process:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Process(folder, environment | variables, *arguments, stack_folder=devstack_folder))
        return started[-1]

    yield run_one
    for process in started:
        process.kill()
    passwords = [url.split("://")[1].split("@")[0].split(":")[1] for url in environment.values() if "@" in url]
    assert len(passwords) == 3
    assert not [password for password in passwords for process in started if password in process.output]


@pytest.fixture
def start(run: Start) -> Start:
    """Start the `gateway` command with arguments, and variables that differ."""
    return partial(run, "-m", "gateway")
