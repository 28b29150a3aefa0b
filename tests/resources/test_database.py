"""The database engine: what it hands out, and its end."""

import asyncio

import asyncpg
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from gateway.devstack.stack import Devstack
from gateway.resources.database import CLOSE_WITHIN, DatabaseEngine, is_unavailable
from gateway.settings import DatabaseSettings
from tests.support.waiting import wait_until


async def test_connections_that_the_server_has_closed_are_handed_to_nobody(servers: Devstack) -> None:
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

            async def noticed() -> bool:
                return pooled.driver_connection is not None and pooled.driver_connection.is_closed()

            await wait_until(noticed, "the driver has seen that one is closed")
        async with engine.connect() as one, engine.connect() as other:
            assert [await connection.scalar(text("select 1")) for connection in (one, other)] == [1, 1]


async def test_a_server_that_closes_each_new_connection_is_away_and_no_mistake_of_ours(servers: Devstack) -> None:
    resource = DatabaseEngine(DatabaseSettings(url=servers.postgresql.url), "closing")
    async with resource.open() as engine:
        resource.abort()
        event.listen(engine.sync_engine, "connect", lambda adapted, _: adapted.driver_connection.terminate())
        with pytest.raises(DBAPIError) as caught:
            async with engine.connect() as connection:
                await connection.execute(text("select 1"))
        assert is_unavailable(caught.value)


async def test_whoever_is_cancelled_waits_but_a_moment_for_a_server_that_has_stopped(
    servers: Devstack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLAlchemy would wait for two seconds."""
    given: list[float | None] = []
    close = asyncpg.Connection.close

    async def close_and_note(connection: asyncpg.Connection, *, timeout: float | None = None) -> None:
        given.append(timeout)
        await close(connection, timeout=timeout)

    monkeypatch.setattr(asyncpg.Connection, "close", close_and_note)
    resource = DatabaseEngine(DatabaseSettings(url=servers.postgresql.url), "stalled")
    async with resource.open() as engine, engine.connect() as connection:
        await connection.execute(text("select 1"))
        with servers.postgresql.suspended():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await connection.execute(text("select 2"))
            assert given == [CLOSE_WITHIN]


async def test_once_released_it_connects_no_more(servers: Devstack) -> None:
    """SQLAlchemy's engine would: whoever still has it would open what nobody closes."""
    resource = DatabaseEngine(DatabaseSettings(url=servers.postgresql.url), "released")
    async with resource.open() as engine, engine.connect():
        pass

    with pytest.raises(RuntimeError, match="not open"):
        async with engine.connect():
            pass
    assert "released" not in await servers.postgresql.clients()


async def test_released_while_it_is_used_it_terminates_what_is_in_use(servers: Devstack) -> None:
    resource = DatabaseEngine(DatabaseSettings(url=servers.postgresql.url), "in-use")
    async with resource.open() as engine:
        connection = await engine.connect()
    raw = await connection.get_raw_connection()

    assert raw.driver_connection is not None
    assert raw.driver_connection.is_closed()
    await connection.invalidate()
    await connection.close()


async def test_its_sessions_are_as_we_need_them_whatever_the_database_says(servers: Devstack) -> None:
    resource = DatabaseEngine(DatabaseSettings(url=servers.postgresql.url), "sessions")
    async with servers.postgresql.superuser() as superuser:
        await superuser.execute("alter database gateway set timezone to 'Europe/Zurich'")
        try:
            async with resource.open() as engine, engine.connect() as connection:
                assert await connection.scalar(text("show timezone")) == "UTC"
                assert await connection.scalar(text("show plan_cache_mode")) == "force_generic_plan"
        finally:
            await superuser.execute("alter database gateway reset timezone")
