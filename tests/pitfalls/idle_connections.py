"""The asyncpg connections in SQLAlchemy's pool."""

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine


async def open_idle_connections(engine: AsyncEngine, count: int) -> "list[asyncpg.Connection[asyncpg.Record]]":
    """Fill the engine's pool with `count` idle connections, and return the asyncpg connections."""
    connections = [await engine.connect() for _ in range(count)]
    raw = [(await connection.get_raw_connection()).driver_connection for connection in connections]
    for connection in connections:
        await connection.close()
    return [connection for connection in raw if connection is not None]
