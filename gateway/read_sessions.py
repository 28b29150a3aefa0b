"""Database sessions for the requests that read: their number is limited, and each has a deadline."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import monotonic

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from gateway.event_loop import EventLoopMonitor, OverloadedError
from gateway.resources.database import MAX_READS
from gateway.resources.database_errors import TooManyRequestsError

READ_TIMEOUT = 2.0  # for all that one request does with the database, and for the wait for its turn


class ReadSessions:
    """Lends sessions for reading, at most `MAX_READS` at a time. They take no connection from writes and health checks."""

    def __init__(self, database: AsyncEngine, *, event_loop: EventLoopMonitor | None = None) -> None:
        """Open no session yet. Without `event_loop`, no timeout counts as an overload."""
        self._engine = database.execution_options(isolation_level="AUTOCOMMIT")
        self._slots = asyncio.Semaphore(MAX_READS)
        self._event_loop = event_loop or EventLoopMonitor()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[AsyncSession]:
        """Yield a session. It uses a connection from its first statement to the end of the block.

        Each statement commits automatically, so that no transaction has to begin and to roll back.

        Raises:
            TooManyRequestsError: no session has become free in time.
            TimeoutError: the block took longer than `READ_TIMEOUT`, and was cancelled.
            OverloadedError: either of them, because the event loop was held.
        """
        has_slot = False
        started_at = monotonic()
        try:
            async with asyncio.timeout(READ_TIMEOUT), self._slots:
                has_slot = True
                async with AsyncSession(self._engine) as session:
                    yield session
        except TimeoutError:
            if self._event_loop.was_held_since(started_at):
                raise OverloadedError from None
            if has_slot:
                raise
            raise TooManyRequestsError from None
