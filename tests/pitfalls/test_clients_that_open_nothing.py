"""httpx, SQLAlchemy, redis-py: making a client opens nothing, so a startup succeeds without any server."""

from contextlib import AsyncExitStack

import httpx
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine


async def naive(stack: AsyncExitStack, port: int) -> None:
    engine = create_async_engine(f"postgresql+asyncpg://gateway@127.0.0.1:{port}/gateway")
    stack.push_async_callback(engine.dispose)
    await stack.enter_async_context(Redis.from_url(f"redis://127.0.0.1:{port}"))
    await stack.enter_async_context(httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}"))


async def cure_of_the_engine(stack: AsyncExitStack, port: int) -> None:
    engine = create_async_engine(f"postgresql+asyncpg://gateway@127.0.0.1:{port}/gateway")
    stack.push_async_callback(engine.dispose)
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))


async def cure_of_redis(stack: AsyncExitStack, port: int) -> None:
    redis = await stack.enter_async_context(Redis.from_url(f"redis://127.0.0.1:{port}"))
    await redis.ping()


async def test_a_startup_without_servers_succeeds(refusing_port: int) -> None:
    async with AsyncExitStack() as stack:
        await naive(stack, refusing_port)  # if this raises, one of them connects by now


async def test_who_asks_at_once_knows_at_once(refusing_port: int) -> None:
    async with AsyncExitStack() as stack:
        with pytest.raises(ConnectionRefusedError):
            await cure_of_the_engine(stack, refusing_port)
        with pytest.raises(RedisConnectionError):
            await cure_of_redis(stack, refusing_port)
