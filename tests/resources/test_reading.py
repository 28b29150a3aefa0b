"""Reading on connections that are kept: whole answers whatever happens to them, and all of them given back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg
import pytest
from sqlalchemy import QueuePool, text
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.devstack.stack import Devstack
from gateway.resources.database import POOL_SIZE, DatabaseEngine
from gateway.resources.reading import KEPT, DatabaseReader
from gateway.settings import DatabaseSettings
from tests.support.waiting import TIMEOUT, wait_until

WHO = "select pg_backend_pid()"

INSTANCE = "reading"


class TestDatabase:
    @pytest.fixture
    async def engine(self, servers: Devstack) -> AsyncIterator[AsyncEngine]:
        async with DatabaseEngine(DatabaseSettings(url=servers.postgresql.url), INSTANCE).open() as engine:
            yield engine

    @pytest.fixture
    async def reader(self, engine: AsyncEngine) -> AsyncIterator[DatabaseReader]:
        reader = DatabaseReader(engine)
        yield reader
        await reader.close()
        assert self.in_use(engine) == 0

    @staticmethod
    def in_use(engine: AsyncEngine) -> int:
        """How many connections the pool is missing."""
        assert isinstance(engine.pool, QueuePool)
        return engine.pool.checkedout()

    @staticmethod
    async def who(reader: DatabaseReader) -> int:
        """The server's process behind the connection that the reader takes."""
        [row] = await reader.fetch(WHO)
        return int(row[0])

    async def test_one_connection_is_kept_from_statement_to_statement(
        self, reader: DatabaseReader, engine: AsyncEngine
    ) -> None:
        assert await self.who(reader) == await self.who(reader)
        assert self.in_use(engine) == 1

    async def test_statements_at_the_same_time_have_each_their_own(
        self, reader: DatabaseReader, engine: AsyncEngine
    ) -> None:
        first, second = await asyncio.gather(self.who(reader), self.who(reader))

        assert first != second
        assert self.in_use(engine) == 2
        assert await self.who(reader) in {first, second}

    async def test_what_is_asked_for_is_given(self, reader: DatabaseReader) -> None:
        rows = await reader.fetch("select * from unnest($1::int[])", [3, 4])

        assert [row[0] for row in rows] == [3, 4]

    async def test_one_that_the_server_has_closed_costs_no_statement(
        self, reader: DatabaseReader, servers: Devstack
    ) -> None:
        closed = await self.who(reader)
        [pooled] = reader._kept
        raw = pooled.driver_connection
        async with servers.postgresql.superuser() as connection:
            await connection.execute("select pg_terminate_backend($1)", closed)

        async def noticed() -> bool:
            return raw is not None and raw.is_closed()

        await wait_until(noticed, "the driver has seen that it is closed")
        assert await self.who(reader) != closed

    async def test_whoever_is_cancelled_leaves_no_half_read_answer_to_the_next_one(
        self, reader: DatabaseReader, engine: AsyncEngine
    ) -> None:
        cancelled = await self.who(reader)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reader.fetch("select pg_sleep(60)")

        assert self.in_use(engine) == 0
        assert await self.who(reader) != cancelled

    async def test_a_statement_that_fails_keeps_no_connection_from_others(
        self, reader: DatabaseReader, engine: AsyncEngine
    ) -> None:
        with pytest.raises(asyncpg.DivisionByZeroError):
            await reader.fetch("select 1 / $1::int", 0)

        assert self.in_use(engine) == 0
        assert await self.who(reader)

    async def test_what_is_still_read_when_it_is_closed_is_given_back_then(
        self, reader: DatabaseReader, engine: AsyncEngine
    ) -> None:
        reading = asyncio.create_task(reader.fetch("select pg_sleep(0.1)"))

        async def begun() -> bool:
            return self.in_use(engine) == 1

        await wait_until(begun, "it is under way")
        await reader.close()
        await reading

        assert self.in_use(engine) == 0

    async def test_when_the_pool_runs_short_nobody_waits_for_one_that_is_idle(
        self, reader: DatabaseReader, engine: AsyncEngine
    ) -> None:
        async with AsyncExitStack() as others:
            for _ in range(2 * POOL_SIZE + KEPT - 1):
                await others.enter_async_context(engine.connect())
            async with asyncio.timeout(TIMEOUT):
                told = await asyncio.gather(*(self.who(reader) for _ in range(10)))
                async with engine.connect() as connection:
                    await connection.execute(text("select 1"))

        assert len(told) == 10

    async def test_what_it_keeps_is_beside_what_others_may_use(
        self, reader: DatabaseReader, engine: AsyncEngine
    ) -> None:
        await asyncio.gather(*(self.who(reader) for _ in range(KEPT + 1)))
        assert self.in_use(engine) == KEPT
        async with asyncio.timeout(TIMEOUT), AsyncExitStack() as others:
            for _ in range(2 * POOL_SIZE):
                await others.enter_async_context(engine.connect())
