"""SQLAlchemy: an engine that was disposed connects again when it is used, and nobody closes that."""

import asyncio

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gateway.devstack.postgresql import PostgreSQL


async def naive(url: str) -> AsyncEngine:
    engine = create_async_engine(url)
    await engine.dispose()
    return engine


async def cure(dsn: str) -> AsyncEngine:
    closed = asyncio.Event()

    async def connect() -> "asyncpg.Connection[asyncpg.Record]":
        if closed.is_set():
            raise RuntimeError("the engine is closed")
        return await asyncpg.connect(dsn, ssl=False)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect)
    closed.set()
    await engine.dispose()
    return engine


async def test_it_connects_as_if_nothing_had_happened(postgresql_server: PostgreSQL) -> None:
    engine = await naive(postgresql_server.url + "?ssl=disable")

    async with engine.connect() as connection:  # if this raises, SQLAlchemy is mended
        raw = (await connection.get_raw_connection()).driver_connection

    assert raw is not None
    assert not raw.is_closed(), "and keeps nothing by now"
    raw.terminate()


async def test_what_makes_the_connections_can_refuse(postgresql_server: PostgreSQL) -> None:
    engine = await cure(postgresql_server.url.replace("+asyncpg", ""))

    with pytest.raises(RuntimeError, match="the engine is closed"):
        await engine.connect()
