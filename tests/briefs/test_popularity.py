"""Popularity: each event is added once, even if a counter in Redis is invalid."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

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


@pytest.fixture
async def restricted(redis: Redis, redis_server: RedisServer) -> AsyncIterator[Redis]:
    """A client whose user may not count."""
    rules = [">secret", "on", "~consumed:*", "~popularity:*", "+eval", "+set", "+del"]
    await redis.execute_command("ACL", "SETUSER", "restricted", *rules)  # type: ignore[no-untyped-call]
    async with Redis.from_url(f"redis://restricted:secret@127.0.0.1:{redis_server.port}") as client:
        yield client
    await redis.acl_deluser("restricted")


async def test_missing_right_loses_no_views(redis: Redis, restricted: Redis) -> None:
    """A counter that the user may not change is an error, and a retry after the right is granted adds the views."""
    event = BriefViewed.create(ViewCounts(views={1: 2, 2: 3}))
    with pytest.raises(ResponseError, match=r"can't run this command|has no permissions to run"):  # Redis 7, Redis 8
        await add_views(restricted, event)

    await redis.execute_command("ACL", "SETUSER", "restricted", "+incrby")  # type: ignore[no-untyped-call]
    await add_views(restricted, event)

    assert [await views(redis, place) for place in (1, 2)] == [2, 3]


@pytest.mark.parametrize("value", [b"no number", b"9223372036854775807", ["a", "list"]])
async def test_invalid_counter(redis: Redis, value: bytes | list[str]) -> None:
    """An invalid counter does not change. The other places of the event get their views."""
    if isinstance(value, list):
        await redis.rpush(popularity_key(1), *value)
    else:
        await redis.set(popularity_key(1), value)
    await add_views(redis, BriefViewed.create(ViewCounts(views={1: 2, 2: 3})))

    if isinstance(value, bytes):
        assert await redis.get(popularity_key(1)) == value
    assert await views(redis, 2) == 3
