"""asyncpg: a TLS mode makes it look for files in the home directory, and their error is an `OSError` like that of a network."""

import errno
from collections.abc import AsyncIterator

import asyncpg
import pytest

from gateway.devstack.postgresql import PostgreSQLServer
from gateway.network.tls import TLSFiles, client_context
from tests.support.certificates import Certificates
from tests.support.postgresql_tls import tls_enabled


async def broken(dsn: str) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(dsn, ssl="require")


async def fixed(dsn: str) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(dsn, ssl=client_context(TLSFiles(), verify=False))


@pytest.fixture
async def dsn(
    postgresql_server: PostgreSQLServer, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[str]:
    """A server with TLS, and a home directory in which no file can be opened."""
    monkeypatch.setenv("HOME", "/" + "x" * 300)
    async with tls_enabled(postgresql_server, certificates.server):
        yield postgresql_server.url.replace("+asyncpg", "")


async def test_home_directory_is_read(dsn: str) -> None:
    """The connect fails before anything is sent, although `require` verifies nothing and needs no file."""
    with pytest.raises(OSError, match="File name too long") as caught:  # otherwise fixed upstream
        await broken(dsn)

    assert caught.value.errno == errno.ENAMETOOLONG
    assert caught.value.filename is None  # the error does not name the file


async def test_context_needs_no_file(dsn: str) -> None:
    """With a context of our own, asyncpg reads no file."""
    connection = await fixed(dsn)

    assert await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    await connection.close()
