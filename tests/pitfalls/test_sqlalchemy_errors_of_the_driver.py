"""SQLAlchemy: when PostgreSQL is away, what is raised is no SQLAlchemy error."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine


async def naive(engine: AsyncEngine) -> str:
    try:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
    except SQLAlchemyError:
        return "unavailable"
    return "ok"


async def cure(engine: AsyncEngine) -> str:
    try:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
    except (SQLAlchemyError, OSError):
        return "unavailable"
    return "ok"


@pytest.fixture
def engine(refusing_port: int) -> AsyncEngine:
    return create_async_engine(f"postgresql+asyncpg://gateway@127.0.0.1:{refusing_port}/gateway")


async def test_a_refused_connection_passes_by_the_handler(engine: AsyncEngine) -> None:
    with pytest.raises(ConnectionRefusedError):  # else SQLAlchemy wraps it by now
        await naive(engine)


async def test_the_errors_of_the_system_have_to_be_caught_as_well(engine: AsyncEngine) -> None:
    assert await cure(engine) == "unavailable"
