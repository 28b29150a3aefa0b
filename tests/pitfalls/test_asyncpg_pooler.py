"""asyncpg: its prepared statements belong to a session of the server, which a pooler in transaction mode lends to all clients."""

from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from tests.support.pgbouncer import PgBouncerServer, pgbouncer

__all__ = ["pgbouncer"]


async def broken(dsn: str) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(dsn, ssl=False)


async def fixed(dsn: str) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(dsn, ssl=False, statement_cache_size=0)


async def execute_in_two_sessions(
    connect: "Callable[[str], Awaitable[asyncpg.Connection[asyncpg.Record]]]", server: PgBouncerServer
) -> int:
    """Execute a statement twice. In between, another client gets the session of the first execution."""
    dsn = server.url.replace("+asyncpg", "")
    client, other = await connect(dsn), await connect(dsn)
    try:
        await client.fetchval("SELECT 42")
        async with other.transaction():
            await other.fetchval("SELECT 1")
            return int(await client.fetchval("SELECT 42"))
    finally:
        await client.close()
        await other.close()


async def test_statement_of_another_session(pgbouncer: PgBouncerServer) -> None:
    """The second execution fails, because its session does not have the statement."""
    with pytest.raises(asyncpg.InvalidSQLStatementNameError, match="does not exist"):
        await execute_in_two_sessions(broken, pgbouncer)


async def test_statements_without_a_name(pgbouncer: PgBouncerServer) -> None:
    """Without a cache, asyncpg sends the text of the statement with each execution."""
    assert await execute_in_two_sessions(fixed, pgbouncer) == 42


async def test_startup_parameter(pgbouncer: PgBouncerServer) -> None:
    """PgBouncer rejects startup parameters that it cannot set on each session that it lends."""
    dsn = pgbouncer.url.replace("+asyncpg", "")
    with pytest.raises(asyncpg.ProtocolViolationError, match="unsupported startup parameter: plan_cache_mode"):
        await asyncpg.connect(dsn, ssl=False, server_settings={"plan_cache_mode": "force_generic_plan"})
