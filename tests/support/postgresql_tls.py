"""TLS for the PostgreSQL of the session, which has none otherwise."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.devstack.postgresql import PostgreSQLServer
from tests.support.certificates import Certificate
from tests.support.waiting import wait_until


@asynccontextmanager
async def tls_enabled(
    server: PostgreSQLServer, certificate: Certificate, *, client_ca_file: Path | None = None
) -> AsyncIterator[None]:
    """Have the server offer TLS inside the block, and verify the certificates of clients that have one."""
    settings = {
        "ssl_cert_file": str(certificate.cert_file),
        "ssl_key_file": str(certificate.key_file),
        "ssl_ca_file": str(client_ca_file or ""),
        "ssl": "on",
    }
    try:
        await _alter(server, *(f"SET {name} = '{value}'" for name, value in settings.items()))
        await _wait_for(server, settings)
        yield
    finally:
        await _alter(server, *(f"RESET {name}" for name in settings))
        await _wait_for(server, {"ssl": "off"})


async def _alter(server: PostgreSQLServer, *changes: str) -> None:
    async with server.superuser() as connection:
        for change in changes:
            await connection.execute(f"ALTER SYSTEM {change}")
        await connection.execute("SELECT pg_reload_conf()")


async def _wait_for(server: PostgreSQLServer, settings: dict[str, str]) -> None:
    """Wait until a new session has the settings."""

    async def is_reloaded() -> bool:
        async with server.superuser() as connection:
            return {name: await connection.fetchval(f"SHOW {name}") for name in settings} == settings

    await wait_until(is_reloaded, f"PostgreSQL has {settings}")
