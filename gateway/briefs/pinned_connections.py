"""Database connections that stay checked out of the pool between statements."""

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import QueuePool

from gateway.schema.driver import asyncpg_connection


class PinnedConnections:
    """Runs read-only statements with asyncpg itself, on connections that are checked out once and reused.

    Checking a connection out and in for each statement takes more CPU time than the statement (docs/performance.md). The
    number of connections grows to the number of statements that run at the same time, which the caller limits.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        """Open no connection yet."""
        assert isinstance(engine.pool, QueuePool)  # noqa: S101 - for mypy
        self._engine = engine
        self._pool = engine.pool
        self._idle: list[tuple[AsyncConnection, asyncpg.Connection]] = []

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Run a statement, and return its rows.

        Raises:
            OSError, asyncpg.PostgresError, sqlalchemy.exc.SQLAlchemyError: the database is unavailable.
        """
        connection, driver = await self._acquire()
        try:
            rows: list[asyncpg.Record] = await driver.fetch(statement, *arguments)
        except BaseException as error:
            if not isinstance(error, asyncpg.PostgresError):  # unlike a response of the server, it may leave one unread
                driver.terminate()
            await connection.close()
            raise
        if self._pool.overflow() > 0:  # the pool is larger than its size, so others may wait for a connection
            await connection.close()
        else:
            self._idle.append((connection, driver))
        return rows

    async def close(self) -> None:
        """Return the connections to the pool. No statement may run any more."""
        while self._idle:
            connection, _ = self._idle.pop()
            await connection.close()

    async def _acquire(self) -> tuple[AsyncConnection, asyncpg.Connection]:
        while self._idle:
            connection, driver = self._idle.pop()
            if not driver.is_closed():
                return connection, driver
            await connection.close()  # the server has closed it
        connection = await self._engine.connect()
        return connection, await asyncpg_connection(connection)
