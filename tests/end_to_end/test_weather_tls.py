"""The weather of a brief from an upstream with a certificate of a private authority."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from gateway.devstack.open_meteo import create_app
from gateway.devstack.stack import Devstack
from gateway.lifecycle import run_health_checks
from gateway.process.exit_status import ExitStatus
from gateway.settings import Settings
from tests.end_to_end.conftest import StartProcess
from tests.end_to_end.harness import ZURICH, RunningGateway, running_gateway
from tests.support.certificates import Certificates
from tests.support.https import https_server
from tests.support.waiting import TIMEOUT


@pytest.fixture(autouse=True)
async def empty_cache(servers: Devstack) -> None:
    async with Redis.from_url(servers.redis.url) as client:
        await client.flushdb()


async def weather_section(gateway: RunningGateway) -> dict[str, Any]:
    section: dict[str, Any] = (await gateway.client.get(f"/v1/places/{ZURICH}/brief")).json()["sections"]["weather"]
    return section


@asynccontextmanager
async def gateway_with(settings: Settings, url: str, ca_file: Path) -> AsyncIterator[RunningGateway]:
    """A gateway whose weather upstream has a certificate."""
    http = settings.http.model_copy(update={"weather_url": SecretStr(url), "ca_file": ca_file})
    async with running_gateway(settings.model_copy(update={"http": http})) as gateway:
        yield gateway


async def test_private_authority(settings: Settings, certificates: Certificates) -> None:
    """The weather comes from an upstream whose certificate is signed by the authority in the settings."""
    async with (
        https_server(create_app(), certificates.server) as url,
        gateway_with(settings, url, certificates.ca_file) as gateway,
    ):
        weather = await weather_section(gateway)

    assert weather["status"] == "ok"


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        ("expired_server", "certificate has expired"),
        ("misnamed_server", "Hostname mismatch"),
        ("untrusted_server", "unable to get local issuer certificate"),
    ],
)
async def test_invalid_certificate(settings: Settings, certificates: Certificates, server: str, reason: str) -> None:
    """Without a valid certificate the weather is unavailable, and the health check has the reason."""
    async with (
        https_server(create_app(), getattr(certificates, server)) as url,
        gateway_with(settings, url, certificates.ca_file) as gateway,
    ):
        weather = await weather_section(gateway)
        checks = {check.name: check for check in await run_health_checks(gateway.stack.entries, timeout=TIMEOUT)}

    assert (weather["status"], weather["reason"]) == ("unavailable", "error")
    assert reason in str(checks["http"].detail)


async def test_missing_file(start: StartProcess) -> None:
    """A file that does not exist fails the startup, in one line with its variable."""
    process = start("serve", GATEWAY_HTTP__WEATHER_URL="https://localhost:1", GATEWAY_HTTP__CA_FILE="/nowhere/ca.pem")

    assert await process.exit_status() == ExitStatus.START_FAILED
    assert process.output.splitlines()[-1] == (
        "gateway: http: GATEWAY_HTTP__CA_FILE: '/nowhere/ca.pem' cannot be read: no such file or directory"
    )
