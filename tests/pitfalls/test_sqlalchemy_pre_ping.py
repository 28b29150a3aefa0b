"""SQLAlchemy: a timeout does not end the pre-ping of a server that does not respond."""

import asyncio
import time

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from gateway.devstack.postgresql import PostgreSQLServer


def broken(url: str) -> AsyncEngine:
    return create_async_engine(url, pool_pre_ping=True)


def fixed(url: str) -> AsyncEngine:
    def discard_closed(adapted: DBAPIConnection, record: ConnectionPoolEntry, *_: object) -> None:
        # New connections are not checked: the pool connects again only twice before it raises.
        if "used" in record.info and adapted.driver_connection.is_closed():
            raise DisconnectionError
        record.info["used"] = True

    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    event.listen(engine.sync_engine, "checkout", discard_closed)
    return engine


async def connect(engine: AsyncEngine) -> None:
    async with asyncio.timeout(0.2), engine.connect():
        pass


async def test_timeout_does_not_end_pre_ping(postgresql_server: PostgreSQLServer) -> None:
    """A second after a checkout with a timeout of 0.2 s began, it still waits for a suspended server."""
    engine = broken(postgresql_server.url)
    await connect(engine)
    with postgresql_server.suspended():
        connecting = asyncio.create_task(connect(engine))
        await asyncio.wait({connecting}, timeout=1)
        assert not connecting.done(), "fixed upstream: a timeout ends the pre-ping"
    await asyncio.wait({connecting}, timeout=5)
    with pytest.raises(TimeoutError):
        connecting.result()
    await engine.dispose()


async def test_local_check_is_fast_and_finds_closed(postgresql_server: PostgreSQLServer) -> None:
    """A check of the driver's own state needs no server, and replaces a connection that the server has closed."""
    engine = fixed(postgresql_server.url)
    async with engine.connect() as connection:
        first_pid = await connection.scalar(text("SELECT pg_backend_pid()"))
    with postgresql_server.suspended():
        started = time.monotonic()
        async with engine.connect():
            assert time.monotonic() - started < 0.1

    async with engine.connect() as one, engine.connect() as other:
        raw = (await one.get_raw_connection()).driver_connection
        assert raw is not None
        await other.execute(text(f"SELECT pg_terminate_backend({first_pid})"))
        async with asyncio.timeout(5):
            while not raw.is_closed():  # noqa: ASYNC110 - the driver has no event for it
                await asyncio.sleep(0.01)
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT pg_backend_pid()")) != first_pid
    await engine.dispose()
