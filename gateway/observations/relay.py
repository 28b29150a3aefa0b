"""The outbox relay: publishes the events in the outbox to RabbitMQ, whenever both servers are available."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, Self

import asyncpg
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.concurrency import Backoff, background_task, wait_for_event
from gateway.events.channels import CONNECTION_ERRORS, opened_channel, translate_library_cancellation
from gateway.events.publisher import (
    MessageRejectedError,
    Publisher,
    PublishError,
    UnconfirmedError,
    UnroutableError,
)
from gateway.events.topology import DEAD_LETTERS, OBSERVATIONS
from gateway.lifecycle import format_error
from gateway.observations.outbox_queries import (
    OutboxCounts,
    count_attempt,
    count_attempt_of_type,
    count_entries,
    delete_entries,
    lock_failed_entries,
    lock_new_entries,
    postpone,
)
from gateway.resources.base import DegradedError, Resource
from gateway.resources.database_errors import is_retryable
from gateway.resources.rabbitmq import BrokerConnection
from gateway.schema.driver import asyncpg_connection

BATCH_SIZE = 100  # entries that are published together
POLL_INTERVAL = 1.0  # for the entries of other processes; the gateway's own writes call `notify()`
PUBLISH_TIMEOUT = 2.0  # for a batch, whose entries are locked meanwhile
DRAIN_TIMEOUT = 0.5  # at a stop, for the batch in flight; after that it is rolled back, and published again later
DEAD_LETTER_TIMEOUT = 0.3  # for the broker to report the number of dead letters
MAX_COUNTED = 10_000  # entries that the health check counts
RETRY_DELAY = 1.0  # after the first attempt of an entry that is rejected

log = structlog.get_logger("gateway.relay")


class OutboxRelay(Resource["OutboxRelay"]):
    """Publishes the entries of the outbox, oldest first, and deletes those that the broker has confirmed.

    Batches of new entries and of those that failed alternate. An entry that is rejected is tried again after a growing delay, and
    parked after `MAX_ATTEMPTS`.
    If one of the two servers becomes unavailable between the confirm and the deletion, the event is published again.

    Attributes:
        last_error: the reason why the last attempt failed, or None if it succeeded.
        counts: the entries in the outbox, at the latest health check for which the database has reported them.
        dead_letters: the number of dead letters at that check, or None if the broker has not reported it.
    """

    name = "relay"

    def __init__(self, database: AsyncEngine, rabbitmq: BrokerConnection) -> None:
        super().__init__()
        self.last_error: BaseException | None = None
        self.counts: OutboxCounts | None = None
        self.dead_letters: int | None = None
        self._database = database
        self._rabbitmq = rabbitmq
        self._publisher = Publisher(rabbitmq, OBSERVATIONS)
        self._min_attempts = 1  # of the next batch of entries that failed
        self._notified = asyncio.Event()
        self._stopping = asyncio.Event()
        self._connection: asyncpg.Connection | None = None  # of the batch in flight

    def notify(self) -> None:
        """Report a new entry, which is then published immediately."""
        self._notified.set()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Self]:
        """Publish for the duration of the block. An error that no server reports is a bug, and cancels the block."""
        async with background_task(
            self._run(), name=self.name, stop=self._stop, stop_timeout=DRAIN_TIMEOUT, abort=self.abort
        ):
            yield self

    def _stop(self) -> None:
        self._stopping.set()
        self.notify()

    async def _run(self) -> None:
        """Publish batches of new entries and of those that failed in turn. With an empty outbox, wait for `notify()` or for the poll interval."""
        backoff = Backoff()
        while not self._stopping.is_set():
            self._notified.clear()
            try:
                may_be_more = await self._publish_batches()
            except Exception as error:
                if not (isinstance(error, PublishError) or is_retryable(error)):
                    raise
                self._record_error(error)
                # A new entry is published at once, unless the broker is unavailable.
                resume = self._notified if isinstance(error, UnconfirmedError) else self._stopping
                await wait_for_event(resume, timeout=backoff.next_delay())
                continue
            self._record_success()
            backoff.reset()
            if not may_be_more:
                await wait_for_event(self._notified, timeout=POLL_INTERVAL)

    async def _publish_batches(self) -> bool:
        """Publish a batch of new entries, and one of those that failed. Return whether there may be more."""
        try:
            may_be_more = await self._publish_batch(self._lock_new_entries)
        except UnconfirmedError:  # of the queue of the new entries; others may have another queue
            await self._publish_batch(self._lock_failed_entries)
            raise
        return await self._publish_batch(self._lock_failed_entries) or may_be_more

    async def _lock_new_entries(self, connection: AsyncConnection) -> tuple[Sequence[Any], bool]:
        """Return the next batch, and whether there may be more."""
        entries = await lock_new_entries(connection, BATCH_SIZE)
        return entries, len(entries) == BATCH_SIZE

    async def _lock_failed_entries(self, connection: AsyncConnection) -> tuple[Sequence[Any], bool]:
        """Return the next batch, and whether there may be more.

        Each batch begins with entries of more attempts than the one before, and then with the fewest again. The time of a batch may
        end after its first entries, so these must not always be the same.
        """
        min_attempts = self._min_attempts
        entries = await lock_failed_entries(connection, BATCH_SIZE, min_attempts=min_attempts)
        self._min_attempts = entries[0].attempts + 1 if entries else 1
        return entries, bool(entries) or min_attempts > 1

    async def _publish_batch(
        self, lock_entries: Callable[[AsyncConnection], Awaitable[tuple[Sequence[Any], bool]]]
    ) -> bool:
        """Publish one batch, and delete the confirmed entries. Return whether there may be more.

        Raises:
            PublishError: no entry was confirmed or rejected. They stay in the outbox.
        """
        try:
            async with self._database.begin() as connection:
                self._connection = await asyncpg_connection(connection)
                entries, may_be_more = await lock_entries(connection)
                outcomes = await self._publish(entries)
                confirmed = [entry_id for entry_id, error in outcomes.items() if error is None]
                if confirmed:
                    await delete_entries(connection, confirmed)
                await _store_failures(connection, entries, outcomes)
        finally:
            # Only after the rollback: SQLAlchemy shields it from cancellation, so only `abort()` can end it early.
            self._connection = None
        errors = [error for error in outcomes.values() if error is not None]
        rejections = [error for error in errors if isinstance(error, MessageRejectedError)]
        if rejections:
            log.warning("entries rejected", count=len(rejections), error=str(rejections[0]))
        if len(errors) == len(outcomes) > len(rejections):
            raise next(error for error in errors if not isinstance(error, MessageRejectedError))
        return may_be_more

    async def _publish(self, entries: Sequence[Any]) -> dict[int, PublishError | None]:
        """Publish new entries concurrently, and those that failed before one after the other.

        A message that the broker refuses closes the channel and, if others are in flight, also the connection. Alone, such a
        message fails without the others.

        Returns:
            the error or None, by the id of the entry, without entries for which there was no time.
        """

        async def attempt(publish: Callable[..., Awaitable[None]], entry: Any) -> None:
            try:
                await publish(
                    entry.event_id,
                    entry.type,
                    entry.body.encode(),
                    timeout=PUBLISH_TIMEOUT,
                    traceparent=entry.traceparent,
                )
            except PublishError as error:
                outcomes[entry.id] = error
            else:
                outcomes[entry.id] = None

        outcomes: dict[int, PublishError | None] = {}
        await asyncio.gather(*(attempt(self._publisher.publish, entry) for entry in entries if entry.attempts == 0))
        deadline = monotonic() + PUBLISH_TIMEOUT
        for entry in entries:
            if entry.attempts > 0 and monotonic() < deadline:
                await attempt(self._publisher.publish_alone, entry)
        return outcomes

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
        """Return the number of waiting events, and the number of dead letters if the broker reports it.

        Raises:
            DegradedError: the broker would not take an event, the last attempt has failed, or there are events that were
                rejected, or dead letters. The message has the numbers.
        """
        async with self._database.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            self.counts = counts = await count_entries(connection, MAX_COUNTED)
        self.dead_letters = dead_letters = await self._count_dead_letters()
        details = [f"outbox: {_format_count(counts.waiting)} waiting"]
        details += [
            f"{_format_count(number)} {name}"
            for name, number in (("failing", counts.failing), ("parked", counts.parked))
            if number
        ]
        if dead_letters is not None:
            details.append(f"dead letters: {dead_letters}")
        problem = await self._publisher.problem()
        if problem is not None:
            details.append(problem)
        elif self.last_error is not None:
            details.append(f"trying again: {format_error(self.last_error)}")
        if counts.failing or counts.parked or dead_letters or problem or self.last_error is not None:
            raise DegradedError(", ".join(details))
        return ", ".join(details)

    async def _count_dead_letters(self) -> int | None:
        """Return the number of messages in the dead-letter queue, or None if the broker does not report it."""
        try:
            with translate_library_cancellation():
                async with asyncio.timeout(DEAD_LETTER_TIMEOUT):
                    async with opened_channel(self._rabbitmq) as channel:
                        queue = await channel.declare_queue(DEAD_LETTERS, passive=True)
                        return queue.declaration_result.message_count
        except CONNECTION_ERRORS:
            return None


async def _store_failures(
    connection: AsyncConnection, entries: Sequence[Any], outcomes: Mapping[int, PublishError | None]
) -> None:
    """Store the attempts of the entries that failed. If the broker is unavailable, no attempt is stored."""
    unroutable: dict[str, str] = {}  # the error by the type of the event
    rejected: defaultdict[str, list[int]] = defaultdict(list)  # the ids by the error
    unconfirmed: defaultdict[tuple[str, float], list[int]] = defaultdict(list)  # the ids by the error and the delay
    for entry in entries:
        match outcomes.get(entry.id):
            case UnroutableError() as error:
                unroutable[entry.type] = str(error)
            case MessageRejectedError() as error:
                rejected[str(error)].append(entry.id)
            case UnconfirmedError() as error:
                # After the first attempt, another entry may have been the reason. The next attempt is alone.
                delay = RETRY_DELAY if entry.attempts > 0 else 0.0
                unconfirmed[format_error(error.__cause__ or error), delay].append(entry.id)
    for event_type, reason in unroutable.items():
        await count_attempt_of_type(connection, event_type, error=reason, delay=RETRY_DELAY)
    for reason, ids in rejected.items():
        await count_attempt(connection, ids, error=reason, delay=RETRY_DELAY)
    for (reason, delay), ids in unconfirmed.items():
        await postpone(connection, ids, error=reason, delay=delay)


def _format_count(number: int) -> str:
    return f"at least {number}" if number == MAX_COUNTED else str(number)
