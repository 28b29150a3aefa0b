"""The Redis pool: it stays closed after its release."""

import asyncio
from typing import Any

import pytest

from gateway.devstack.redis import RedisServer
from gateway.resources.redis import MAX_CONNECTIONS, RedisPool
from gateway.settings import RedisSettings


async def test_no_connection_after_release(redis_server: RedisServer) -> None:
    """A command and a health check fail after the release, and open no connection."""
    resource = RedisPool(RedisSettings.model_validate({"url": redis_server.url}), "released-1")
    async with resource.open() as redis:
        assert await redis.ping()

    with pytest.raises(RuntimeError, match="not open"):
        await redis.ping()
    with pytest.raises(RuntimeError, match="not open"):
        await resource.check()
    assert "released-1" not in await redis_server.clients()


async def test_waiting_command_fails_after_release(redis_server: RedisServer) -> None:
    """A command that waits for a free connection during the release gets none."""
    resource = RedisPool(RedisSettings.model_validate({"url": redis_server.url}), "released-2")
    async with resource.open() as redis:
        pool: Any = redis.connection_pool
        taken = [await pool.get_connection() for _ in range(MAX_CONNECTIONS)]
        waiting = asyncio.ensure_future(redis.ping())
        await asyncio.sleep(0)
    for connection in taken:
        await pool.release(connection)

    with pytest.raises(RuntimeError, match="not open"):
        await waiting
    assert "released-2" not in await redis_server.clients()
