"""redis-py: on Python 3.11 a command that is cancelled while it is sent goes on as if nothing had happened."""

import asyncio
import sys

from redis.asyncio import Redis

from gateway.devstack.redis import Redis as RedisServer


def naive(url: str) -> Redis:
    return Redis.from_url(url)


def cure(url: str) -> Redis:
    return Redis.from_url(url, socket_timeout=None, socket_connect_timeout=None)


async def cancelled_while_it_asks(redis: Redis) -> object:
    """Cancel a task that asks for a PING; return what it returned all the same, None if it ended by that."""
    async with redis:
        await redis.ping()  # it is connected now
        asking = asyncio.ensure_future(redis.ping())
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking})
        return None if asking.cancelled() else asking.result()


async def test_the_cancellation_is_lost(redis_server: RedisServer) -> None:
    """`asyncio.wait_for` loses it, which redis-py sends each command in; Python 3.12 has another."""
    answer = await cancelled_while_it_asks(naive(redis_server.url))

    assert answer is (None if sys.version_info >= (3, 12) else True), "a cancellation arrives by now"


async def test_without_its_own_timeouts_it_arrives(redis_server: RedisServer) -> None:
    assert await cancelled_while_it_asks(cure(redis_server.url)) is None
