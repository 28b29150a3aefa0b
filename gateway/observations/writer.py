"""The observation writer: callers get a response in time, and a cancelled request never interrupts a write."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Self

from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.concurrency import TaskPool, background_task
from gateway.event_loop import EventLoopMonitor, OverloadedError
from gateway.observations.groups import GroupStore, Submission
from gateway.observations.reports import NewObservation, Report, Stored, UnknownPlaceError
from gateway.resources.base import Resource
from gateway.resources.database import MAX_WRITES
from gateway.resources.database_errors import explain, is_rejected, is_unavailable
from gateway.schema.tables import MAX_PLACE_ID
from gateway.telemetry.trace_context import current_traceparent, span_of_requests

MAX_GROUP_SIZE = 100  # reports in one transaction
NEXT_GROUP_DELAY = 0.05  # after which the next group starts, although one is slow: it may wait for a lock
WRITE_TIMEOUT = 2.0  # after which the caller gets an error, while a write that has started continues
STALL_TIMEOUT = 0.5  # if no group could start for so long, the database is stuck: new writes are rejected immediately
MAX_WAITING_WRITES = 1000  # a healthy database stores so many in less than `WRITE_TIMEOUT`
TOO_MANY_WAITING = "Too many reports wait for the database"
DRAIN_TIMEOUT = 1.0  # at a stop, for the accepted writes to finish before they are rejected or cancelled


class WriteUnavailableError(Exception):
    """The observation may be stored already, may be stored later, or never. The message is the reason, for the client."""


class WriteRejectedError(Exception):
    """The observation is not stored, and will not be stored later. The message is the reason, for the client."""


class ObservationWriter(Resource["ObservationWriter"]):
    """Stores observations in groups: those that arrive while a group is being stored share the next transaction.

    So a group grows with the load, and the cost of a write falls. At most `MAX_WRITES` groups use the database at a time: a
    further one starts only if the others are slow. A group is stored by a task of its own, which goes on if callers are
    cancelled or time out.
    """

    name = "writer"

    def __init__(
        self, database: AsyncEngine, on_stored: Callable[[], object], *, event_loop: EventLoopMonitor | None = None
    ) -> None:
        """Configure the writer.

        Args:
            database: where the observations are stored.
            on_stored: called after each commit of new observations.
            event_loop: explains the timeouts at which the gateway was overloaded.
        """
        super().__init__()
        self._store = GroupStore(database, on_stored)
        self._waiting: deque[Submission] = deque()
        self._wake_up = asyncio.Event()
        self._closed = False
        self._groups = TaskPool()
        self._slots = asyncio.Semaphore(MAX_WRITES)
        self._last_start = monotonic()
        self._event_loop = event_loop or EventLoopMonitor()

    @property
    def groups_in_flight(self) -> int:
        """The number of groups that are being stored."""
        return len(self._groups)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Self]:
        """Accept writes for the duration of the block. All of them have ended when the block is left."""
        try:
            async with background_task(self._run(), name=self.name, stop=self._stop, stop_timeout=DRAIN_TIMEOUT):
                yield self
        finally:
            self._stop()
            while self._waiting:
                self._waiting.popleft().fail(WriteRejectedError("The gateway is stopping"))
            await self._groups.aclose(drain_timeout=0)

    async def write(self, new: NewObservation, idempotency_key: str | None) -> Stored:
        """Store an observation, unless its reporter has used the key before for an equal one of the same place.

        Raises:
            WriteUnavailableError: the outcome is unknown. With a key the caller can safely try again.
            WriteRejectedError: it is not stored: too many writes are waiting, the database has rejected it, or the
                writer is closed.
            UnknownPlaceError: there is no such place.
            KeyReusedError: the key was used for a different observation.
            KeyInFlightError: another write with the key has not ended. Its caller may be gone.
        """
        if not 0 < new.place_id <= MAX_PLACE_ID:
            raise UnknownPlaceError
        submission = self._submit(Report(new, idempotency_key, current_traceparent()))
        started_at = monotonic()
        try:
            async with asyncio.timeout(WRITE_TIMEOUT) as timeout:
                return await submission.outcome
        except Exception as error:
            if timeout.expired():
                if submission.is_started:
                    raise WriteUnavailableError(self._timeout_reason(started_at, "The database is too slow")) from None
                raise WriteRejectedError(self._timeout_reason(started_at, TOO_MANY_WAITING)) from None
            if is_rejected(error):
                raise WriteRejectedError(explain(error)) from error
            if is_unavailable(error):
                raise WriteUnavailableError(explain(error)) from error
            raise

    def _submit(self, report: Report) -> Submission:
        """Queue a report for the next group.

        Raises:
            WriteRejectedError: too many writes are waiting, the database is stuck, or the writer is closed.
        """
        if self._closed:
            raise WriteRejectedError("The gateway is stopping")
        is_stalled = self._slots.locked() and monotonic() - self._last_start > STALL_TIMEOUT
        if is_stalled or len(self._waiting) >= MAX_WAITING_WRITES:
            raise WriteRejectedError(self._timeout_reason(self._last_start, TOO_MANY_WAITING))
        submission = Submission(report)
        self._waiting.append(submission)
        self._wake_up.set()
        return submission

    def _timeout_reason(self, started_at: float, reason: str) -> str:
        """Return the reason for a client whose write was late, unless the event loop was held since `started_at`."""
        return explain(OverloadedError()) if self._event_loop.was_held_since(started_at) else reason

    def _stop(self) -> None:
        """Accept no further writes. Those that were accepted are stored."""
        self._closed = True
        self._wake_up.set()

    async def _run(self) -> None:
        """Start one group after the other, until the writer is closed and the last group has ended."""
        while not self._closed or self._waiting:
            await self._wake_up.wait()
            self._wake_up.clear()
            while self._waiting:
                await self._slots.acquire()
                task = self._groups.start(self._store_group(self._next_group()))
                task.add_done_callback(lambda _: self._slots.release())
                await asyncio.wait({task}, timeout=NEXT_GROUP_DELAY)
        await self._groups.wait(timeout=DRAIN_TIMEOUT)

    def _next_group(self) -> list[Submission]:
        """Return the reports that wait, without those whose callers are gone. Their transaction starts now."""
        group: list[Submission] = []
        while self._waiting and len(group) < MAX_GROUP_SIZE:
            submission = self._waiting.popleft()
            if not submission.outcome.done():
                submission.is_started = True
                group.append(submission)
        self._last_start = monotonic()
        return group

    async def _store_group(self, group: list[Submission]) -> None:
        try:
            if group:
                with span_of_requests("store observations", [submission.report.traceparent for submission in group]):
                    await self._store.store(group)
        finally:
            for submission in group:  # no effect on those that have an outcome
                submission.fail(WriteUnavailableError("The write was cancelled"))
