"""A connection without a pool, and a single transaction on it, for `gateway migrate` and `gateway seed`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

# TLS is off unless the URL enables it (`?ssl=verify-full`). asyncpg's own default, "prefer", connects without
# TLS if the server declines it, so that it protects against no attacker. A cancelled connect with "prefer" also leaves an
# exception that is never retrieved.
DEFAULT_SSL_MODE = "disable"
CONNECT_TIMEOUT = 10


@asynccontextmanager
async def connect(url: str, *, application_name: str) -> AsyncIterator[AsyncConnection]:
    """Connect, yield the connection, disconnect. Changes that were not committed are rolled back.

    Args:
        url: of the database, with the scheme `postgresql+asyncpg`.
        application_name: the name of the connection in `pg_stat_activity`.

    Raises:
        OSError, sqlalchemy.exc.DBAPIError: the server cannot be reached, or rejects the connection.
    """
    engine = create_async_engine(
        url,
        poolclass=NullPool,
        connect_args={
            "ssl": make_url(url).query.get("ssl", DEFAULT_SSL_MODE),
            "timeout": CONNECT_TIMEOUT,
            "server_settings": {"application_name": application_name},
        },
    )
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


@asynccontextmanager
async def transaction(url: str, *, application_name: str) -> AsyncIterator[AsyncConnection]:
    """Connect, begin, yield the connection, commit or roll back, disconnect. Arguments and errors as for `connect()`."""
    async with connect(url, application_name=application_name) as connection, connection.begin():
        yield connection
