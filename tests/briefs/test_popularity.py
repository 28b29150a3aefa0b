"""Popularity: each event is added once, even if a counter in Redis is invalid."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from gateway.briefs.popularity import add_views
from gateway.briefs.queries import popularity_key
from gateway.devstack.redis import RedisServer
from gateway.events.messages import BriefViewed, ViewCounts


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_server.url) as client:
        await client.flushdb()
        yield client


async def views(redis: Redis, place_id: int) -> int:
    return int(await redis.get(popularity_key(place_id)) or 0)


async def test_repeated_event(redis: Redis) -> None:
    """An event that is delivered twice is added once."""
    event = BriefViewed.create(ViewCounts(views={1: 2, 2: 3}))
    await add_views(redis, event)
    await add_views(redis, event)

    assert await views(redis, 1) == 2
    assert await views(redis, 2) == 3


@pytest.mark.parametrize("value", [b"no number", b"9223372036854775807"])
async def test_invalid_counter(redis: Redis, value: bytes) -> None:
    """An invalid counter does not change. The other places of the event get their views."""
    await redis.set(popularity_key(1), value)
    await add_views(redis, BriefViewed.create(ViewCounts(views={1: 2, 2: 3})))

    assert await redis.get(popularity_key(1)) == value
    assert await views(redis, 2) == 3
