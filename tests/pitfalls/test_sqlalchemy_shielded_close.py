"""SQLAlchemy: the exit of `async with engine.connect()` is shielded from timeouts and cancellations."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gateway.devstack.postgresql import PostgreSQLServer


async def broken(engine: AsyncEngine, suspend_server: Callable[[], None]) -> None:
    async with asyncio.timeout(0.2):
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
            suspend_server()


def fixed(url: str) -> AsyncEngine:
    return create_async_engine(url, connect_args={"command_timeout": 0.2})


async def connect_once(engine: AsyncEngine) -> None:
    """Fill the pool, so that the timeout of `broken()` ends only its exit, also on a busy machine."""
    async with engine.connect():
        pass


@pytest.fixture
async def ignored_late_errors() -> AsyncIterator[None]:
    """Since Python 3.14, `asyncio.shield()` reports an error whose caller was cancelled to the loop, which fails the test."""
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()
    loop.set_exception_handler(lambda _loop, _context: None)
    yield
    loop.set_exception_handler(handler)


async def test_shield_ignores_timeout_and_cancel(postgresql_server: PostgreSQLServer) -> None:
    """The exit ignores a timeout and a second cancellation until the server continues."""
    engine = create_async_engine(postgresql_server.url)
    await connect_once(engine)
    try:
        exiting = asyncio.create_task(broken(engine, postgresql_server.suspend))
        await asyncio.wait({exiting}, timeout=1)
        assert not exiting.done(), "fixed upstream: a timeout ends the exit"
        exiting.cancel()
        await asyncio.wait({exiting}, timeout=0.5)
        assert not exiting.done(), "fixed upstream: a second cancellation ends the exit"
    finally:
        postgresql_server.resume()
    await asyncio.wait({exiting}, timeout=5)
    assert exiting.cancelled()
    await engine.dispose()


@pytest.mark.usefixtures("ignored_late_errors")
async def test_command_timeout_ends_exit(postgresql_server: PostgreSQLServer) -> None:
    """The `command_timeout` of asyncpg limits the rollback and the close of the exit."""
    engine = fixed(postgresql_server.url)
    await connect_once(engine)
    try:
        exiting = asyncio.create_task(broken(engine, postgresql_server.suspend))
        await asyncio.wait({exiting}, timeout=3)
        assert exiting.done()
    finally:
        postgresql_server.resume()
    with pytest.raises(TimeoutError):
        exiting.result()
    await engine.dispose()
