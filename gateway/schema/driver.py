"""Access to the driver below SQLAlchemy."""

from typing import cast

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection


async def asyncpg_connection(connection: AsyncConnection) -> asyncpg.Connection:
    """Return the asyncpg connection of a SQLAlchemy connection."""
    return cast("asyncpg.Connection", (await connection.get_raw_connection()).driver_connection)
