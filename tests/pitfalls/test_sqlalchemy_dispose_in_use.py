"""SQLAlchemy: `dispose()` skips a connection that is in use; it later returns to the old pool and stays open."""

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from gateway.devstack.postgresql import PostgreSQLServer


async def broken(engine: AsyncEngine, in_use: AsyncConnection) -> None:
    await engine.dispose()
    await in_use.close()  # the request that uses it ends


async def fixed(engine: AsyncEngine, in_use: AsyncConnection) -> None:
    await in_use.close()
    await engine.dispose()


async def connect(engine: AsyncEngine) -> "tuple[AsyncConnection, asyncpg.Connection[asyncpg.Record]]":
    """Check out a connection. Return it and its asyncpg connection."""
    connection = await engine.connect()
    raw = (await connection.get_raw_connection()).driver_connection
    assert raw is not None
    return connection, raw


async def test_connection_in_use_stays_open(postgresql_server: PostgreSQLServer) -> None:
    """The connection stays open after its close, and a second `dispose()` does not find it."""
    engine = create_async_engine(postgresql_server.url)
    connection, raw = await connect(engine)

    await broken(engine, connection)
    await engine.dispose()

    assert not raw.is_closed(), "fixed upstream: SQLAlchemy closes connections that return to a disposed pool"
    raw.terminate()


async def test_dispose_after_last_request(postgresql_server: PostgreSQLServer) -> None:
    """If the request ends first, `dispose()` closes its connection."""
    engine = create_async_engine(postgresql_server.url)
    connection, raw = await connect(engine)

    await fixed(engine, connection)

    assert raw.is_closed()
