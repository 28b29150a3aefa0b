"""redis-py: `Redis(connection_pool=pool)` does not close the pool when it is closed."""

from redis.asyncio import ConnectionPool, Redis

from gateway.devstack.redis import Redis as RedisServer
from tests.end_to_end.running import until


async def naive(pool: ConnectionPool) -> None:
    async with Redis(connection_pool=pool) as redis:
        await redis.ping()


async def cure(pool: ConnectionPool) -> None:
    async with Redis.from_pool(pool) as redis:
        await redis.ping()


async def test_its_connections_stay_open(redis_server: RedisServer) -> None:
    pool = ConnectionPool.from_url(redis_server.url, client_name="left-open")

    await naive(pool)

    assert "left-open" in await redis_server.clients(), "it closes the pool by now"
    await pool.aclose()


async def test_a_client_that_owns_its_pool_closes_it(redis_server: RedisServer) -> None:
    await cure(ConnectionPool.from_url(redis_server.url, client_name="owned"))

    async def gone() -> bool:
        return "owned" not in await redis_server.clients()

    await until(gone, "the server has no connection of it any more")
