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
from gateway.resources.database import MAX_OVERFLOW, POOL_SIZE, DatabaseEngine
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


async def test_exhausted_pool(connections: PinnedConnections, engine: AsyncEngine) -> None:
    """If the pool has one connection left, statements take turns, and leave it to others after that."""
    async with AsyncExitStack() as stack:
        for _ in range(POOL_SIZE + MAX_OVERFLOW - 1):
            await stack.enter_async_context(engine.connect())
        async with asyncio.timeout(TIMEOUT):
            pids = await asyncio.gather(*(backend_pid(connections) for _ in range(10)))
            async with engine.connect() as other:
                await other.execute(text("SELECT 1"))

    assert len(pids) == 10


async def test_pinned_connections_are_extra(connections: PinnedConnections, engine: AsyncEngine) -> None:
    """While the briefs pin as many connections as they can, twice the pool size is left for other statements."""
    statements = 2 * MAX_BATCHES_IN_FLIGHT  # for places with and without observations
    await asyncio.gather(*(backend_pid(connections) for _ in range(statements)))
    assert checked_out(engine) == statements

    async with asyncio.timeout(TIMEOUT), AsyncExitStack() as stack:
        for _ in range(2 * POOL_SIZE):
            await stack.enter_async_context(engine.connect())
