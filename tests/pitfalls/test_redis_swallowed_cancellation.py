"""redis-py: on Python 3.11 a command that is cancelled while it is sent swallows the cancellation."""

import asyncio
import sys

from redis.asyncio import Redis

from gateway.devstack.redis import RedisServer


def broken(url: str) -> Redis:
    return Redis.from_url(url)


def fixed(url: str) -> Redis:
    return Redis.from_url(url, socket_timeout=None, socket_connect_timeout=None)


async def result_of_cancelled_ping(redis: Redis) -> object:
    """Cancel a task that sends a PING. Return its result, or None if it was cancelled."""
    async with redis:
        await redis.ping()  # connects
        pinging = asyncio.ensure_future(redis.ping())
        await asyncio.sleep(0)
        pinging.cancel()
        await asyncio.wait({pinging})
        return None if pinging.cancelled() else pinging.result()


async def test_cancelled_ping_returns_result(redis_server: RedisServer) -> None:
    """`asyncio.wait_for`, in which redis-py sends each command, loses the cancellation; since Python 3.12 it does not."""
    result = await result_of_cancelled_ping(broken(redis_server.url))

    assert result is (None if sys.version_info >= (3, 12) else True), "fixed upstream: the cancellation is delivered"


async def test_no_socket_timeout_delivers_cancellation(redis_server: RedisServer) -> None:
    """Without timeouts of its own, redis-py does not use `asyncio.wait_for`, and the cancellation is delivered."""
    assert await result_of_cancelled_ping(fixed(redis_server.url)) is None
