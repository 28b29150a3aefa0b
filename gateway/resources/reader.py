"""Reading from the database as fast as its driver does."""

import asyncio
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn


class Reader:
    """Runs statements that are run often and only read, on connections of the engine's pool that it keeps for the next ones.

    There is no transaction to begin and to roll back, each statement stands for itself, and SQLAlchemy's own connection
    around the driver's is left out. To check one out and in would cost more than the statement.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        """Keep no connection yet."""
        self._engine = engine
        self._kept: list[PoolProxiedConnection] = []
        self._closed = False

    async def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """Run a statement; return its rows.

        Whoever is cancelled before the server has answered leaves no half-read answer to the next one, and does not wait
        either, as they would while SQLAlchemy says goodbye to a server that has stopped.

        Raises:
            OSError, asyncpg.PostgresError, sqlalchemy.exc.SQLAlchemyError, sqlalchemy.exc.EmulatedDBAPIException: the
                database is away, or refuses.
        """
        pooled = await self._connected()
        try:
            rows: list[asyncpg.Record] = await _driver(pooled).fetch(statement, *arguments)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                _driver(pooled).terminate()  # the pool sees that it is closed, and makes another
            await _give_back(pooled)
            raise
        if self._closed:
            await _give_back(pooled)
        else:
            self._kept.append(pooled)
        return rows

    async def close(self) -> None:
        """Give the connections back to the pool."""
        self._closed = True
        while self._kept:
            await _give_back(self._kept.pop())

    async def _connected(self) -> PoolProxiedConnection:
        while self._kept:
            pooled = self._kept.pop()
            if not _driver(pooled).is_closed():
                return pooled
            await _give_back(pooled)
        return await self._engine.raw_connection()


def _driver(pooled: PoolProxiedConnection) -> asyncpg.Connection:
    raw = pooled.driver_connection
    assert isinstance(raw, asyncpg.Connection)  # noqa: S101 - for mypy
    return raw


async def _give_back(pooled: PoolProxiedConnection) -> None:
    await greenlet_spawn(pooled.close)  # the pool may have to close one that is one too many
