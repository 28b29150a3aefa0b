"""The Redis pool, beyond what every lifespan shows of it."""

import asyncio
from typing import Any

import pytest

from gateway.devstack.redis import RedisServer
from gateway.resources.redis import CONNECTIONS, RedisPool
from gateway.settings import RedisSettings


async def test_once_released_nobody_connects_any_more(redis_server: RedisServer) -> None:
    resource = RedisPool(RedisSettings.model_validate({"url": redis_server.url}), "released-1")
    async with resource.open() as redis:
        assert await redis.ping()

    with pytest.raises(RuntimeError, match="not open"):
        await redis.ping()
    with pytest.raises(RuntimeError, match="not open"):
        await resource.check()
    assert "released-1" not in await redis_server.clients()


async def test_a_command_that_waits_for_a_connection_when_it_is_released_gets_none(redis_server: RedisServer) -> None:
    resource = RedisPool(RedisSettings.model_validate({"url": redis_server.url}), "released-2")
    async with resource.open() as redis:
        pool: Any = redis.connection_pool
        taken = [await pool.get_connection() for _ in range(CONNECTIONS)]
        waiting = asyncio.ensure_future(redis.ping())
        await asyncio.sleep(0)
    for connection in taken:
        await pool.release(connection)

    with pytest.raises(RuntimeError, match="not open"):
        await waiting
    assert "released-2" not in await redis_server.clients()
