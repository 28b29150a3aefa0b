"""Reading on connections that are kept: whole answers whatever happens to them, and all of them given back."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import QueuePool
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.devstack.stack import Devstack
from gateway.resources.database import DatabaseEngine
from gateway.resources.reader import Reader
from gateway.settings import DatabaseSettings
from tests.end_to_end.running import until

WHO = "select pg_backend_pid()"


@pytest.fixture
async def engine(servers: Devstack) -> AsyncIterator[AsyncEngine]:
    async with DatabaseEngine(DatabaseSettings(url=servers.postgresql.url), "reader").open() as engine:
        yield engine


@pytest.fixture
async def reader(engine: AsyncEngine) -> AsyncIterator[Reader]:
    reader = Reader(engine)
    yield reader
    await reader.close()
    assert in_use(engine) == 0


def in_use(engine: AsyncEngine) -> int:
    """How many connections the pool is missing."""
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedout()


async def who(reader: Reader) -> int:
    """The server's process behind the connection that the reader takes."""
    [row] = await reader.fetch(WHO)
    return int(row[0])


async def test_one_connection_is_kept_from_statement_to_statement(reader: Reader, engine: AsyncEngine) -> None:
    assert await who(reader) == await who(reader)
    assert in_use(engine) == 1


async def test_statements_at_the_same_time_have_each_their_own(reader: Reader, engine: AsyncEngine) -> None:
    first, second = await asyncio.gather(who(reader), who(reader))

    assert first != second
    assert in_use(engine) == 2
    assert await who(reader) in {first, second}


async def test_what_is_asked_for_is_given(reader: Reader) -> None:
    rows = await reader.fetch("select * from unnest($1::int[])", [3, 4])

    assert [row[0] for row in rows] == [3, 4]


async def test_one_that_the_server_has_closed_costs_no_statement(reader: Reader, servers: Devstack) -> None:
    closed = await who(reader)
    [pooled] = reader._kept
    raw = pooled.driver_connection
    async with servers.postgresql.superuser() as connection:
        await connection.execute("select pg_terminate_backend($1)", closed)

    async def noticed() -> bool:
        return raw is not None and raw.is_closed()

    await until(noticed, "the driver has seen that it is closed")
    assert await who(reader) != closed


async def test_whoever_is_cancelled_leaves_no_half_read_answer_to_the_next_one(
    reader: Reader, engine: AsyncEngine
) -> None:
    cancelled = await who(reader)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await reader.fetch("select pg_sleep(60)")

    assert in_use(engine) == 0
    assert await who(reader) != cancelled


async def test_a_statement_that_fails_keeps_no_connection_from_others(reader: Reader, engine: AsyncEngine) -> None:
    with pytest.raises(asyncpg.DivisionByZeroError):
        await reader.fetch("select 1 / $1::int", 0)

    assert in_use(engine) == 0
    assert await who(reader)


async def test_what_is_still_read_when_it_is_closed_is_given_back_then(reader: Reader, engine: AsyncEngine) -> None:
    reading = asyncio.create_task(reader.fetch("select pg_sleep(0.1)"))

    async def begun() -> bool:
        return in_use(engine) == 1

    await until(begun, "it is under way")
    await reader.close()
    await reading

    assert in_use(engine) == 0
