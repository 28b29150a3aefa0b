"""Pinned connections: no response reaches another caller, closed connections are replaced, and none is kept from others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg
import pytest
from sqlalchemy import QueuePool, text
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.briefs.pinned_connections import PinnedConnections
from gateway.briefs.place_loader import MAX_BATCHES_IN_FLIGHT
from gateway.devstack.stack import Devstack
from gateway.resources.database import MAX_CONNECTIONS, MAX_PINNED, DatabaseEngine
from gateway.settings import DatabaseSettings
from tests.support.waiting import TIMEOUT, wait_until


@pytest.fixture
async def engine(servers: Devstack) -> AsyncIterator[AsyncEngine]:
    async with DatabaseEngine(DatabaseSettings(url=servers.postgresql.url), "pinned").open() as engine:
        yield engine


@pytest.fixture
async def connections(engine: AsyncEngine) -> AsyncIterator[PinnedConnections]:
    """Pinned connections, which are back in the pool at the end."""
    connections = PinnedConnections(engine)
    yield connections
    await connections.close()
    assert checked_out(engine) == 0


def checked_out(engine: AsyncEngine) -> int:
    """Return how many connections are checked out of the pool."""
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedout()


async def backend_pid(connections: PinnedConnections) -> int:
    """Return the id of the server process behind the connection that runs the statement."""
    ((pid,),) = await connections.fetch("SELECT pg_backend_pid()")
    return int(pid)


async def test_connection_is_reused(connections: PinnedConnections, engine: AsyncEngine) -> None:
    """Successive statements use the same connection, which stays checked out."""
    assert await backend_pid(connections) == await backend_pid(connections)
    assert checked_out(engine) == 1


async def test_concurrent_statements(connections: PinnedConnections, engine: AsyncEngine) -> None:
    """Statements that run at the same time have a connection each, and both are reused."""
    first, second = await asyncio.gather(backend_pid(connections), backend_pid(connections))

    assert first != second
    assert checked_out(engine) == 2
    assert await backend_pid(connections) in {first, second}


async def test_rows_and_arguments(connections: PinnedConnections) -> None:
    """The rows are those of the statement with its arguments."""
    rows = await connections.fetch("SELECT * FROM unnest($1::int[])", [3, 4])

    assert [tuple(row) for row in rows] == [(3,), (4,)]


async def test_closed_connection(connections: PinnedConnections, engine: AsyncEngine, servers: Devstack) -> None:
    """A connection that the server has closed is replaced, and fails no statement."""
    closed = await backend_pid(connections)
    ((_, driver),) = connections._idle
    async with servers.postgresql.superuser() as superuser:
        await superuser.execute("SELECT pg_terminate_backend($1)", closed)
    await wait_until(driver.is_closed, "the driver has seen the end of the connection")

    assert await backend_pid(connections) != closed
    assert checked_out(engine) == 1


async def test_cancelled_caller(connections: PinnedConnections, engine: AsyncEngine) -> None:
    """A caller that is cancelled leaves no unread response to the next one, and keeps no connection."""
    cancelled = await backend_pid(connections)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await connections.fetch("SELECT pg_sleep(60)")

    assert checked_out(engine) == 0
    assert await backend_pid(connections) != cancelled


async def test_paused_server(connections: PinnedConnections, engine: AsyncEngine, servers: Devstack) -> None:
    """A cancelled caller does not wait for a server that does not respond, and no later caller gets its response."""
    await backend_pid(connections)
    with servers.postgresql.suspended():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await connections.fetch("SELECT 1")
        assert checked_out(engine) == 0

    assert [tuple(row) for row in await connections.fetch("SELECT 2")] == [(2,)]


async def test_failed_statement(connections: PinnedConnections, engine: AsyncEngine) -> None:
    """A statement that the server rejects keeps no connection, and costs none: the next statement uses the same one."""
    used = await backend_pid(connections)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await connections.fetch("SELECT 1 / $1::int", 0)

    assert checked_out(engine) == 0
    assert await backend_pid(connections) == used


async def test_number_is_limited(connections: PinnedConnections, engine: AsyncEngine) -> None:
    """More statements than connections take turns."""
    pids = await asyncio.gather(*(backend_pid(connections) for _ in range(3 * MAX_PINNED)))

    assert len(set(pids)) == MAX_PINNED
    assert checked_out(engine) == MAX_PINNED


async def test_loaders_have_enough() -> None:
    """There is a connection for each statement that the loader may run at a time: for places with and without observations."""
    assert MAX_PINNED >= 2 * MAX_BATCHES_IN_FLIGHT


async def test_pinned_connections_are_extra(connections: PinnedConnections, engine: AsyncEngine) -> None:
    """While the briefs pin as many connections as they can, all others of the pool are left for other statements."""
    await asyncio.gather(*(backend_pid(connections) for _ in range(MAX_PINNED)))

    async with asyncio.timeout(TIMEOUT), AsyncExitStack() as stack:
        for _ in range(MAX_CONNECTIONS - MAX_PINNED):
            await stack.enter_async_context(engine.connect())
        assert checked_out(engine) == MAX_CONNECTIONS


async def test_renewed_connection(connections: PinnedConnections, engine: AsyncEngine) -> None:
    """After a renewal a pinned connection is replaced at its next use."""
    replaced = await backend_pid(connections)
    ((_, driver),) = connections._idle
    driver.renewal.renew()

    assert await backend_pid(connections) != replaced
    assert checked_out(engine) == 1


async def test_lost_connection_renews_others(
    connections: PinnedConnections, engine: AsyncEngine, servers: Devstack
) -> None:
    """If the server ends the connection of a statement in progress, all other connections are replaced, too."""
    async with engine.connect() as connection:
        other = await connection.scalar(text("SELECT pg_backend_pid()"))
        with pytest.raises(asyncpg.PostgresError):
            await connections.fetch("SELECT pg_terminate_backend(pg_backend_pid())")

    async with servers.postgresql.superuser() as superuser:
        assert await superuser.fetchval("SELECT true FROM pg_stat_activity WHERE pid = $1", other)
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT pg_backend_pid()")) != other
