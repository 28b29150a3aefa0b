"""httpx, SQLAlchemy, redis-py: a new client opens no connection, so a startup succeeds without any server."""

from contextlib import AsyncExitStack

import httpx
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine


async def broken(stack: AsyncExitStack, port: int) -> None:
    engine = create_async_engine(f"postgresql+asyncpg://gateway@127.0.0.1:{port}/gateway")
    stack.push_async_callback(engine.dispose)
    await stack.enter_async_context(Redis.from_url(f"redis://127.0.0.1:{port}"))
    await stack.enter_async_context(httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}"))


async def fixed_engine(stack: AsyncExitStack, port: int) -> None:
    engine = create_async_engine(f"postgresql+asyncpg://gateway@127.0.0.1:{port}/gateway")
    stack.push_async_callback(engine.dispose)
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))


async def fixed_redis(stack: AsyncExitStack, port: int) -> None:
    redis = await stack.enter_async_context(Redis.from_url(f"redis://127.0.0.1:{port}"))
    await redis.ping()


async def test_startup_succeeds_without_servers(refusing_port: int) -> None:
    """All three clients are entered and exited, although the port refuses connections."""
    async with AsyncExitStack() as stack:
        await broken(stack, refusing_port)  # if this raises, one of the clients connects when it is made


async def test_verified_startup_fails_without_servers(refusing_port: int) -> None:
    """One query at startup makes the failure visible immediately."""
    async with AsyncExitStack() as stack:
        with pytest.raises(ConnectionRefusedError):
            await fixed_engine(stack, refusing_port)
        with pytest.raises(RedisConnectionError):
            await fixed_redis(stack, refusing_port)
