"""redis-py: a connection to a primary that was demoted is kept, although it rejects every write."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ReadOnlyError

from gateway.devstack.redis import RedisServer
from tests.support.moved_address import moved_address


async def broken(redis: Redis) -> bool:
    for _ in range(10):
        try:
            return bool(await redis.set("key", "value"))
        except ReadOnlyError:
            await asyncio.sleep(0.1)
    return False


async def fixed(redis: Redis) -> bool:
    for _ in range(10):
        try:
            return bool(await redis.set("key", "value"))
        except ReadOnlyError:
            await redis.connection_pool.disconnect(inuse_connections=False)
            await asyncio.sleep(0.1)
    return False


@pytest.fixture
async def demoted(redis_server: RedisServer, devstack_folder: Path, tmp_path: Path) -> AsyncIterator[Redis]:
    """A connected client of an address that has moved from a demoted primary to the new one."""
    old = RedisServer(devstack_folder / tmp_path.name, password=redis_server.password)
    async with (
        old,
        moved_address(old.port) as address,
        Redis.from_url(f"redis://gateway:{old.password}@127.0.0.1:{address.port}/0") as client,
    ):
        await client.replicaof("127.0.0.1", "1")
        address.target = redis_server.port
        yield client


async def test_demoted_primary_is_kept(demoted: Redis) -> None:
    """Each attempt uses the open connection, and fails."""
    assert not await broken(demoted), "fixed upstream: the client connects again"


async def test_disconnect_finds_the_new_primary(demoted: Redis) -> None:
    """After the pool has dropped its connections, the next attempt connects to the address again."""
    assert await fixed(demoted)
