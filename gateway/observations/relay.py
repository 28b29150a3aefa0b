"""The outbox relay: publishes the events in the outbox to RabbitMQ, whenever both servers are available."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import asyncpg
import structlog
from sqlalchemy import bindparam, delete, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.concurrency import Backoff, background_task, wait_for_event
from gateway.events.channels import CONNECTION_ERRORS, open_channel, translate_library_cancellation
from gateway.events.publisher import Publisher, PublishError
from gateway.events.topology import DEAD_LETTERS, OBSERVATIONS
from gateway.lifecycle import format_error
from gateway.resources.base import DegradedError, Resource
from gateway.resources.database import is_unavailable
from gateway.resources.rabbitmq import BrokerConnection
from gateway.schema.driver import asyncpg_connection
from gateway.schema.tables import outbox

BATCH_SIZE = 100  # entries that are published together
POLL_INTERVAL = 1.0  # for the entries of other processes; the gateway's own writes call `notify()`
PUBLISH_TIMEOUT = 2.0  # for a batch, whose entries are locked meanwhile
DRAIN_TIMEOUT = 0.5  # at a stop, for the batch in flight; after that it is rolled back, and published again later
DEAD_LETTER_TIMEOUT = 0.3  # for the broker to report the number of dead letters
MAX_COUNTED = 10_000  # entries that the health check counts

# Each relay gets different entries, because it skips those that another one has locked. PostgreSQL unlocks the entries of a
# process that was killed.
_NEXT_BATCH = (
    select(outbox.c.id, outbox.c.event_id, outbox.c.type, outbox.c.body)
    .order_by(outbox.c.id)
    .limit(BATCH_SIZE)
    .with_for_update(skip_locked=True)
)
_DELETE = delete(outbox).where(outbox.c.id.in_(bindparam("ids", expanding=True)))
_DEPTH = select(func.count()).select_from(select(outbox.c.id).limit(bindparam("limit")).subquery())

log = structlog.get_logger("gateway.relay")


class OutboxRelay(Resource["OutboxRelay"]):
    """Publishes the entries of the outbox, oldest first, and deletes those that the broker has confirmed.

    If one of the two servers becomes unavailable between the confirm and the deletion, the event is published again.

    Attributes:
        last_error: the reason why the last attempt failed, or None if it succeeded.
    """

    name = "relay"

    def __init__(self, database: AsyncEngine, rabbitmq: BrokerConnection) -> None:
        super().__init__()
        self.last_error: BaseException | None = None
        self._database = database
        self._rabbitmq = rabbitmq
        self._publisher = Publisher(rabbitmq, OBSERVATIONS)
        self._notified = asyncio.Event()
        self._stopping = asyncio.Event()
        self._connection: asyncpg.Connection | None = None  # of the batch in flight

    def notify(self) -> None:
        """Report a new entry, which is then published immediately."""
        self._notified.set()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Self]:
        """Publish for the duration of the block. An error that is not transient is a bug, and cancels the block."""
        async with background_task(
            self._run(), name=self.name, stop=self._stop, stop_timeout=DRAIN_TIMEOUT, abort=self.abort
        ):
            yield self

    def _stop(self) -> None:
        self._stopping.set()
        self.notify()

    async def _run(self) -> None:
        """Publish batch after batch. With an empty outbox, wait for `notify()` or for the poll interval."""
        backoff = Backoff()
        while not self._stopping.is_set():
            self._notified.clear()
            try:
                may_be_more = await self._publish_batch()
            except Exception as error:
                if not (isinstance(error, PublishError) or is_unavailable(error)):
                    raise
                self._record_error(error)
                await wait_for_event(self._stopping, timeout=backoff.next_delay())
                continue
            self._record_success()
            backoff.reset()
            if not may_be_more:
                await wait_for_event(self._notified, timeout=POLL_INTERVAL)

    async def _publish_batch(self) -> bool:
        """Publish one batch, and delete the confirmed entries. Return whether there may be more.

        Raises:
            PublishError: some entries were not confirmed. They stay in the outbox.
        """
        try:
            async with self._database.begin() as connection:
                self._connection = await asyncpg_connection(connection)
                entries = (await connection.execute(_NEXT_BATCH)).all()
                failures = await self._publish(entries)
                confirmed = [entry.id for entry in entries if entry.id not in failures]
                if confirmed:
                    await connection.execute(_DELETE, {"ids": confirmed})
        finally:
            # Only after the rollback: SQLAlchemy shields it from cancellation, so only `abort()` can end it early.
            self._connection = None
        for failure in failures.values():
            raise failure
        return len(entries) == BATCH_SIZE

    async def _publish(self, entries: Sequence[Any]) -> dict[int, BaseException]:
        """Publish the entries concurrently. Return the errors by the id of the entry."""
        outcomes = await asyncio.gather(
            *(
                self._publisher.publish(entry.event_id, entry.type, entry.body.encode(), timeout=PUBLISH_TIMEOUT)
                for entry in entries
            ),
            return_exceptions=True,
        )
        return {entry.id: error for entry, error in zip(entries, outcomes, strict=True) if error is not None}

    def _record_error(self, error: Exception) -> None:
        cause = error.__cause__ if isinstance(error, PublishError) and error.__cause__ is not None else error
        if self.last_error is None:
            log.warning("publishing failed, retrying", error=format_error(cause))
        self.last_error = cause

    def _record_success(self) -> None:
        if self.last_error is not None:
            log.info("publishing resumed")
        self.last_error = None

    def abort(self) -> None:
        """Terminate the connection of the batch in flight. The rollback would wait for a server that does not respond."""
        if self._connection is not None:
            self._connection.terminate()

    async def check(self) -> str | None:
        """Return the number of waiting events, the number of dead letters if the broker reports it, and the last error.

        Raises:
            DegradedError: the broker would not take an event.
        """
        async with self._database.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            depth = await connection.scalar(_DEPTH, {"limit": MAX_COUNTED})
        details = [f"outbox: {'at least ' if depth == MAX_COUNTED else ''}{depth} waiting"]
        dead_letters = await self._count_dead_letters()
        if dead_letters is not None:
            details.append(f"dead letters: {dead_letters}")
        problem = await self._publisher.problem()
        if problem is not None:
            raise DegradedError(", ".join([*details, problem]))
        if self.last_error is not None:
            details.append(f"trying again: {format_error(self.last_error)}")
        return ", ".join(details)

    async def _count_dead_letters(self) -> int | None:
        """Return the number of messages in the dead-letter queue, or None if the broker does not report it."""
        try:
            with translate_library_cancellation():
                async with asyncio.timeout(DEAD_LETTER_TIMEOUT):
                    channel = await open_channel(self._rabbitmq, confirms=False)
                    try:
                        queue = await channel.declare_queue(DEAD_LETTERS, passive=True)
                        return queue.declaration_result.message_count
                    finally:
                        await channel.close()
        except CONNECTION_ERRORS:
            return None
