"""Access to the driver below SQLAlchemy."""

from typing import cast

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection


async def asyncpg_connection(connection: AsyncConnection) -> asyncpg.Connection:
    """Return the asyncpg connection of a SQLAlchemy connection."""
    return cast("asyncpg.Connection", (await connection.get_raw_connection()).driver_connection)


def first_line(error: BaseException) -> str:
    """Return the first line of the server's message, without the statement that SQLAlchemy adds."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig.__cause__ or error.orig
    return next(iter(str(error).splitlines()), type(error).__name__)
