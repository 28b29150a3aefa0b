"""A part of a brief that fails is logged once with its cause, counted, and shown by readiness."""

from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from gateway.briefs.circuit_breaker import FAILURE_THRESHOLD
from gateway.briefs.queries import popularity_key
from gateway.devstack.stack import Devstack
from gateway.devstack.weather import WeatherServer
from tests.end_to_end.harness import ZURICH, RunningGateway, flush_redis
from tests.support.waiting import wait_until

BRIEF = f"/v1/places/{ZURICH}/brief"


@pytest.fixture(autouse=True)
async def empty_cache(servers: Devstack, weather: WeatherServer) -> None:
    """A cache without weather, which the upstream has."""
    del weather
    await flush_redis(servers)


def lines(logs: list[Any], part: str) -> list[tuple[str, str]]:
    """Return reason and error of each logged failure of a part."""
    return [
        (line["reason"], line["error"])
        for line in logs
        if line["event"] == "part of briefs failed" and line["part"] == part
    ]


async def checks(gateway: RunningGateway) -> tuple[str, dict[str, Any]]:
    """Return the status of readiness, and the checks."""
    report = (await gateway.client.get("/readyz")).json()
    return report["status"], report["checks"]


async def test_failed_section(gateway: RunningGateway, servers: Devstack) -> None:
    """A section with an error is logged once, and each is counted."""
    async with Redis.from_url(servers.redis.url) as redis:
        await redis.set(popularity_key(ZURICH), "no number")
    with capture_logs() as logs:
        for _ in range(3):
            brief = (await gateway.client.get(BRIEF)).json()
            assert brief["sections"]["popularity"]["reason"] == "error"

    ((reason, error),) = lines(logs, "popularity")
    assert (reason, error.split(":")[0]) == ("error", "ValueError")
    _, results = await checks(gateway)
    assert results["briefs"]["remark"] == "failures: popularity error 3"


async def test_open_section(gateway: RunningGateway, servers: Devstack) -> None:
    """A section whose circuit is open is logged once, with the failure that opened it."""
    servers.redis.kill()
    try:
        with capture_logs() as logs:
            for _ in range(FAILURE_THRESHOLD + 3):
                brief = (await gateway.client.get(BRIEF)).json()
    finally:
        await servers.redis.start()

    assert brief["sections"]["popularity"]["reason"] == "open"
    (opened,) = [error for reason, error in lines(logs, "popularity") if reason == "open"]
    assert opened.startswith("CircuitOpenError: ")
    assert "Connect call failed" in opened
    assert servers.redis.password not in opened


async def test_failed_cache_write(gateway: RunningGateway, servers: Devstack) -> None:
    """A cache that accepts no writes is logged once and counted, and readiness is `degraded`, also without memory."""
    async with Redis.from_url(servers.redis.url) as redis:
        await redis.config_set("maxmemory", 1)
        try:
            with capture_logs() as logs:
                for _ in range(2):
                    assert (await gateway.client.get(BRIEF)).headers["Gateway-Complete"] == "true"
                await wait_until(lambda: bool(lines(logs, "cache write")), "the failure is logged")
            status, results = await checks(gateway)
        finally:
            await redis.config_set("maxmemory", 0)

    ((reason, error),) = lines(logs, "cache write")
    assert (reason, error.split(":")[0]) == ("error", "OutOfMemoryError")
    assert "cache write error" in results["briefs"]["remark"]
    assert (status, results["redis"]["status"]) == ("degraded", "failed")
    assert "OutOfMemoryError" in results["redis"]["remark"]
