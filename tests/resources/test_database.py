"""The database engine, where its end is concerned."""

import pytest

from gateway.devstack.stack import Devstack
from gateway.resources.database import DatabaseEngine
from gateway.settings import DatabaseSettings


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
