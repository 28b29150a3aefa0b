"""Connections that are replaced: after an error that means the wrong server, at their maximum age, at most once a second."""

from collections.abc import AsyncIterator
from itertools import count

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.devstack.stack import Devstack
from gateway.resources.database import DatabaseEngine
from gateway.resources.pooled_connection import RENEWAL_INTERVAL, ConnectionRenewal
from gateway.settings import DatabaseSettings


@pytest.fixture
async def engine(servers: Devstack) -> AsyncIterator[AsyncEngine]:
    async with DatabaseEngine(DatabaseSettings(url=servers.postgresql.url), "renewal").open() as engine:
        yield engine


async def backend_pids(engine: AsyncEngine, number: int = 2) -> set[int]:
    """Check out several connections at a time, and return the ids of their server processes."""
    connections = [await engine.connect() for _ in range(number)]
    try:
        return {int(await connection.scalar(text("SELECT pg_backend_pid()")) or 0) for connection in connections}
    finally:
        for connection in connections:
            await connection.close()


async def test_connections_are_reused(engine: AsyncEngine) -> None:
    """Without an error, the pool reuses its connections."""
    assert await backend_pids(engine) == await backend_pids(engine)


async def test_read_only_error_replaces_all(engine: AsyncEngine) -> None:
    """A write that fails because the server is read-only replaces all connections, also the idle ones."""
    before = await backend_pids(engine)
    with pytest.raises(DBAPIError, match="read-only"):
        async with engine.begin() as connection:
            await connection.execute(text("SET TRANSACTION READ ONLY"))
            await connection.execute(text("DELETE FROM outbox"))

    assert not before & await backend_pids(engine)


async def test_other_errors_replace_nothing(engine: AsyncEngine) -> None:
    """An error of a statement replaces no connection."""
    before = await backend_pids(engine)
    with pytest.raises(DBAPIError, match="division"):
        async with engine.begin() as connection:
            await connection.execute(text("SELECT 1 / 0"))

    assert before == await backend_pids(engine)


async def test_maximum_age(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that has reached its age is replaced."""
    monkeypatch.setattr("gateway.resources.pooled_connection.MIN_CONNECTION_AGE", 0)
    monkeypatch.setattr("gateway.resources.pooled_connection.MAX_CONNECTION_AGE", 0)
    await engine.dispose()
    before = await backend_pids(engine)

    assert not before & await backend_pids(engine)


def test_renewals_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that stays read-only causes one renewal in each interval, however many writes fail."""
    clock = count(start=100, step=RENEWAL_INTERVAL / 4)
    monkeypatch.setattr("gateway.resources.pooled_connection.monotonic", lambda: next(clock))
    renewal = ConnectionRenewal()
    times = set()
    for _ in range(8):
        renewal.observe(asyncpg.ReadOnlySQLTransactionError("read-only"))
        times.add(renewal.renewed_at)

    assert times == {100, 100 + RENEWAL_INTERVAL}
