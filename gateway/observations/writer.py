"""The observation writer: callers get a response in time, and a cancelled request never interrupts a write."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Self

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.concurrency import PoolClosedError, TaskPool
from gateway.event_loop import EventLoopMonitor, OverloadedError
from gateway.observations.queries import Observation
from gateway.observations.store import NewObservation, insert_observation
from gateway.resources.base import Resource
from gateway.resources.database import MAX_WRITES
from gateway.resources.database_errors import explain, is_outdated, is_rejected, is_unavailable

WRITE_TIMEOUT = 2.0  # after which the caller gets an error, while a write that has started continues
STALL_TIMEOUT = 0.5  # if no write could start for so long, the database is stuck: new writes are rejected immediately
MAX_WAITING_WRITES = 256  # a healthy database stores so many in much less than `WRITE_TIMEOUT`
TOO_MANY_WAITING = "Too many reports wait for the database"
DRAIN_TIMEOUT = 1.0  # at a stop, for the writes in flight to finish before they are cancelled

log = structlog.get_logger("gateway.writer")


class WriteUnavailableError(Exception):
    """The observation may be stored already, may be stored later, or never. The message is the reason, for the client."""


class WriteRejectedError(Exception):
    """The observation is not stored, and will not be stored later. The message is the reason, for the client."""


class ObservationWriter(Resource["ObservationWriter"]):
    """Stores observations. Each write is a task of its own, which goes on if its caller is cancelled or times out.

    At most `MAX_WRITES` of them use the database at a time. The callers of others wait for their turn.
    """

    name = "writer"

    def __init__(
        self, database: AsyncEngine, on_stored: Callable[[], object], *, event_loop: EventLoopMonitor | None = None
    ) -> None:
        """Configure the writer.

        Args:
            database: where the observations are stored.
            on_stored: called after each commit of a new observation.
            event_loop: explains the timeouts at which the gateway was overloaded.
        """
        super().__init__()
        self._database = database
        self._on_stored = on_stored
        self._writes = TaskPool()
        self._slots = asyncio.Semaphore(MAX_WRITES)
        self._waiting = 0
        self._last_start = monotonic()
        self._event_loop = event_loop or EventLoopMonitor()

    @property
    def in_flight(self) -> int:
        """The number of writes that have started and not ended."""
        return len(self._writes)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Self]:
        """Accept writes for the duration of the block. All of them have ended when the block is left."""
        try:
            yield self
        finally:
            await self._writes.aclose(drain_timeout=DRAIN_TIMEOUT)

    async def write(self, new: NewObservation, idempotency_key: str | None) -> tuple[Observation, bool]:
        """Store an observation, unless its reporter has used the key before for an equal one of the same place.

        Returns:
            The stored observation, and whether this call has stored it.

        Raises:
            WriteUnavailableError: the outcome is unknown. With a key the caller can safely try again.
            WriteRejectedError: it is not stored: too many writes are waiting, the database has rejected it, or the
                writer is closed.
            UnknownPlaceError: there is no such place.
            KeyReusedError: the key was used for a different observation.
            KeyInFlightError: another write with the key has not ended. Its caller may be gone.
        """
        started_at = monotonic()
        deadline = started_at + WRITE_TIMEOUT
        await self._wait_for_slot()
        try:
            write = self._writes.start(self._store(new, idempotency_key))
        except PoolClosedError:  # it was closed while this write waited for its turn
            self._slots.release()
            raise WriteRejectedError("The gateway is stopping") from None
        write.add_done_callback(lambda _: self._slots.release())
        await asyncio.wait({write}, timeout=deadline - monotonic())
        if not write.done():
            raise WriteUnavailableError(self._timeout_reason(started_at, "The database is too slow"))
        if write.cancelled():  # not a cancellation of the caller, so it must not be raised as one
            raise WriteUnavailableError("The write was cancelled")
        try:
            return write.result()
        except Exception as error:
            if is_rejected(error):
                raise WriteRejectedError(explain(error)) from error
            if is_unavailable(error):
                raise WriteUnavailableError(explain(error)) from error
            raise

    async def _wait_for_slot(self) -> None:
        """Wait until the write may start.

        Raises:
            WriteRejectedError: too many writes are waiting, or it would wait for too long.
        """
        is_stalled = self._slots.locked() and monotonic() - self._last_start > STALL_TIMEOUT
        if is_stalled or self._waiting >= MAX_WAITING_WRITES:
            raise WriteRejectedError(self._timeout_reason(self._last_start, TOO_MANY_WAITING))
        started_at = monotonic()
        self._waiting += 1
        try:
            async with asyncio.timeout(WRITE_TIMEOUT):
                await self._slots.acquire()
        except TimeoutError:
            raise WriteRejectedError(self._timeout_reason(started_at, TOO_MANY_WAITING)) from None
        finally:
            self._waiting -= 1
        self._last_start = monotonic()

    def _timeout_reason(self, started_at: float, reason: str) -> str:
        """Return the reason for a client whose write was late, unless the event loop was held since `started_at`."""
        return explain(OverloadedError()) if self._event_loop.was_held_since(started_at) else reason

    async def _store(self, new: NewObservation, idempotency_key: str | None) -> tuple[Observation, bool]:
        """Store it, with a second attempt if the connection or its prepared statement was outdated."""
        try:
            return await self._store_once(new, idempotency_key)
        except Exception as error:
            if not is_outdated(error):
                raise
        return await self._store_once(new, idempotency_key)

    async def _store_once(self, new: NewObservation, idempotency_key: str | None) -> tuple[Observation, bool]:
        async with self._database.begin() as connection:
            observation, is_new = await insert_observation(connection, new, idempotency_key)
        if is_new:
            self._on_stored()
            log.info(
                "observation stored",
                observation_id=observation.id,
                place_id=observation.place_id,
                reporter=new.reporter or None,
            )
        return observation, is_new
