"""The observation writer: callers get a response in time, and a cancelled request never interrupts a write."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Self

from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.concurrency import TaskPool
from gateway.observations.queries import Observation
from gateway.observations.store import NewObservation, insert_observation
from gateway.resources.base import Resource
from gateway.resources.database import is_unavailable

WRITE_TIMEOUT = 2.0  # after which the caller gets an error, while the write continues
DRAIN_TIMEOUT = 1.0  # at a stop, for the writes in flight to finish before they are cancelled


class WriteUnavailableError(Exception):
    """The database is unavailable or too slow. The observation may be stored already, may be stored later, or never."""


class ObservationWriter(Resource["ObservationWriter"]):
    """Stores observations. Each write is a task of its own, which goes on if its caller is cancelled or times out."""

    name = "writer"

    def __init__(self, database: AsyncEngine, on_stored: Callable[[], object]) -> None:
        """Configure the writer.

        Args:
            database: where the observations are stored.
            on_stored: called after each commit of a new observation.
        """
        super().__init__()
        self._database = database
        self._on_stored = on_stored
        self._writes = TaskPool()

    @property
    def in_flight(self) -> int:
        """The number of writes that have not ended."""
        return len(self._writes)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Self]:
        """Accept writes for the duration of the block. All of them have ended when the block is left."""
        try:
            yield self
        finally:
            await self._writes.aclose(drain_timeout=DRAIN_TIMEOUT)

    async def write(self, new: NewObservation, idempotency_key: str | None) -> Observation:
        """Store an observation, or return the one that was stored with the same key.

        Raises:
            WriteUnavailableError: the outcome is unknown. With a key the caller can safely try again.
            UnknownPlaceError: there is no such place.
            IdempotencyConflictError: the key was used for a different observation.
        """
        write = self._writes.start(self._store(new, idempotency_key))
        await asyncio.wait({write}, timeout=WRITE_TIMEOUT)
        if not write.done():
            raise WriteUnavailableError(f"not stored within {WRITE_TIMEOUT:g} s")
        if write.cancelled():  # not a cancellation of the caller, so it must not be raised as one
            raise WriteUnavailableError("the write was cancelled")
        try:
            return write.result()
        except Exception as error:
            if is_unavailable(error):
                raise WriteUnavailableError from error
            raise

    async def _store(self, new: NewObservation, idempotency_key: str | None) -> Observation:
        async with self._database.begin() as connection:
            observation, is_new = await insert_observation(connection, new, idempotency_key)
        if is_new:
            self._on_stored()
        return observation
