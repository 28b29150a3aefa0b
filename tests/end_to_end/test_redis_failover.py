"""A failover of Redis behind one address: the primary becomes a replica, and the address moves to the new primary."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from aio_pika.abc import AbstractChannel
from redis.asyncio import Redis

from gateway.briefs.queries import popularity_key, weather_key
from gateway.devstack.redis import RedisServer
from gateway.devstack.weather import WeatherServer
from gateway.events.messages import BriefViewed, ViewCounts, encode
from gateway.events.topology import VIEWS
from gateway.settings import RedisSettings, Settings
from tests.end_to_end.conftest import StartProcess
from tests.end_to_end.harness import ZURICH, RunningGateway, running_gateway
from tests.end_to_end.test_worker import broker, environment, publish, start_worker
from tests.events.conftest import vhost
from tests.support.moved_address import MovedAddress, moved_address
from tests.support.waiting import wait_until

__all__ = ["broker", "environment", "vhost"]

MAX_RECOVERY = 5.0
BERN = 2661552


@dataclass
class Failover:
    """Two servers, and the address of the current primary."""

    old: RedisServer
    new: RedisServer
    address: MovedAddress

    @property
    def url(self) -> str:
        return f"redis://gateway:{self.old.password}@127.0.0.1:{self.address.port}/0"

    async def demote(self) -> None:
        """Make the old primary a replica of the new one. Its connections stay open."""
        async with Redis.from_url(self.new.url) as redis:
            await redis.config_set("repl-diskless-sync-delay", 0)
        async with Redis.from_url(self.old.url) as redis:
            await redis.config_set("masteruser", "gateway")
            await redis.config_set("masterauth", self.new.password)
            await redis.replicaof("127.0.0.1", str(self.new.port))

    def move_address(self) -> None:
        self.address.target = self.new.port


@pytest.fixture
async def failover(devstack_folder: Path, instance: str) -> AsyncIterator[Failover]:
    old = RedisServer(devstack_folder / f"{instance}old")
    new = RedisServer(devstack_folder / f"{instance}new", password=old.password)
    async with old, new, moved_address(old.port) as address:
        yield Failover(old, new, address)


@pytest.fixture
async def gateway(failover: Failover, settings: Settings, weather: WeatherServer) -> AsyncIterator[RunningGateway]:
    """A gateway that uses the address."""
    del weather
    redis_settings = RedisSettings.model_validate({"url": failover.url})
    async with running_gateway(settings.model_copy(update={"redis": redis_settings})) as gateway:
        yield gateway


async def test_cache_writes_recover(gateway: RunningGateway, failover: Failover) -> None:
    """The gateway writes to the new primary a few seconds after the failover, without a restart."""
    await gateway.client.get(f"/v1/places/{ZURICH}/brief")
    await failover.demote()
    failover.move_address()
    started_at = time.monotonic()

    async with Redis.from_url(failover.new.url) as redis:

        async def is_cached() -> bool:
            await gateway.client.get(f"/v1/places/{BERN}/brief")
            return bool(await redis.exists(weather_key(BERN)))

        await wait_until(is_cached, "the weather is cached by the new primary")
    assert time.monotonic() - started_at < MAX_RECOVERY


async def test_readiness_follows_the_primary(gateway: RunningGateway, failover: Failover) -> None:
    """Readiness is `degraded` while Redis accepts no writes, and `ok` a few seconds after the address has moved."""

    async def report() -> dict[str, Any]:
        return cast("dict[str, Any]", (await gateway.client.get("/readyz")).json())

    async def is_ok() -> bool:
        return bool((await report())["status"] == "ok")

    async def is_degraded() -> bool:
        return bool((await report())["status"] == "degraded")

    assert await is_ok()
    await failover.demote()
    await wait_until(is_degraded, "the report shows the replica")
    assert "accepts no writes (ReadOnlyError" in (await report())["checks"]["redis"]["remark"]

    failover.move_address()
    started_at = time.monotonic()
    await wait_until(is_ok, "the report is ok again")
    assert time.monotonic() - started_at < MAX_RECOVERY


async def test_views_recover(start: StartProcess, failover: Failover, broker: AbstractChannel) -> None:
    """The worker adds the views of after the failover to the new primary, in a few seconds and without a restart."""
    await start_worker(start, GATEWAY_REDIS__URL=failover.url)

    async def add(views: int) -> None:
        event = BriefViewed.create(ViewCounts(views={ZURICH: views}))
        await publish(broker, encode(event), event_type=VIEWS.routing_key)

    async def wait_for_views(server: RedisServer, views: int) -> None:
        async with Redis.from_url(server.url) as redis:

            async def are_added() -> bool:
                return int(await redis.get(popularity_key(ZURICH)) or 0) == views

            await wait_until(are_added, "the views are added")

    await add(1)
    await wait_for_views(failover.old, 1)
    await failover.demote()
    failover.move_address()
    started_at = time.monotonic()
    await add(2)
    await wait_for_views(failover.new, 2)
    assert time.monotonic() - started_at < MAX_RECOVERY
