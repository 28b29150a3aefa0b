"""The relay: brings events from the outbox to RabbitMQ, whenever both are there."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self, cast
from uuid import UUID

import asyncpg
import structlog
from aio_pika import RobustConnection
from sqlalchemy import bindparam, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.concurrency import Backoff, background_task, wait_for_event
from gateway.events.channels import CONNECTION_ERRORS, open_channel
from gateway.events.publisher import Publisher, PublishError
from gateway.events.topology import DEAD_LETTERS
from gateway.lifecycle import format_error
from gateway.lifecycle.cancellation import current_task_cancelled
from gateway.resources.base import Resource
from gateway.resources.database import is_unavailable
from gateway.schema.tables import outbox

BATCH_SIZE = 100
"""The most entries that are published together."""

POLL_INTERVAL = 1.0
"""Seconds between two looks at the outbox. Our own writes wake us; this finds what others have left."""

PUBLISH_TIMEOUT = 2.0
"""Seconds for a batch, for which its entries are locked."""

DRAIN_TIMEOUT = 0.5
"""Seconds that a batch has to end by itself, once the gateway stops; then it is rolled back, and published again by another."""

DEAD_LETTER_TIMEOUT = 0.3
"""Seconds for the broker to say how many dead letters it has."""

MAX_COUNTED = 10_000
"""Entries that the health check counts: more of them take longer, and say no more."""

# Others skip what is locked: each relay has entries of its own. Who dies gives them back.
_NEXT = (
    select(outbox.c.id, outbox.c.event_id, outbox.c.type, outbox.c.body)
    .order_by(outbox.c.id)
    .limit(BATCH_SIZE)
    .with_for_update(skip_locked=True)
)
_PUBLISHED = delete(outbox).where(outbox.c.id.in_(bindparam("ids", expanding=True)))
_DEPTH = select(func.count()).select_from(select(outbox.c.id).limit(bindparam("most")).subquery())

log = structlog.get_logger("gateway.relay")


class OutboxRelay(Resource["OutboxRelay"]):
    """Publishes what is in the outbox, in the order in which it came, and deletes what the broker has confirmed.

    What was published and not deleted, because one of the two went away in between, is published again.
    """

    name = "relay"

    def __init__(self, database: AsyncEngine, rabbitmq: RobustConnection) -> None:
        super().__init__()
        self._database = database
        self._rabbitmq = rabbitmq
        self._publisher = Publisher(rabbitmq)
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._held: asyncpg.Connection | None = None
        self._in_the_way: BaseException | None = None

    def notify(self) -> None:
        """Say that there is a new entry."""
        self._woken.set()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Self]:
        """Work until this is left. It ends by itself only by a mistake of ours."""
        async with background_task(
            self._work(), name="relay", stop=self._stop, stop_timeout=DRAIN_TIMEOUT, abort=self.abort
        ):
            yield self

    def _stop(self) -> None:
        self._stopping.set()
        self.notify()

    def abort(self) -> None:
        """Let go of the connection that a batch holds: a server that has stopped would keep us waiting for it."""
        if self._held is not None:
            self._held.terminate()

    async def _work(self) -> None:
        backoff = Backoff()
        while not self._stopping.is_set():
            self._woken.clear()
            try:
                more = await self._relay()
            except Exception as error:
                if not (isinstance(error, PublishError) or is_unavailable(error)):
                    raise
                self._note(error.__cause__ if isinstance(error, PublishError) else error)
                await wait_for_event(self._stopping, timeout=backoff.next_delay())
                continue
            self._note(None)
            backoff.reset()
            if not more:
                await wait_for_event(self._woken, timeout=POLL_INTERVAL)

    async def _relay(self) -> bool:
        """Publish some entries; return whether there may be more.

        Raises:
            PublishError: not all of them were confirmed; those that were are gone.
        """
        try:
            async with self._database.begin() as connection:
                self._held = await _driver_of(connection)
                entries = (await connection.execute(_NEXT)).all()
                failures = await self._publish(entries)
                published = [entry.id for entry in entries if entry.id not in failures]
                if published:
                    await connection.execute(_PUBLISHED, {"ids": published})
        finally:
            self._held = None  # no earlier: it is rolled back behind a shield, on a server that may have stopped
        for failure in failures.values():
            raise failure
        return len(entries) == BATCH_SIZE

    async def _publish(self, entries: Sequence[Any]) -> dict[int, BaseException]:
        """Publish the entries together; return what went wrong with which."""

        async def publish(event_id: UUID, event_type: str, body: str) -> None:
            await self._publisher.publish(event_id, event_type, body.encode(), timeout=PUBLISH_TIMEOUT)

        outcomes = await asyncio.gather(
            *(publish(entry.event_id, entry.type, entry.body) for entry in entries), return_exceptions=True
        )
        return {entry.id: error for entry, error in zip(entries, outcomes, strict=True) if error is not None}

    def _note(self, error: BaseException | None) -> None:
        """Remember what is in the way; say so when that begins, and when it ends."""
        if error is not None and self._in_the_way is None:
            log.warning("publishing failed, retrying", error=format_error(error))
        elif error is None and self._in_the_way is not None:
            log.info("publishing resumed")
        self._in_the_way = error

    async def check(self) -> str | None:
        """Say how many events wait, and how many dead letters there are, if the broker can be asked."""
        async with self._database.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            depth = await connection.scalar(_DEPTH, {"most": MAX_COUNTED})
        remarks = [f"outbox: {'at least ' if depth == MAX_COUNTED else ''}{depth} waiting"]
        dead = await self._dead_letters()
        if dead is not None:
            remarks.append(f"dead letters: {dead}")
        if self._in_the_way is not None:
            remarks.append(f"trying again: {format_error(self._in_the_way)}")
        return ", ".join(remarks)

    async def _dead_letters(self) -> int | None:
        try:
            async with asyncio.timeout(DEAD_LETTER_TIMEOUT):
                channel = await open_channel(self._rabbitmq, confirms=False)
                try:
                    queue = await channel.declare_queue(DEAD_LETTERS, passive=True)
                    return queue.declaration_result.message_count
                finally:
                    await channel.close()
        except asyncio.CancelledError:
            if current_task_cancelled():
                raise
            return None
        except CONNECTION_ERRORS:
            return None


async def _driver_of(connection: AsyncConnection) -> asyncpg.Connection:
    return cast("asyncpg.Connection", (await connection.get_raw_connection()).driver_connection)
