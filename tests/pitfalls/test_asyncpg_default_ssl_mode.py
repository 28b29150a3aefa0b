"""asyncpg: by default it requests TLS first, and a cancellation in that step leaves an error that is never retrieved."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from contextlib import suppress

import asyncpg

from faultlab import Run, sweep
from gateway.devstack.postgresql import PostgreSQLServer


async def broken(dsn: str) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(dsn)


async def fixed(dsn: str) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(dsn, ssl=False)


def leaks_of(
    connect: "Callable[[str], Awaitable[asyncpg.Connection[asyncpg.Record]]]", server: PostgreSQLServer
) -> list[str]:
    """Cancel the connect at each loop iteration. Return all leaks, including errors that were never retrieved."""

    async def run(case: Run) -> None:
        with suppress(asyncio.CancelledError), case.armed():
            connection = await connect(server.url.replace("+asyncpg", ""))
        if case.fired:
            await asyncio.sleep(0.001)  # the transport closes, and only then the error exists
            gc.collect()
        else:
            await connection.close()

    return [line for outcome in sweep(run) for line in outcome.leaked]


def test_cancelled_tls_request_leaves_error(postgresql_server: PostgreSQLServer) -> None:
    """A connect with the default ssl mode leaves `ConnectionError`s that are never retrieved."""
    leaks = leaks_of(broken, postgresql_server)

    assert leaks, "fixed upstream: asyncpg retrieves the error, or does not request TLS"
    assert all(line.startswith("Future exception was never retrieved (ConnectionError") for line in leaks)


def test_explicit_ssl_mode_leaves_no_error(postgresql_server: PostgreSQLServer) -> None:
    """A connect with `ssl=False` leaves nothing, at whatever loop iteration it is cancelled."""
    assert leaks_of(fixed, postgresql_server) == []
