"""The database engine: the connections that it opens, and its release."""

import asyncio

import asyncpg
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from gateway.devstack.stack import Devstack
from gateway.resources.database import DatabaseEngine
from gateway.resources.database_errors import is_unavailable
from gateway.resources.pooled_connection import CLOSE_TIMEOUT
from gateway.settings import DatabaseSettings
from tests.support.waiting import wait_until


async def test_closed_connections_are_discarded(servers: Devstack) -> None:
    """The pool replaces a connection that the server has closed, so no statement fails."""
    resource = DatabaseEngine(DatabaseSettings(url=servers.postgresql.url), "closed")
    async with resource.open() as engine:
        async with engine.connect() as one, engine.connect() as other:
            pooled = await other.get_raw_connection()
            await one.execute(
                text(
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where application_name = 'closed' and pid <> pg_backend_pid()"
                )
            )

            async def is_noticed() -> bool:
                return pooled.driver_connection is not None and pooled.driver_connection.is_closed()

            await wait_until(is_noticed, "the driver has noticed that a connection is closed")
        async with engine.connect() as one, engine.connect() as other:
            assert [await connection.scalar(text("select 1")) for connection in (one, other)] == [1, 1]


async def test_closed_new_connections_are_unavailable(servers: Devstack) -> None:
    """If the server closes each new connection, the error counts as unavailable and not as a bug."""
    resource = DatabaseEngine(DatabaseSettings(url=servers.postgresql.url), "closing")
    async with resource.open() as engine:
        resource.abort()
        event.listen(engine.sync_engine, "connect", lambda adapted, _: adapted.driver_connection.terminate())
        with pytest.raises(DBAPIError) as caught:
            async with engine.connect() as connection:
                await connection.execute(text("select 1"))

        assert is_unavailable(caught.value)


async def test_close_after_cancellation_is_short(servers: Devstack, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a task is cancelled while the server is suspended, the close of its connection has a short timeout.

    SQLAlchemy's own timeout is two seconds.
    """
    timeouts: list[float | None] = []
    close = asyncpg.Connection.close

    async def record_close(connection: asyncpg.Connection, *, timeout: float | None = None) -> None:
        timeouts.append(timeout)
        await close(connection, timeout=timeout)

    monkeypatch.setattr(asyncpg.Connection, "close", record_close)
    resource = DatabaseEngine(DatabaseSettings(url=servers.postgresql.url), "suspended")
    async with resource.open() as engine, engine.connect() as connection:
        await connection.execute(text("select 1"))
        with servers.postgresql.suspended():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await connection.execute(text("select 2"))

            assert timeouts == [CLOSE_TIMEOUT]


async def test_no_connection_after_release(servers: Devstack) -> None:
    """The engine opens no connection after its release. SQLAlchemy's would, and that connection would never be closed."""
    resource = DatabaseEngine(DatabaseSettings(url=servers.postgresql.url), "released")
    async with resource.open() as engine, engine.connect():
        pass

    with pytest.raises(RuntimeError, match="not open"):
        async with engine.connect():
            pass
    assert "released" not in await servers.postgresql.clients()


async def test_release_terminates_connections_in_use(servers: Devstack) -> None:
    """A connection that is checked out during the release is terminated."""
    resource = DatabaseEngine(DatabaseSettings(url=servers.postgresql.url), "in-use")
    async with resource.open() as engine:
        connection = await engine.connect()
    raw = await connection.get_raw_connection()

    assert raw.driver_connection is not None
    assert raw.driver_connection.is_closed()
    await connection.invalidate()
    await connection.close()


async def test_server_settings_override_the_database(servers: Devstack) -> None:
    """Each connection sets its time zone and its plan cache mode, whatever the defaults of the database are."""
    resource = DatabaseEngine(DatabaseSettings(url=servers.postgresql.url), "sessions")
    async with servers.postgresql.superuser() as superuser:
        await superuser.execute("alter database gateway set timezone to 'Europe/Zurich'")
        try:
            async with resource.open() as engine, engine.connect() as connection:
                assert await connection.scalar(text("show timezone")) == "UTC"
                assert await connection.scalar(text("show plan_cache_mode")) == "force_generic_plan"
        finally:
            await superuser.execute("alter database gateway reset timezone")
