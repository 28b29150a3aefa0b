"""Reading as fast as the drivers do: on connections of the pools that are kept from one question to the next.

To check a connection out and in, and all else that is between a client and its driver, takes longer than to ask. What a reader
keeps, the pools have beyond what others may use. When its pool runs short it keeps none, for nobody is told of one that is idle
here. It gives back all of them when it is closed, before the pool is.
"""

import asyncio
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection, QueuePool
from sqlalchemy.util import greenlet_spawn

KEPT = 4
"""The most connections that a reader keeps."""


class DatabaseReader:
    """Runs statements that only read, by asyncpg itself.

    There is no transaction to begin and to roll back, and each statement stands for itself.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        """Keep no connection yet."""
        assert isinstance(engine.pool, QueuePool)  # noqa: S101 - for mypy
        self._engine = engine
        self._pool = engine.pool
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
        if self._closed or len(self._kept) == KEPT or self._pool.overflow() > 0:
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
