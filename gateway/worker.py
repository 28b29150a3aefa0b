"""`gateway worker`: consumes the events that the gateway publishes, with the same resources and without HTTP."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from gateway.briefs.popularity import add_views
from gateway.concurrency import background_task
from gateway.events.consumer import Consumer
from gateway.events.messages import BriefViewed, ObservationReported
from gateway.events.topology import OBSERVATIONS, VIEWS
from gateway.lifecycle import Journal, LifecycleStack
from gateway.logs import log_event
from gateway.observations.counting import ConsumedEventsCleanup, count_observation
from gateway.process.runner import ProcessResult, ProcessRunner, run_process
from gateway.resources import redis_errors
from gateway.resources.base import TEARDOWN_SHARE, Resource, enter_resource
from gateway.resources.database import DatabaseEngine
from gateway.resources.database_errors import is_data_error, is_retryable
from gateway.resources.rabbitmq import RabbitMQConnection
from gateway.resources.redis import RedisPool
from gateway.settings import Settings

PREFETCH = 10  # messages of a queue that are processed at the same time, as many as the connections that stay open
HEARTBEAT_INTERVAL = 2.0

log = structlog.get_logger("gateway.worker")


@dataclass
class Worker:
    """The settings and the state of `worker_lifespan`. The lifespan of the gateway has them in `app.state`.

    Attributes:
        settings: the settings of the gateway.
        heartbeat_path: the file that `HeartbeatFile` touches, or None.
        stack: the stack of the lifespan, or None before the lifespan has created it.
    """

    settings: Settings
    heartbeat_path: Path | None = None
    stack: LifecycleStack | None = None


def run_worker(settings: Settings, *, heartbeat_path: Path | None = None) -> ProcessResult:
    """Consume events until a signal stops the worker or an entry crashes. Return the exit status and the error."""
    worker = Worker(settings, heartbeat_path)

    async def body(process: ProcessRunner) -> None:
        log.info("working", shutdown_timeout_s=settings.shutdown_timeout)
        await process.wait_for_shutdown()

    return run_process(
        worker_lifespan(worker),
        body,
        get_stack=lambda: worker.stack,
        shutdown_timeout=settings.shutdown_timeout,
    )


@asynccontextmanager
async def worker_lifespan(worker: Worker) -> AsyncGenerator[None]:
    settings = worker.settings
    async with LifecycleStack(
        startup_timeout=settings.startup_timeout,
        shutdown_timeout=settings.shutdown_timeout * TEARDOWN_SHARE,
        journal=Journal(listeners=[log_event]),
    ) as stack:
        worker.stack = stack  # for the process runner, which aborts it in a forced shutdown

        database = await enter_resource(stack, DatabaseEngine(settings.database, settings.instance))
        redis = await enter_resource(stack, RedisPool(settings.redis, settings.instance))
        rabbitmq = await enter_resource(stack, RabbitMQConnection(settings.rabbitmq, settings.instance))

        # Background workers use the resources, so they start after the resources and stop before them.
        observation_consumer = Consumer(
            "observations",
            rabbitmq.connection,
            OBSERVATIONS,
            ObservationReported,
            partial(count_observation, database),
            is_transient=is_retryable,
            is_event_failure=is_data_error,
            prefetch=PREFETCH,
        )
        await enter_resource(stack, observation_consumer)
        view_consumer = Consumer(
            "views",
            rabbitmq.connection,
            VIEWS,
            BriefViewed,
            partial(add_views, redis),
            is_transient=redis_errors.is_unavailable,
            prefetch=PREFETCH,
        )
        await enter_resource(stack, view_consumer)
        await enter_resource(stack, ConsumedEventsCleanup(database))
        if worker.heartbeat_path is not None:
            await enter_resource(stack, HeartbeatFile(worker.heartbeat_path, [observation_consumer, view_consumer]))

        stack.mark_started()
        yield


class HeartbeatFile(Resource[None]):
    """A file that is touched every `HEARTBEAT_INTERVAL` seconds while the process works, and removed at the end.

    A container health check reads its modification time. The process works while its event loop runs, and the broker refuses
    no consumer. A broker that is unavailable does not count, and nor do events whose handlers fail: a restart of all workers
    would not help.
    """

    name = "heartbeat"

    def __init__(self, path: Path, consumers: Sequence[Consumer[Any]]) -> None:
        super().__init__()
        self._path = path
        self._consumers = consumers

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        self._path.touch()
        try:
            async with background_task(self._touch_repeatedly(), name=self.name):
                yield
        finally:
            self._path.unlink(missing_ok=True)

    async def _touch_repeatedly(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL)
            if all(consumer.refusal is None for consumer in self._consumers):
                self._path.touch()
