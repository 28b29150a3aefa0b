"""SQLAlchemy: `dispose()` closes one connection after the other; cut short by a timeout, it leaves the rest for good."""

import asyncio
from weakref import WeakSet

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gateway.devstack.postgresql import PostgreSQL
from tests.end_to_end.running import until
from tests.pitfalls.idle_connections import idle_connections

RawConnections = WeakSet["asyncpg.Connection[asyncpg.Record]"]


async def naive(engine: AsyncEngine) -> None:
    async with asyncio.timeout(0.2):
        await engine.dispose()


def cure(dsn: str, raw: RawConnections) -> AsyncEngine:
    async def connect() -> "asyncpg.Connection[asyncpg.Record]":
        connection = await asyncpg.connect(dsn, ssl=False)
        raw.add(connection)
        return connection

    return create_async_engine("postgresql+asyncpg://", async_creator=connect)


async def dispose(engine: AsyncEngine, raw: RawConnections) -> None:
    try:
        async with asyncio.timeout(0.2):
            await engine.dispose()
    finally:
        for connection in raw:
            if not connection.is_closed():
                connection.terminate()


async def test_two_of_three_connections_stay_open(postgresql_server: PostgreSQL) -> None:
    named = {"server_settings": {"application_name": "left"}}
    engine = create_async_engine(postgresql_server.url, connect_args=named)
    raw = await idle_connections(engine, 3)

    with postgresql_server.suspended(), pytest.raises(TimeoutError):
        await naive(engine)

    left = [connection for connection in raw if not connection.is_closed()]
    assert len(left) == 2, "SQLAlchemy closes all of them by now"

    async def the_server_has_two() -> bool:
        return (await postgresql_server.clients()).count("left") == 2

    await until(the_server_has_two, "of the three it has two")
    for connection in left:
        connection.terminate()


async def test_who_remembers_the_connections_can_terminate_them(postgresql_server: PostgreSQL) -> None:
    remembered = RawConnections()
    engine = cure(postgresql_server.url.replace("+asyncpg", "") + "?application_name=remembered", remembered)
    raw = await idle_connections(engine, 3)

    with postgresql_server.suspended(), pytest.raises(TimeoutError):
        await dispose(engine, remembered)

    assert [connection.is_closed() for connection in raw] == [True, True, True]

    async def the_server_knows() -> bool:
        return "remembered" not in await postgresql_server.clients()

    await until(the_server_knows, "the server has none of them any more")
