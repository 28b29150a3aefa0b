"""The URL and the TLS files of the database: all commands connect in the same way, and report the same errors."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest

from gateway.devstack.stack import Devstack
from gateway.process.exit_status import ExitStatus
from gateway.resources.base import PermanentError
from gateway.resources.database import DatabaseEngine
from gateway.settings import DatabaseSettings
from tests.end_to_end.conftest import StartProcess
from tests.support.certificates import Certificates
from tests.support.dead_address import DEAD, dead_address, resolve_to
from tests.support.postgresql_tls import tls_enabled

COMMANDS = [("serve", "--port", "0"), ("check",), ("worker",), ("migrate",), ("seed",)]
MAX_DURATION = 20.0  # of commands that fail at once, on a busy machine; the start timeout is set to a minute


@pytest.fixture
def timeout_variables() -> dict[str, str]:
    """A start timeout that a test notices."""
    return {"GATEWAY_DATABASE__START_TIMEOUT": "60", "GATEWAY_STARTUP_TIMEOUT": "60"}


@pytest.fixture
async def tls(servers: Devstack, certificates: Certificates) -> AsyncIterator[Certificates]:
    """PostgreSQL offers TLS with a certificate of the authority of these certificates."""
    async with tls_enabled(servers.postgresql, certificates.server):
        yield certificates


async def last_lines(start: StartProcess, commands: Sequence[tuple[str, ...]], **variables: str) -> set[str]:
    """Run the commands, each of which must fail at once. Return the last lines of their output."""
    started_at = time.monotonic()
    processes = [start(*command, **variables) for command in commands]
    assert {await process.exit_status() for process in processes} == {ExitStatus.START_FAILED}
    assert time.monotonic() - started_at < MAX_DURATION, [process.output for process in processes]
    return {process.output.strip().splitlines()[-1] for process in processes}


async def test_invalid_option(start: StartProcess, environment: dict[str, str]) -> None:
    """All commands report an invalid option in the same line, with the variable and the valid values."""
    url = f"{environment['GATEWAY_DATABASE__URL']}?ssl=true"
    lines = await last_lines(start, COMMANDS, GATEWAY_DATABASE__URL=url)

    assert lines == {
        "gateway: GATEWAY_DATABASE__URL: option ssl should be 'disable', 'require', 'verify-ca' or 'verify-full'"
    }


async def test_unknown_authority(start: StartProcess, tls: Certificates) -> None:
    """An untrusted server is reported at once, in the same line, with the variable of the authorities."""
    lines = await last_lines(start, [("check",), ("migrate",)], GATEWAY_DATABASE__CA_FILE=str(tls.other_ca_file))

    assert len(lines) == 1
    line = lines.pop()
    assert line.startswith("gateway: database: GATEWAY_DATABASE__CA_FILE: the server at 127.0.0.1:")
    assert "has a certificate that is not valid here: " in line


async def test_missing_file() -> None:
    """A missing file is reported before anything is connected, with its variable."""
    settings = DatabaseSettings.model_validate({"cert_file": "/nowhere"})
    with pytest.raises(PermanentError, match=r"^GATEWAY_DATABASE__CERT_FILE: '/nowhere' cannot be read: no such file"):
        async with asyncio.timeout(MAX_DURATION), DatabaseEngine(settings, "test").open():
            pass


async def test_verified_serve(start: StartProcess, tls: Certificates, servers: Devstack, instance: str) -> None:
    """`serve` uses TLS by the name of the host with a file of authorities alone, on its own event loop."""
    url = servers.postgresql.url.replace("127.0.0.1", "localhost")
    process = start("serve", "--port", "0", GATEWAY_DATABASE__URL=url, GATEWAY_DATABASE__CA_FILE=str(tls.ca_file))
    await process.url()

    async with servers.postgresql.superuser() as connection:
        assert await connection.fetchval(
            "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = $1",
            instance,
        )


async def test_home_is_not_read(start: StartProcess, tls: Certificates, environment: dict[str, str]) -> None:
    """`ssl=require` works with a home directory whose files cannot be opened."""
    del tls
    url = f"{environment['GATEWAY_DATABASE__URL']}?ssl=require"
    process = start("check", HOME="/" + "x" * 300, GATEWAY_DATABASE__URL=url)

    assert await process.exit_status() == ExitStatus.OK, process.output


async def test_dead_address(servers: Devstack, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the first address of the host swallows each packet, the database starts and reconnects within two seconds each."""
    resolve_to(monkeypatch, servers.postgresql.port, DEAD, "127.0.0.1")
    url = servers.postgresql.url.replace("127.0.0.1", "a-name.example")
    resource = DatabaseEngine(DatabaseSettings.model_validate({"url": url}), "raced")
    with dead_address(servers.postgresql.port):
        started_at = time.monotonic()
        async with asyncio.timeout(MAX_DURATION), resource.open():
            assert time.monotonic() - started_at < 2
            resource.abort()  # as an outage does
            started_at = time.monotonic()
            await resource.check()
            assert time.monotonic() - started_at < 2
