"""Publishes the views of briefs for the worker: many views in one event, and dropped views rather than slow responses."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Self

import structlog

from gateway.concurrency import background_task, wait_for_event
from gateway.events.messages import BriefViewed, ViewCounts, encode
from gateway.events.publisher import Publisher, PublishError
from gateway.events.topology import VIEWS
from gateway.lifecycle import format_error
from gateway.outages import Outage
from gateway.resources.base import DegradedError, Resource
from gateway.resources.rabbitmq import BrokerConnection

FLUSH_INTERVAL = 0.25
PUBLISH_TIMEOUT = 1.0
MAX_PENDING = 10_000  # views that wait to be published; more are dropped

log = structlog.get_logger("gateway.views")


class ViewPublisher(Resource["ViewPublisher"]):
    """Counts views by place, and publishes the counts in intervals. Views that cannot be published are dropped.

    Attributes:
        dropped: the number of views that were dropped.
    """

    name = "views"

    def __init__(self, rabbitmq: BrokerConnection) -> None:
        super().__init__()
        self.dropped = 0
        self._publisher = Publisher(rabbitmq, VIEWS)
        self._pending: Counter[int] = Counter()
        self._pending_count = 0
        self._has_pending = asyncio.Event()
        self._outage = Outage()
        self._stopping = asyncio.Event()

    def record(self, place_id: int) -> None:
        """Count a view of the brief of a place. This takes no time, and never fails."""
        if self._pending_count >= MAX_PENDING:
            self.dropped += 1
            return
        self._pending[place_id] += 1
        self._pending_count += 1
        self._has_pending.set()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Self]:
        """Publish in the background for the duration of the block, and at its end the views that are left."""
        async with background_task(
            self._run(), name="views", stop=self._stop, stop_timeout=2 * PUBLISH_TIMEOUT + FLUSH_INTERVAL
        ):
            yield self

    def _stop(self) -> None:
        self._stopping.set()
        self._has_pending.set()

    async def _run(self) -> None:
        while not self._stopping.is_set():
            await self._has_pending.wait()
            await wait_for_event(self._stopping, timeout=FLUSH_INTERVAL)
            await self._publish()
        await self._publish()  # the views that were recorded while the last event was published

    async def _publish(self) -> None:
        views, count = dict(self._pending), self._pending_count
        if not views:
            return
        self._pending.clear()
        self._pending_count = 0
        self._has_pending.clear()
        event = BriefViewed.create(ViewCounts(views=views))
        try:
            await self._publisher.publish(event.id, event.type, encode(event), timeout=PUBLISH_TIMEOUT)
        except PublishError as error:
            self.dropped += count
            text = format_error(error.__cause__ or error)
            unlogged = self._outage.record(text)
            if unlogged is not None:
                log.warning("views dropped", error=text, dropped=self.dropped, unlogged=unlogged)
        else:
            if self._outage.is_over():
                log.info("views are published again", dropped=self.dropped, failures=self._outage.count)
                self._outage = Outage()

    async def check(self) -> str | None:
        """Return how many views were dropped.

        Raises:
            DegradedError: the broker would not take an event.
        """
        problem = await self._publisher.problem()
        if problem is not None:
            raise DegradedError(f"{self.dropped} dropped: {problem}")
        return f"{self.dropped} dropped"
