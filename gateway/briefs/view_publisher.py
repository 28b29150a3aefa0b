"""Telling the worker which briefs were asked for: many views in one event, and rather none than a slow answer."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Self

import structlog
from aio_pika import RobustConnection

from gateway.concurrency import background_task, wait_for_event
from gateway.events.messages import BriefViewed, ViewCounts, encode
from gateway.events.publisher import Publisher, PublishError
from gateway.resources.base import Resource

EVERY = 0.25
"""Seconds between two events."""

PUBLISH_WITHIN = 1.0
"""Seconds for an event; it is dropped then."""

MOST_WAITING = 10_000
"""The most views that wait to be published; what comes beyond them is dropped."""

log = structlog.get_logger("gateway.views")


class ViewPublisher(Resource["ViewPublisher"]):
    """Counts views, and publishes the counts now and then. What cannot be published is dropped, and that is counted."""

    name = "views"

    def __init__(self, rabbitmq: RobustConnection) -> None:
        super().__init__()
        self.dropped = 0
        """How many views were lost."""
        self._publisher = Publisher(rabbitmq)
        self._waiting: Counter[int] = Counter()
        self._count = 0
        self._any = asyncio.Event()
        self._stopping = asyncio.Event()

    def record(self, place_id: int) -> None:
        """Count a view of the brief of a place. It takes no time, and never fails."""
        if self._count >= MOST_WAITING:
            self.dropped += 1
            return
        self._waiting[place_id] += 1
        self._count += 1
        self._any.set()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Self]:
        """Publish until this is left, and what is left then."""
        async with background_task(
            self._work(), name="views", stop=self._stop, stop_timeout=2 * PUBLISH_WITHIN + EVERY
        ):
            yield self

    def _stop(self) -> None:
        self._stopping.set()
        self._any.set()

    async def _work(self) -> None:
        while not self._stopping.is_set():
            await self._any.wait()
            await wait_for_event(self._stopping, timeout=EVERY)  # for more to come together
            await self._publish()
        await self._publish()  # what came while the last was published

    async def _publish(self) -> None:
        views, count = dict(self._waiting), self._count
        if not views:
            return
        self._waiting.clear()
        self._count = 0
        self._any.clear()
        event = BriefViewed.create(ViewCounts(views=views))
        try:
            await self._publisher.publish(event.id, event.type, encode(event), timeout=PUBLISH_WITHIN)
        except PublishError:
            if self.dropped == 0:
                log.warning("views are dropped from now on, and counted")
            self.dropped += count

    async def check(self) -> str | None:
        """Say how many views were dropped."""
        return f"{self.dropped} dropped"
