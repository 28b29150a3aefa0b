"""SQLAlchemy: when PostgreSQL is unavailable, the error is not a `SQLAlchemyError`."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine


async def broken(engine: AsyncEngine) -> str:
    try:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
    except SQLAlchemyError:
        return "unavailable"
    return "ok"


async def fixed(engine: AsyncEngine) -> str:
    try:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
    except (SQLAlchemyError, OSError):
        return "unavailable"
    return "ok"


@pytest.fixture
def engine(refusing_port: int) -> AsyncEngine:
    return create_async_engine(f"postgresql+asyncpg://gateway@127.0.0.1:{refusing_port}/gateway")


async def test_refused_connection_passes_handler(engine: AsyncEngine) -> None:
    """A bare `ConnectionRefusedError` passes the handler of `SQLAlchemyError`."""
    with pytest.raises(ConnectionRefusedError):  # otherwise fixed upstream: SQLAlchemy wraps it
        await broken(engine)


async def test_os_errors_need_a_handler(engine: AsyncEngine) -> None:
    """A handler of `OSError` catches the refused connection."""
    assert await fixed(engine) == "unavailable"
