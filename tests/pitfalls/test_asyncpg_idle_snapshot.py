"""asyncpg: an idle transaction keeps the snapshot of its last statement, and `CREATE INDEX CONCURRENTLY` waits for it."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from gateway.devstack.postgresql import PostgreSQLServer

HAS_SNAPSHOT = "SELECT backend_xmin IS NOT NULL FROM pg_stat_activity WHERE pid = $1 AND state = 'idle in transaction'"


async def broken(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
    await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", 1)


async def fixed(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
    await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", 1)
    await connection.execute("SELECT")  # without arguments, in the simple protocol


@pytest.fixture
async def connection(postgresql_server: PostgreSQLServer) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    async with postgresql_server.superuser() as connection:
        yield connection


async def test_idle_transaction_keeps_a_snapshot(
    postgresql_server: PostgreSQLServer, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """The server still has a snapshot for the statement of the extended protocol, although it has ended."""
    await broken(connection)
    async with postgresql_server.superuser() as other:
        assert await other.fetchval(HAS_SNAPSHOT, connection.get_server_pid()) is True


async def test_simple_statement_releases_it(
    postgresql_server: PostgreSQLServer, connection: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    """After a statement of the simple protocol, the transaction has no snapshot, and keeps its lock."""
    await fixed(connection)
    async with postgresql_server.superuser() as other:
        assert await other.fetchval(HAS_SNAPSHOT, connection.get_server_pid()) is False
        assert await other.fetchval("SELECT pg_try_advisory_xact_lock(1)") is False
