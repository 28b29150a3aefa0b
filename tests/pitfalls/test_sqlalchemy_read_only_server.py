"""SQLAlchemy: the pool keeps a connection to a server that has become read-only, such as a demoted primary."""

import secrets
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gateway.devstack.postgresql import PostgreSQLServer


def broken(url: str) -> AsyncEngine:
    return create_async_engine(url, pool_pre_ping=True)


def fixed(url: str) -> AsyncEngine:
    def discard_read_only(context: ExceptionContext) -> None:
        if getattr(context.original_exception, "sqlstate", None) == "25006":
            context.is_disconnect = True  # discards this connection and all idle ones

    engine = create_async_engine(url, pool_pre_ping=True)
    event.listen(engine.sync_engine, "handle_error", discard_read_only)
    return engine


@pytest.fixture
async def database(postgresql_server: PostgreSQLServer) -> AsyncIterator[str]:
    """The name of a database that is read-only for new connections."""
    name = f"read_only_{secrets.token_hex(4)}"
    await postgresql_server.create_database(name)
    async with postgresql_server.superuser() as superuser:
        await superuser.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    yield name
    await postgresql_server.drop_database(name)


async def write(engine: AsyncEngine, table: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(text(f"CREATE TABLE {table} ()"))


async def write_before_and_after(engine: AsyncEngine, server: PostgreSQLServer, database: str) -> None:
    """Write while the database is read-only, which fails, and again after it has become writable for new connections."""
    with pytest.raises(DBAPIError, match="read-only"):
        await write(engine, "before")
    async with server.superuser() as superuser:
        await superuser.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")
    await write(engine, "after")


async def test_pool_keeps_read_only_connection(postgresql_server: PostgreSQLServer, database: str) -> None:
    """Writes still fail when a new connection could write, in spite of the pre-ping."""
    engine = broken(postgresql_server.owner_url_of(database))
    with pytest.raises(DBAPIError, match="read-only"):  # otherwise fixed upstream: the pool discards the connection
        await write_before_and_after(engine, postgresql_server, database)
    with pytest.raises(DBAPIError, match="read-only"):
        await write(engine, "again")
    await engine.dispose()


async def test_listener_discards_connection(postgresql_server: PostgreSQLServer, database: str) -> None:
    """With a listener for errors, the next write has a new connection."""
    engine = fixed(postgresql_server.owner_url_of(database))
    await write_before_and_after(engine, postgresql_server, database)
    await engine.dispose()
