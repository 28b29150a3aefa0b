"""The raw connections under SQLAlchemy's pool."""

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine


async def idle_connections(engine: AsyncEngine, number: int) -> "list[asyncpg.Connection[asyncpg.Record]]":
    """Have the engine's pool open so many connections, give them back to it, and return what is under them."""
    connections = [await engine.connect() for _ in range(number)]
    raw = [(await connection.get_raw_connection()).driver_connection for connection in connections]
    for connection in connections:
        await connection.close()
    return [connection for connection in raw if connection is not None]
