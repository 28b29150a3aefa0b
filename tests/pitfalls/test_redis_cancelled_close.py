"""redis-py: `aclose()` that is cancelled in its first tick closes nothing."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from redis.asyncio import Redis

from gateway.devstack.redis import Redis as RedisServer
from tests.end_to_end.running import until


async def naive(redis: Redis) -> None:
    await redis.aclose()


async def cure(redis: Redis) -> None:
    pool = redis.connection_pool
    try:
        await redis.aclose()
    finally:
        for connection in (*pool._available_connections, *pool._in_use_connections):
            if connection._writer is not None:
                connection._writer.transport.abort()
                connection._close()  # type: ignore[no-untyped-call]  # or the collector complains of it


async def connected(url: str, name: str) -> Redis:
    """A client with three connections."""
    redis = Redis.from_url(url, client_name=name)
    await asyncio.gather(redis.ping(), redis.ping(), redis.ping())
    return redis


async def cancelled(closing: Coroutine[Any, Any, None]) -> None:
    """Cancel it one tick after it has begun."""
    task = asyncio.create_task(closing)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def test_all_connections_stay_open(redis_server: RedisServer) -> None:
    redis = await connected(redis_server.url, "cut-short")

    await cancelled(naive(redis))

    assert (await redis_server.clients()).count("cut-short") == 3, "it closes them by now"
    await redis.aclose()


async def test_who_drops_the_transports_leaves_none(redis_server: RedisServer) -> None:
    await cancelled(cure(await connected(redis_server.url, "dropped")))

    async def gone() -> bool:
        return "dropped" not in await redis_server.clients()

    await until(gone, "the server has no connection of it any more")
