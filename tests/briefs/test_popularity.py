"""Views are added once an event, whatever else is in Redis."""

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


async def test_the_same_event_again_adds_nothing(redis: Redis) -> None:
    event = BriefViewed.create(ViewCounts(views={1: 2, 2: 3}))
    await add_views(redis, event)
    await add_views(redis, event)

    assert (await views(redis, 1), await views(redis, 2)) == (2, 3)


@pytest.mark.parametrize("spoiled", [b"no number", b"9223372036854775807"])
async def test_a_counter_that_somebody_has_spoiled_costs_no_other_its_views(redis: Redis, spoiled: bytes) -> None:
    await redis.set(popularity_key(1), spoiled)
    await add_views(redis, BriefViewed.create(ViewCounts(views={1: 2, 2: 3})))

    assert await redis.get(popularity_key(1)) == spoiled
    assert await views(redis, 2) == 3
