"""`gateway worker`: the same resources through the same core, without HTTP; it consumes what the gateway publishes."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import uvloop
from redis.exceptions import RedisError

from gateway.briefs.popularity import add_views
from gateway.concurrency import background_task
from gateway.events.consumer import Consumer
from gateway.events.messages import BriefViewed, ObservationReported
from gateway.events.topology import OBSERVATIONS, VIEWS
from gateway.lifecycle import Journal, LifecycleStack, format_error
from gateway.logs import log_event
from gateway.observations.counting import ConsumedEventsCleanup, count_observation
from gateway.process.signals import DIED, FORCED, START_FAILED, STOPPED, UNCLEAN, ShutdownSignals
from gateway.process.watchdog import run
from gateway.resources.base import TEARDOWN_SHARE, enter_resource
from gateway.resources.database import DatabaseEngine, is_unavailable
from gateway.resources.rabbitmq import RabbitMQConnection
from gateway.resources.redis import RedisPool
from gateway.settings import Settings

PREFETCH = 10
"""How many messages of each queue are worked in at once: as many as the database keeps connections open."""

HEARTBEAT_INTERVAL = 2.0
"""Seconds between two signs of life."""

log = structlog.get_logger("gateway.worker")


@asynccontextmanager
async def working(stack: LifecycleStack, settings: Settings, alive: Path | None = None) -> AsyncGenerator[None]:
    """Enter what the worker owns, in order, and then what works with it."""
    async with stack:
        database = await enter_resource(stack, DatabaseEngine(settings.database, settings.instance))
        redis = await enter_resource(stack, RedisPool(settings.redis, settings.instance))
        rabbitmq = (await enter_resource(stack, RabbitMQConnection(settings.rabbitmq, settings.instance))).connection

        counting = Consumer(
            "observations",
            rabbitmq,
            OBSERVATIONS,
            ObservationReported,
            partial(count_observation, database),
            is_transient=is_unavailable,
            prefetch=PREFETCH,
        )
        await enter_resource(stack, counting)
        viewing = Consumer(
            "views",
            rabbitmq,
            VIEWS,
            BriefViewed,
            partial(add_views, redis),
            is_transient=lambda error: isinstance(error, RedisError | OSError),
            prefetch=PREFETCH,
        )
        await enter_resource(stack, viewing)
        await enter_resource(stack, ConsumedEventsCleanup(database))
        if alive is not None:
            await stack.enter("alive", heartbeat_file(alive), start_timeout=1, stop_timeout=3)
        stack.mark_started()
        yield


def work(settings: Settings, *, alive: Path | None = None) -> tuple[int, Exception | None]:
    """Work until a signal stops us, or an entry dies. Return the exit status, and what went wrong.

    Args:
        settings: those of the gateway.
        alive: a file that is touched every two seconds as long as it works.
    """
    return run(
        _Life(settings, ShutdownSignals(settings.shutdown_timeout), alive).run(), loop_factory=uvloop.new_event_loop
    )


class _Life:
    """One life of the process, from before the startup to after the teardown."""

    def __init__(self, settings: Settings, signals: ShutdownSignals, alive: Path | None) -> None:
        self._settings = settings
        self._signals = signals
        self._alive = alive
        self._stack: LifecycleStack | None = None
        self._entered = asyncio.Event()

    async def run(self) -> tuple[int, Exception | None]:
        with self._signals.installed():
            asked = asyncio.create_task(self._signals.asked.wait())
            forced = asyncio.create_task(self._abort_when_forced())
            try:
                status, error = await self._live(asked)
            finally:
                asked.cancel()
                forced.cancel()
        return (FORCED if self._signals.forced.is_set() else status), error

    async def _live(self, asked: "asyncio.Task[Any]") -> tuple[int, Exception | None]:
        stack = self._stack = LifecycleStack(
            startup_timeout=self._settings.startup_timeout,
            shutdown_timeout=self._settings.shutdown_timeout * TEARDOWN_SHARE,
            journal=Journal(listener=log_event),
        )
        life = asyncio.create_task(self._work(stack, asked))
        entered = asyncio.create_task(self._entered.wait())
        await asyncio.wait({life, asked, entered}, return_when=asyncio.FIRST_COMPLETED)
        entered.cancel()
        if not life.done() and not self._entered.is_set():
            log.warning("asked to stop during the startup: giving everything back")
            life.cancel()
        await asyncio.wait({life})
        error = None if life.cancelled() else life.exception()
        if not self._entered.is_set():
            return START_FAILED, error if isinstance(error, Exception) else None
        unclean = error if isinstance(error, Exception) else None
        return (DIED if stack.failure.done() else UNCLEAN if unclean else STOPPED), unclean

    async def _work(self, stack: LifecycleStack, asked: "asyncio.Task[Any]") -> None:
        async with working(stack, self._settings, self._alive):
            self._entered.set()
            log.info("working", a_stop_takes_at_most_s=self._settings.shutdown_timeout)
            await asyncio.wait({asked, stack.failure}, return_when=asyncio.FIRST_COMPLETED)
            if stack.failure.done():
                log.critical("stopping: nothing runs on half a stack", error=format_error(stack.failure.result()))
            else:
                log.info("asked to stop")

    async def _abort_when_forced(self) -> None:
        await self._signals.forced.wait()
        log.warning("forced to stop: letting go of everything")
        if self._stack is not None:
            self._stack.abort()


@asynccontextmanager
async def heartbeat_file(alive: Path) -> AsyncGenerator[None]:
    """Touch the file now and then until this is left, and remove it."""

    async def touch() -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL)
            alive.touch()  # noqa: ASYNC240 - it takes no time

    alive.touch()  # noqa: ASYNC240
    try:
        async with background_task(touch(), name="signs of life"):
            yield
    finally:
        alive.unlink(missing_ok=True)  # noqa: ASYNC240
