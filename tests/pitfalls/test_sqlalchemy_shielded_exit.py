"""SQLAlchemy: leaving `async with engine.connect()` is shielded: no timeout and no cancellation ends it."""

import asyncio
from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gateway.devstack.postgresql import PostgreSQL


async def naive(engine: AsyncEngine, meanwhile: Callable[[], None]) -> None:
    async with asyncio.timeout(0.2):
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
            meanwhile()  # the server stops answering


def cure(url: str) -> AsyncEngine:
    return create_async_engine(url, connect_args={"command_timeout": 0.2})


async def test_a_timeout_and_a_cancellation_are_ignored(postgresql_server: PostgreSQL) -> None:
    engine = create_async_engine(postgresql_server.url)
    try:
        leaving = asyncio.create_task(naive(engine, postgresql_server.suspend))
        await asyncio.wait({leaving}, timeout=1)
        assert not leaving.done(), "a timeout ends it by now"
        leaving.cancel()
        await asyncio.wait({leaving}, timeout=0.5)
        assert not leaving.done(), "a second cancellation ends it by now"
    finally:
        postgresql_server.resume()
    await asyncio.wait({leaving}, timeout=5)
    assert leaving.cancelled()
    await engine.dispose()


async def test_a_time_limit_for_each_command_ends_it(postgresql_server: PostgreSQL) -> None:
    engine = cure(postgresql_server.url)
    try:
        leaving = asyncio.create_task(naive(engine, postgresql_server.suspend))
        await asyncio.wait({leaving}, timeout=3)
        assert leaving.done()
    finally:
        postgresql_server.resume()
    with pytest.raises(TimeoutError):
        leaving.result()
    await engine.dispose()
