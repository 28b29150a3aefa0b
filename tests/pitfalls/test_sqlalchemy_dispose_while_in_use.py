"""SQLAlchemy: `dispose()` leaves a connection that is in use; given back later, it stays open in a pool that nobody has."""

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from gateway.devstack.postgresql import PostgreSQL


async def naive(engine: AsyncEngine, in_use: AsyncConnection) -> None:
    await engine.dispose()
    await in_use.close()  # the request that had it ends


async def cure(engine: AsyncEngine, in_use: AsyncConnection) -> None:
    await in_use.close()
    await engine.dispose()


async def connected(engine: AsyncEngine) -> "tuple[AsyncConnection, asyncpg.Connection[asyncpg.Record]]":
    """A connection of the engine, and the raw one under it."""
    connection = await engine.connect()
    raw = (await connection.get_raw_connection()).driver_connection
    assert raw is not None
    return connection, raw


async def test_it_stays_open_and_a_second_dispose_does_not_find_it(postgresql_server: PostgreSQL) -> None:
    engine = create_async_engine(postgresql_server.url)
    connection, raw = await connected(engine)

    await naive(engine, connection)
    await engine.dispose()

    assert not raw.is_closed(), "SQLAlchemy closes what comes back to a pool that was disposed by now"
    raw.terminate()


async def test_dispose_comes_after_the_last_request(postgresql_server: PostgreSQL) -> None:
    engine = create_async_engine(postgresql_server.url)
    connection, raw = await connected(engine)

    await cure(engine, connection)

    assert raw.is_closed()
