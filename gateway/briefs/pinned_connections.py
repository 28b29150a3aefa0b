"""Database connections that stay checked out of the pool between statements."""

import asyncio
from typing import cast

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.resources.database import MAX_PINNED
from gateway.resources.pooled_connection import PooledConnection
from gateway.schema.driver import asyncpg_connection


class PinnedConnections:
    """Runs read-only statements with asyncpg itself, on connections that are checked out once and reused.

    Checking a connection out and in for each statement takes more CPU time than the statement (docs/performance.md). The
    number of connections grows to the number of statements that run at the same time, at most `MAX_PINNED`.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        """Open no connection yet."""
        self._engine = engine
        self._slots = asyncio.Semaphore(MAX_PINNED)
        self._idle: list[tuple[AsyncConnection, PooledConnection]] = []

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Run a statement, and return its rows.

        Raises:
            OSError, asyncpg.PostgresError, sqlalchemy.exc.SQLAlchemyError: the database is unavailable.
        """
        async with self._slots:
            connection, driver = await self._acquire()
            try:
                rows: list[asyncpg.Record] = await driver.fetch(statement, *arguments)
            except BaseException as error:
                driver.renewal.observe(error)
                if not isinstance(error, asyncpg.PostgresError):
                    driver.terminate()  # unlike a response of the server, the error may leave one unread
                await connection.close()
                raise
            self._idle.append((connection, driver))
            return rows

    async def close(self) -> None:
        """Return the connections to the pool. No statement may run any more."""
        while self._idle:
            connection, _ = self._idle.pop()
            await connection.close()

    async def _acquire(self) -> tuple[AsyncConnection, PooledConnection]:
        while self._idle:
            connection, driver = self._idle.pop()
            if driver.is_usable:
                return connection, driver
            await connection.close()  # the pool replaces it
        connection = await self._engine.connect()
        return connection, cast("PooledConnection", await asyncpg_connection(connection))
