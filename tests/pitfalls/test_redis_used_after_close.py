"""redis-py: a closed client connects again when it is used, and that connection is never closed."""

from typing import Any

import pytest
from redis.asyncio import ConnectionPool, Redis

from gateway.devstack.redis import RedisServer


async def broken(url: str) -> Redis:
    redis = Redis.from_url(url, client_name="after-the-end")
    await redis.aclose()
    return redis


class OncePool(ConnectionPool):
    """A pool that cannot be used after `aclose()`."""

    closed = False

    async def get_connection(self, *arguments: Any, **options: Any) -> Any:
        if self.closed:
            raise RuntimeError("the pool is closed")
        return await super().get_connection(*arguments, **options)  # type: ignore[no-untyped-call]

    async def aclose(self) -> None:
        self.closed = True
        await super().aclose()


async def fixed(url: str) -> Redis:
    redis = Redis.from_pool(OncePool.from_url(url))
    await redis.ping()
    await redis.aclose()
    return redis


async def test_closed_client_reconnects(redis_server: RedisServer) -> None:
    """`ping()` on a closed client succeeds and leaves a connection open."""
    redis = await broken(redis_server.url)

    await redis.ping()  # if this raises, redis-py has fixed it

    assert "after-the-end" in await redis_server.clients()
    await redis.aclose()


async def test_closed_pool_refuses_connections(redis_server: RedisServer) -> None:
    """A pool that checks whether it is closed raises instead of connecting again."""
    redis = await fixed(redis_server.url)

    with pytest.raises(RuntimeError, match="the pool is closed"):
        await redis.ping()
