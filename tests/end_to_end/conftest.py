"""A gateway in front of the real servers, under a name of its own for each test."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from gateway.devstack.stack import Devstack
from gateway.settings import Settings
from tests.end_to_end.running import Process, Running, running

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
def environment(servers: Devstack, instance: str) -> dict[str, str]:
    """The variables of a gateway in front of the servers."""
    return {**servers.environment(), "GATEWAY_INSTANCE": instance, "GATEWAY_GRACEFUL_SECONDS": "2"}


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


Start = Callable[..., Process]


@pytest.fixture
def run(tmp_path: Path, environment: dict[str, str], devstack_folder: Path) -> Iterator[Start]:
    """Run Python with arguments, and variables that differ, as a process; none outlives the test, or says a password."""
    started: list[Process] = []

    def run_one(*arguments: str, **variables: str) -> Process:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Process(folder, environment | variables, *arguments, ends_with=devstack_folder))
        return started[-1]

    yield run_one
    for process in started:
        process.end()
    passwords = [url.split("://")[1].split("@")[0].split(":")[1] for url in environment.values() if "@" in url]
    assert len(passwords) == 3
    assert not [password for password in passwords for process in started if password in process.output]


@pytest.fixture
def start(run: Start) -> Start:
    """Start the `gateway` command with arguments, and variables that differ."""
    return partial(run, "-m", "gateway")
