"""The Redis pool, beyond what every lifespan shows of it."""

import pytest

from gateway.devstack.redis import Redis as RedisServer
from gateway.resources.redis import RedisPool
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
