"""Taking reports while requests come and go: whoever asks has an answer in time, and no write is cut short."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Self

from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.observations.queries import Observation
from gateway.observations.store import NewObservation, insert_observation
from gateway.resources.base import Resource
from gateway.resources.database import is_unavailable

WRITE_TIMEOUT = 2.0
"""Seconds that whoever reports may have to wait."""

PATIENCE = 0.1
"""Seconds until a write that resists its cancellation is cancelled again."""

DRAIN_TIMEOUT = 1.0
"""Seconds that writes have to end by themselves, once the gateway stops."""


class WriteUnavailableError(Exception):
    """The database is away, or takes too long: the report may be stored, or become so, or not."""


class ObservationWriter(Resource["ObservationWriter"]):
    """Stores what is reported: each write is a task of its own, which a caller that gives up does not end."""

    name = "writer"

    def __init__(self, database: AsyncEngine, on_stored: Callable[[], object]) -> None:
        """`on_stored` is called after each commit."""
        super().__init__()
        self._database = database
        self._on_stored = on_stored
        self._writing: set[asyncio.Task[Observation]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Self]:
        """Before this is left, every write has ended."""
        try:
            yield self
        finally:
            if self._writing:
                await asyncio.wait(self._writing, timeout=DRAIN_TIMEOUT)
            while self._writing:
                for write in self._writing:
                    write.cancel()
                await asyncio.wait(self._writing, timeout=PATIENCE)

    async def write(self, report: NewObservation, key: str | None) -> Observation:
        """Store a report, or find it stored already for the key.

        Raises:
            WriteUnavailableError: nobody knows whether it is stored. Sent again with its key, it is stored once.
            UnknownPlaceError, IdempotencyConflictError: see `store`.
        """
        write = asyncio.create_task(self._store(report, key))
        self._writing.add(write)
        write.add_done_callback(self._written)
        await asyncio.wait({write}, timeout=WRITE_TIMEOUT)
        if not write.done():
            raise WriteUnavailableError(f"not stored within {WRITE_TIMEOUT:g} s")
        if write.cancelled():  # nobody has cancelled the caller, so it must not look like that
            raise WriteUnavailableError("the write was cancelled")
        try:
            return write.result()
        except Exception as error:
            if is_unavailable(error):
                raise WriteUnavailableError from error
            raise

    async def _store(self, report: NewObservation, key: str | None) -> Observation:
        async with self._database.begin() as connection:
            observation, new = await insert_observation(connection, report, key)
        if new:
            self._on_stored()
        return observation

    def _written(self, write: "asyncio.Task[Observation]") -> None:
        self._writing.discard(write)
        if not write.cancelled():
            write.exception()  # there may be nobody left to be told
