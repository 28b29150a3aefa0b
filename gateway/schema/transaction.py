"""A connection without a pool, and a single transaction on it, for `gateway migrate` and `gateway seed`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import NullPool

from gateway.schema.connect import Connector

CONNECT_TIMEOUT = 10.0


@asynccontextmanager
async def connect(url: str, *, application_name: str) -> AsyncIterator[AsyncConnection]:
    """Connect, yield the connection, disconnect. Changes that were not committed are rolled back.

    Args:
        url: of the database, with the scheme `postgresql+asyncpg`.
        application_name: the name of the connection in `pg_stat_activity`.

    Raises:
        ConnectError: the server cannot be used until an operator changes something.
        OSError, sqlalchemy.exc.DBAPIError: the server cannot be reached, or rejects the connection.
        ValueError: the URL is invalid.
    """
    connector = Connector(url, application_name=application_name)
    engine = connector.create_engine(lambda: connector.connect(connect_timeout=CONNECT_TIMEOUT), poolclass=NullPool)
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
