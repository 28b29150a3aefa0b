"""redis-py: a client that was closed connects again when it is used, and nobody closes that."""

from typing import Any

import pytest
from redis.asyncio import ConnectionPool, Redis

from gateway.devstack.redis import Redis as RedisServer


async def naive(url: str) -> Redis:
    redis = Redis.from_url(url, client_name="after-the-end")
    await redis.aclose()
    return redis


class OncePool(ConnectionPool):
    """A pool that stays closed."""

    closed = False

    async def get_connection(self, *arguments: Any, **options: Any) -> Any:
        if self.closed:
            raise RuntimeError("the pool is closed")
        return await super().get_connection(*arguments, **options)  # type: ignore[no-untyped-call]

    async def aclose(self) -> None:
        self.closed = True
        await super().aclose()


async def cure(url: str) -> Redis:
    redis = Redis.from_pool(OncePool.from_url(url))
    await redis.ping()
    await redis.aclose()
    return redis


async def test_it_connects_as_if_nothing_had_happened(redis_server: RedisServer) -> None:
    redis = await naive(redis_server.url)

    await redis.ping()  # if this raises, redis-py is mended

    assert "after-the-end" in await redis_server.clients()
    await redis.aclose()


async def test_a_pool_can_stay_closed(redis_server: RedisServer) -> None:
    redis = await cure(redis_server.url)

    with pytest.raises(RuntimeError, match="the pool is closed"):
        await redis.ping()
