"""THE lifespan: what the process owns, in the order in which it is entered. It is released in reverse, whatever happens."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypedDict

import httpx
from fastapi import FastAPI
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.briefs.service import BriefService
from gateway.briefs.view_publisher import ViewPublisher
from gateway.lifecycle import Journal, LifecycleStack
from gateway.logs import log_event
from gateway.observations.relay import OutboxRelay
from gateway.observations.writer import ObservationWriter
from gateway.readiness import Readiness
from gateway.resources.database import DatabaseEngine
from gateway.resources.entering import TEARDOWN_SHARE, enter
from gateway.resources.http import HttpClient
from gateway.resources.model import Model, ModelResource
from gateway.resources.rabbitmq import RabbitMQ, RabbitMQConnection
from gateway.resources.redis import RedisPool
from gateway.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the lifespan entered, and what works with it: requests get it through `dependencies.py`."""

    http: httpx.AsyncClient
    database: AsyncEngine
    redis: Redis
    rabbitmq: RabbitMQ
    model: Model
    observation_writer: ObservationWriter
    views: ViewPublisher
    briefs: BriefService
    readiness: Readiness
    journal: Journal


class State(TypedDict):
    """What each request finds in its `state`."""

    services: Services


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[State]:
    settings: Settings = app.state.settings
    async with LifecycleStack(
        startup_timeout=settings.startup_timeout,
        shutdown_timeout=settings.shutdown_timeout * TEARDOWN_SHARE,
        journal=Journal(listener=log_event),
    ) as stack:
        app.state.stack = stack  # for the server, which may have to force a stop

        http = await enter(stack, HttpClient(settings.http, settings.instance))
        database = await enter(stack, DatabaseEngine(settings.database, settings.instance))
        redis = await enter(stack, RedisPool(settings.redis, settings.instance))
        rabbitmq = await enter(stack, RabbitMQConnection(settings.rabbitmq, settings.instance))
        model = await enter(stack, ModelResource(settings.model))

        # What works with them comes after them, so that it ends before they do.
        relay = OutboxRelay(database, rabbitmq.connection)
        await stack.enter("relay", relay.open(), start_timeout=1, stop_timeout=3, abort=relay.abort, check=relay.check)
        observation_writer = ObservationWriter(database, on_stored=relay.notify)
        await stack.enter("writer", observation_writer.open(), start_timeout=1, stop_timeout=3)
        views = ViewPublisher(rabbitmq.connection)
        await stack.enter("views", views.open(), start_timeout=1, stop_timeout=3, check=views.check)
        briefs = BriefService(
            http=http,
            database=database,
            redis=redis,
            model=model,
            viewed=views.add,
            timeout=settings.brief_timeout,
        )
        await stack.enter("briefs", briefs.open(), start_timeout=1, stop_timeout=3)

        stack.mark_started()
        yield {
            "services": Services(
                http=http,
                database=database,
                redis=redis,
                rabbitmq=rabbitmq,
                model=model,
                observation_writer=observation_writer,
                views=views,
                briefs=briefs,
                readiness=Readiness(stack, grace=settings.ready_grace),
                journal=stack.journal,
            )
        }
