"""redis-py: a client that was given a pool, `Redis(connection_pool=pool)`, does not close it."""

from redis.asyncio import ConnectionPool, Redis

from gateway.devstack.redis import RedisServer
from tests.support.waiting import wait_until


async def broken(pool: ConnectionPool) -> None:
    async with Redis(connection_pool=pool) as redis:
        await redis.ping()


async def fixed(pool: ConnectionPool) -> None:
    async with Redis.from_pool(pool) as redis:
        await redis.ping()


async def test_connection_pool_argument_stays_open(redis_server: RedisServer) -> None:
    """The pool's connection stays open after the client is closed."""
    pool = ConnectionPool.from_url(redis_server.url, client_name="left-open")

    await broken(pool)

    assert "left-open" in await redis_server.clients(), "fixed upstream: the client closes the pool"
    await pool.aclose()


async def test_from_pool_closes_pool(redis_server: RedisServer) -> None:
    """A client made by `from_pool` owns the pool and closes it."""
    await fixed(ConnectionPool.from_url(redis_server.url, client_name="owned"))

    async def disconnected() -> bool:
        return "owned" not in await redis_server.clients()

    await wait_until(disconnected, "the server has no connection of this client")
