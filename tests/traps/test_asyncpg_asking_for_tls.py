"""asyncpg: cancelled while it is about to ask for TLS, as it does by default, it leaves an error that nobody retrieves."""

import asyncio
import gc
from collections.abc import Awaitable, Callable

import asyncpg

from faultlab import Case, cancel_at_every_tick
from gateway.devstack.postgresql import PostgreSQL


async def naive(dsn: str) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(dsn)


async def cure(dsn: str) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(dsn, ssl=False)


def complaints(
    connect: "Callable[[str], Awaitable[asyncpg.Connection[asyncpg.Record]]]", server: PostgreSQL
) -> set[str]:
    """What the event loop complains of when connecting is cancelled, at whatever tick."""
    heard: set[str] = set()

    async def run(case: Case) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(
            lambda _loop, context: heard.add(f"{context['message']}: {context.get('exception')}")
        )
        try:
            with case.armed():
                connection = await connect(server.url.replace("+asyncpg", ""))
        except asyncio.CancelledError:
            await asyncio.sleep(0.001)  # the transport gets to its end, and only then is there something to retrieve
            gc.collect()
        else:
            await connection.close()

    cancel_at_every_tick(run)
    return heard


def test_it_leaves_an_error_that_nobody_retrieves(postgresql_server: PostgreSQL) -> None:
    assert complaints(naive, postgresql_server) == {
        "Future exception was never retrieved: unexpected connection_lost() call"
    }, "asyncpg retrieves it by now, or asks for no TLS"


def test_who_does_not_ask_leaves_none(postgresql_server: PostgreSQL) -> None:
    assert complaints(cure, postgresql_server) == set()
