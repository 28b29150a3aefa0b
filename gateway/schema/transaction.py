"""A connection without a pool, and a single transaction on it, for `gateway migrate` and `gateway seed`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import NullPool

from gateway.network.database_url import add_options
from gateway.schema.connect import Connector

CONNECT_TIMEOUT = 10.0

# The timeouts of a role or a database must not end a statement outside of a transaction, such as `CREATE INDEX CONCURRENTLY`.
_LIFT_TIMEOUTS = text("""
    SELECT set_config(name, '0', false) FROM pg_settings
    WHERE name IN ('lock_timeout', 'statement_timeout', 'transaction_timeout')
""")


@asynccontextmanager
async def connect(url: str, *, application_name: str) -> AsyncIterator[AsyncConnection]:
    """Connect, yield the connection, disconnect. Changes that were not committed are rolled back.

    The session has no timeouts for statements and locks. Behind a connection pooler it has those of the role, because other
    clients share it.

    Args:
        url: of the database, with the scheme `postgresql+asyncpg`.
        application_name: the name of the connection in `pg_stat_activity`, also if the URL has another one, which sessions
            of the gateway may have, too.

    Raises:
        ConnectError: the server cannot be used until an operator changes something.
        OSError, sqlalchemy.exc.DBAPIError: the server cannot be reached, or rejects the connection.
        ValueError: the URL is invalid.
    """
    named_url = add_options(url, {"application_name": application_name})
    connector = Connector(named_url, application_name=application_name)
    engine = connector.create_engine(lambda: connector.connect(connect_timeout=CONNECT_TIMEOUT), poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            if not connector.has_pooler:
                await connection.execute(_LIFT_TIMEOUTS)
                await connection.commit()
            yield connection
    finally:
        await engine.dispose()


@asynccontextmanager
async def transaction(url: str, *, application_name: str) -> AsyncIterator[AsyncConnection]:
    """Connect, begin, yield the connection, commit or roll back, disconnect. Arguments and errors as for `connect()`."""
    async with connect(url, application_name=application_name) as connection, connection.begin():
        yield connection
