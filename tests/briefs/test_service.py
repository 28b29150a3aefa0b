"""The brief service: its end while calls to the backends are in flight."""

import asyncio
from typing import Any

import httpx
import pytest
from sqlalchemy import QueuePool

from gateway.briefs.place_loader import PlaceUnavailableError
from gateway.briefs.service import BriefService
from gateway.devstack.stack import Devstack
from gateway.event_loop import EventLoopMonitor
from gateway.resources.database import DatabaseEngine
from gateway.resources.model import Model
from gateway.resources.redis import RedisPool
from gateway.settings import DatabaseSettings, RedisSettings
from tests.support.waiting import TIMEOUT, wait_until

ZURICH = 2657896


class UnusedModel(Model):
    """A model for briefs that do not get as far as the outlook."""

    def __init__(self) -> None:
        """Load nothing."""


async def test_end_releases_connections(servers: Devstack) -> None:
    """At the end, calls in flight are ended, their callers get an error, and their connections go back to the pools."""
    database = DatabaseEngine(DatabaseSettings(url=servers.postgresql.url), "service")
    cache = RedisPool(RedisSettings.model_validate({"url": servers.redis.url}), "service")
    async with database.open() as engine, cache.open() as redis, httpx.AsyncClient() as http:
        pool, redis_pool = engine.pool, redis.connection_pool
        assert isinstance(pool, QueuePool)
        service = BriefService(
            http, engine, redis, UnusedModel(), EventLoopMonitor(), on_viewed=lambda _: None, timeout=TIMEOUT
        )
        with servers.postgresql.suspended(), servers.redis.suspended():
            async with service.open():
                caller = asyncio.create_task(service.get(ZURICH))
                await wait_until(lambda: in_use(pool, redis_pool) == (1, 1), "both backends are called")

            assert in_use(pool, redis_pool) == (0, 0)
            with pytest.raises(PlaceUnavailableError):
                await caller


def in_use(pool: QueuePool, redis_pool: Any) -> tuple[int, int]:
    """Return how many connections of each pool are checked out."""
    return pool.checkedout(), len(redis_pool._in_use_connections)
