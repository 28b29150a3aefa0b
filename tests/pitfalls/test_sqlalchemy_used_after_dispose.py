"""SQLAlchemy: a disposed engine connects again when it is used, and that connection is never closed."""

import asyncio

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gateway.devstack.postgresql import PostgreSQLServer


async def broken(url: str) -> AsyncEngine:
    engine = create_async_engine(url)
    await engine.dispose()
    return engine


async def fixed(dsn: str) -> AsyncEngine:
    closed = asyncio.Event()

    async def connect() -> "asyncpg.Connection[asyncpg.Record]":
        if closed.is_set():
            raise RuntimeError("the engine is closed")
        return await asyncpg.connect(dsn, ssl=False)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect)
    closed.set()
    await engine.dispose()
    return engine


async def test_disposed_engine_reconnects(postgresql_server: PostgreSQLServer) -> None:
    """`connect()` on a disposed engine succeeds, and the connection stays open in the pool."""
    engine = await broken(postgresql_server.url + "?ssl=disable")

    async with engine.connect() as connection:  # if this raises, SQLAlchemy has fixed it
        raw = (await connection.get_raw_connection()).driver_connection

    assert raw is not None
    assert not raw.is_closed(), "fixed upstream: a disposed engine keeps no connection"
    raw.terminate()


async def test_async_creator_can_refuse(postgresql_server: PostgreSQLServer) -> None:
    """An `async_creator` that checks whether the engine is closed raises instead of connecting again."""
    engine = await fixed(postgresql_server.url.replace("+asyncpg", ""))

    with pytest.raises(RuntimeError, match="the engine is closed"):
        await engine.connect()
