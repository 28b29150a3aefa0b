"""The command as a test runs it, and the servers that specimens connect to."""

import gc
import sys
import warnings
from collections.abc import Iterator

import pytest

from faultlab.__main__ import _nowhere, main
from gateway.devstack.postgresql import PostgreSQL
from gateway.devstack.rabbitmq import RabbitMQ
from gateway.devstack.redis import Redis
from tests.faultlab.cli_result import CliResult, Examine


@pytest.fixture(scope="session", autouse=True)
def _nowhere_ends() -> Iterator[None]:
    """The command leaves that to the end of its process, and this process has warnings for it."""
    yield
    _nowhere().close()


@pytest.fixture
def examine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Examine:
    """Run the command in this process, which has imported everything."""

    def run(*arguments: str, settle: float = 1.0) -> CliResult:
        monkeypatch.setattr(sys.modules["faultlab.sweep"], "SETTLE_TIMEOUT", settle)
        imported = set(sys.modules)
        status = main(list(arguments))
        printed = capsys.readouterr()
        for name in set(sys.modules) - imported:
            if name.startswith("tests.faultlab.broken_apps."):
                del sys.modules[name]  # the next one connects to its own server, and is imported with it
                package, _, module = name.rpartition(".")
                vars(sys.modules[package]).pop(module, None)  # which would keep what it holds until then
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", ResourceWarning
            )  # what a guilty one holds goes now, and not with the session
            gc.collect()
        return CliResult(status, printed.out, printed.err)

    return run


@pytest.fixture
def urls(
    monkeypatch: pytest.MonkeyPatch, postgresql_server: PostgreSQL, redis_server: Redis, rabbitmq_server: RabbitMQ
) -> dict[str, str]:
    """Where the servers are; in the environment, too, where specimens look for them."""
    found = {
        "REDIS_URL": redis_server.url,
        "RABBITMQ_URL": rabbitmq_server.url,
        "DATABASE_URL": f"{postgresql_server.url}?ssl=disable",
        "POSTGRESQL_URL": f"{postgresql_server.url.replace('+asyncpg', '')}?sslmode=disable",
    }
    for name, url in found.items():
        monkeypatch.setenv(name, url)
    return found
