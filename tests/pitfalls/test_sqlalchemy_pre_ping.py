"""SQLAlchemy: a timeout does not end the pre-ping of a server that has stopped."""

import asyncio
import time

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from gateway.devstack.postgresql import PostgreSQL


def naive(url: str) -> AsyncEngine:
    return create_async_engine(url, pool_pre_ping=True)


def cure(url: str) -> AsyncEngine:
    def refuse_closed(adapted: DBAPIConnection, record: ConnectionPoolEntry, *_: object) -> None:
        if "used" in record.info and adapted.driver_connection.is_closed():
            raise DisconnectionError  # the pool connects anew, twice at most: so new ones are not judged
        record.info["used"] = True

    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    event.listen(engine.sync_engine, "checkout", refuse_closed)
    return engine


async def connect(engine: AsyncEngine) -> None:
    async with asyncio.timeout(0.2), engine.connect():
        pass


async def test_a_timeout_does_not_end_a_pre_ping(postgresql_server: PostgreSQL) -> None:
    engine = naive(postgresql_server.url)
    await connect(engine)
    with postgresql_server.suspended():
        connecting = asyncio.create_task(connect(engine))
        await asyncio.wait({connecting}, timeout=1)
        assert not connecting.done(), "a timeout ends it by now"
    await asyncio.wait({connecting}, timeout=5)
    with pytest.raises(TimeoutError):
        connecting.result()
    await engine.dispose()


async def test_a_look_at_the_connection_takes_no_time_and_finds_one_that_is_closed(
    postgresql_server: PostgreSQL,
) -> None:
    engine = cure(postgresql_server.url)
    async with engine.connect() as connection:
        first = await connection.scalar(text("SELECT pg_backend_pid()"))
    with postgresql_server.suspended():
        began = time.monotonic()
        async with engine.connect():
            assert time.monotonic() - began < 0.1

    async with engine.connect() as one, engine.connect() as other:
        raw = (await one.get_raw_connection()).driver_connection
        assert raw is not None
        await other.execute(text(f"SELECT pg_terminate_backend({first})"))
        async with asyncio.timeout(5):
            while not raw.is_closed():  # noqa: ASYNC110 - the driver has no event for it
                await asyncio.sleep(0.01)
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT pg_backend_pid()")) != first
    await engine.dispose()
