"""One transaction on a connection of its own: what `gateway migrate` and `gateway seed` work in."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

DEFAULT_SSL_MODE = "disable"
"""TLS is for a URL to ask for (`?ssl=verify-full`). asyncpg's default protects from nobody who answers "no TLS here", and each
cancellation while it asks leaves an error that nobody awaits."""


@asynccontextmanager
async def transaction(url: str, *, application_name: str) -> AsyncIterator[AsyncConnection]:
    """Connect to `url` (postgresql+asyncpg://), begin, yield, commit or roll back, disconnect.

    `application_name` is what `pg_stat_activity` shows.

    Raises:
        OSError, sqlalchemy.exc.DBAPIError: the server cannot be reached, or will not have us.
    """
    engine = create_async_engine(
        url,
        poolclass=NullPool,
        connect_args={
            "ssl": make_url(url).query.get("ssl", DEFAULT_SSL_MODE),
            "timeout": 10,
            "server_settings": {"application_name": application_name},
        },
    )
    try:
        async with engine.begin() as connection:
            yield connection
    finally:
        await engine.dispose()
