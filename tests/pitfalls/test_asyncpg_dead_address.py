"""asyncpg: of a name with several addresses, it tries one after the other, and the first dead one uses up the timeout."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from gateway.devstack.postgresql import PostgreSQLServer
from gateway.network.addresses import reachable_address
from tests.support.dead_address import DEAD, dead_address, resolve_to


async def broken(dsn: str) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(dsn, ssl=False, timeout=1)


async def fixed(dsn: str) -> "asyncpg.Connection[asyncpg.Record]":
    parts = urlsplit(dsn)
    address = await reachable_address(parts.hostname or "localhost", parts.port or 5432)
    return await asyncpg.connect(dsn, host=address, port=parts.port, ssl=False, timeout=1)


@pytest.fixture
async def dsn(postgresql_server: PostgreSQLServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """The URL of a name with two addresses: the first does not respond, and PostgreSQL listens on the second."""
    resolve_to(monkeypatch, postgresql_server.port, DEAD, "127.0.0.1")
    with dead_address(postgresql_server.port):
        yield postgresql_server.url.replace("+asyncpg", "").replace("127.0.0.1", "a-name.example")


async def test_dead_address_uses_up_the_timeout(dsn: str) -> None:
    """The second address works, and is never tried."""
    with pytest.raises(TimeoutError):
        await broken(dsn)


async def test_raced_addresses(dsn: str) -> None:
    """If the addresses are raced first, the dead one costs a fraction of a second."""
    connection = await fixed(dsn)

    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()
