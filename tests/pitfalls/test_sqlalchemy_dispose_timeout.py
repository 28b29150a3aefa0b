"""SQLAlchemy: `dispose()` closes the connections one by one; if a timeout ends it, the rest stays open."""

import asyncio
from weakref import WeakSet

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gateway.devstack.postgresql import PostgreSQLServer
from tests.pitfalls.idle_connections import open_idle_connections
from tests.support.waiting import wait_until

RawConnections = WeakSet["asyncpg.Connection[asyncpg.Record]"]


async def broken(engine: AsyncEngine) -> None:
    async with asyncio.timeout(0.2):
        await engine.dispose()


def fixed_engine(dsn: str, raw: RawConnections) -> AsyncEngine:
    async def connect() -> "asyncpg.Connection[asyncpg.Record]":
        connection = await asyncpg.connect(dsn, ssl=False)
        raw.add(connection)
        return connection

    return create_async_engine("postgresql+asyncpg://", async_creator=connect)


async def fixed_dispose(engine: AsyncEngine, raw: RawConnections) -> None:
    try:
        async with asyncio.timeout(0.2):
            await engine.dispose()
    finally:
        for connection in raw:
            if not connection.is_closed():
                connection.terminate()


async def test_dispose_timeout_leaves_two_of_three(postgresql_server: PostgreSQLServer) -> None:
    """With a suspended server, one of three connections is closed. The server has the other two when it continues."""
    engine = create_async_engine(
        postgresql_server.url, connect_args={"server_settings": {"application_name": "left-open"}}
    )
    raw = await open_idle_connections(engine, 3)

    with postgresql_server.suspended(), pytest.raises(TimeoutError):
        await broken(engine)

    left_open = [connection for connection in raw if not connection.is_closed()]
    assert len(left_open) == 2, "fixed upstream: SQLAlchemy closes all of them"

    async def server_has_two() -> bool:
        return (await postgresql_server.clients()).count("left-open") == 2

    await wait_until(server_has_two, "the server has two of the three connections")
    for connection in left_open:
        connection.terminate()


async def test_tracked_connections_are_terminated(postgresql_server: PostgreSQLServer) -> None:
    """A program that keeps track of the raw connections terminates those that `dispose()` has left open."""
    tracked = RawConnections()
    engine = fixed_engine(postgresql_server.url.replace("+asyncpg", "") + "?application_name=tracked", tracked)
    raw = await open_idle_connections(engine, 3)

    with postgresql_server.suspended(), pytest.raises(TimeoutError):
        await fixed_dispose(engine, tracked)

    assert [connection.is_closed() for connection in raw] == [True, True, True]

    async def server_has_none() -> bool:
        return "tracked" not in await postgresql_server.clients()

    await wait_until(server_has_none, "the server has none of the connections")
