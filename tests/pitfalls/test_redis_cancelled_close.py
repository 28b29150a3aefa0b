"""redis-py: an `aclose()` that is cancelled in its first loop iteration closes nothing."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from redis.asyncio import Redis

from gateway.devstack.redis import RedisServer
from tests.support.waiting import wait_until


async def broken(redis: Redis) -> None:
    await redis.aclose()


async def fixed(redis: Redis) -> None:
    pool = redis.connection_pool
    try:
        await redis.aclose()
    finally:
        for connection in (*pool._available_connections, *pool._in_use_connections):
            if connection._writer is not None:
                connection._writer.transport.abort()
                connection._close()  # type: ignore[no-untyped-call]  # without it `__del__` warns


async def connected_client(url: str, name: str) -> Redis:
    """Return a client with three connections."""
    redis = Redis.from_url(url, client_name=name)
    await asyncio.gather(redis.ping(), redis.ping(), redis.ping())
    return redis


async def cancel_at_first_iteration(closing: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(closing)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def test_cancelled_aclose_leaves_connections(redis_server: RedisServer) -> None:
    """All three connections stay open."""
    redis = await connected_client(redis_server.url, "cancelled-close")

    await cancel_at_first_iteration(broken(redis))

    assert (await redis_server.clients()).count("cancelled-close") == 3, "fixed upstream: they are closed"
    await redis.aclose()


async def test_aborted_transports_leave_none(redis_server: RedisServer) -> None:
    """A close that aborts the remaining transports leaves no connection, even if it is cancelled."""
    await cancel_at_first_iteration(fixed(await connected_client(redis_server.url, "aborted")))

    async def disconnected() -> bool:
        return "aborted" not in await redis_server.clients()

    await wait_until(disconnected, "the server has no connection of this client")
