"""Fixtures: the command, run in the test's process, and the servers that the broken apps connect to."""

import gc
import sys
import warnings
from collections.abc import Iterator

import pytest

from faultlab.__main__ import _null_stream, main
from gateway.devstack.postgresql import PostgreSQLServer
from gateway.devstack.rabbitmq import RabbitMQServer
from gateway.devstack.redis import RedisServer
from tests.events.conftest import vhost
from tests.faultlab.cli_result import Check, CliResult

__all__ = ["vhost"]


@pytest.fixture(scope="session", autouse=True)
def _null_stream_closed() -> Iterator[None]:
    """Close the stream that the command leaves open until its process ends; otherwise this process warns about it."""
    yield
    _null_stream().close()


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Run the command in this process, which has imported everything already."""

    def run(*arguments: str, settle: float = 1.0) -> CliResult:
        monkeypatch.setattr(sys.modules["faultlab.sweep"], "SETTLE_TIMEOUT", settle)
        imported = set(sys.modules)
        status = main(list(arguments))
        printed = capsys.readouterr()
        for name in set(sys.modules) - imported:
            if name.startswith("tests.faultlab.broken_apps."):
                # The next test imports the app again, because its server has another address.
                del sys.modules[name]
                package, _, module = name.rpartition(".")
                vars(sys.modules[package]).pop(module, None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # a broken app's leaks are collected now
            gc.collect()
        return CliResult(status, printed.out, printed.err)

    return run


@pytest.fixture
def urls(
    monkeypatch: pytest.MonkeyPatch,
    postgresql_server: PostgreSQLServer,
    redis_server: RedisServer,
    rabbitmq_server: RabbitMQServer,
) -> dict[str, str]:
    """Return the URLs of the servers, which are also in the environment, where the broken apps read them."""
    found = {
        "REDIS_URL": redis_server.url,
        "RABBITMQ_URL": rabbitmq_server.url,
        "DATABASE_URL": f"{postgresql_server.url}?ssl=disable",
        "POSTGRESQL_URL": f"{postgresql_server.url.replace('+asyncpg', '')}?sslmode=disable",
    }
    for name, url in found.items():
        monkeypatch.setenv(name, url)
    return found
