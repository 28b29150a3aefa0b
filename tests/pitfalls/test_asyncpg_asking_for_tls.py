"""asyncpg: cancelled while it is about to ask for TLS, as it does by default, it leaves an error that nobody retrieves."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from contextlib import suppress

import asyncpg

from faultlab import Run, sweep
from gateway.devstack.postgresql import PostgreSQL


async def naive(dsn: str) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(dsn)


async def cure(dsn: str) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(dsn, ssl=False)


def left_by(connect: "Callable[[str], Awaitable[asyncpg.Connection[asyncpg.Record]]]", server: PostgreSQL) -> list[str]:
    """What is left, or complained of, when connecting is cancelled at each iteration of the event loop."""

    async def run(case: Run) -> None:
        with suppress(asyncio.CancelledError), case.armed():
            connection = await connect(server.url.replace("+asyncpg", ""))
        if case.fired:
            await asyncio.sleep(0.001)  # the transport gets to its end, and only then is there something to retrieve
            gc.collect()
        else:
            await connection.close()

    return [line for outcome in sweep(run) for line in outcome.leaked]


def test_it_leaves_an_error_that_nobody_retrieves(postgresql_server: PostgreSQL) -> None:
    left = left_by(naive, postgresql_server)

    assert left, "asyncpg retrieves it by now, or asks for no TLS"
    assert all(line.startswith("Future exception was never retrieved (ConnectionError") for line in left)


def test_who_does_not_ask_leaves_none(postgresql_server: PostgreSQL) -> None:
    assert left_by(cure, postgresql_server) == []
