"""The lifespan: opens all resources and background workers in order, and releases them in reverse order, also after an error."""

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
from gateway.event_loop import EventLoopMonitor
from gateway.events.topology import verify_publishing
from gateway.lifecycle import Journal, LifecycleStack
from gateway.logs import log_event
from gateway.observations.relay import OutboxRelay
from gateway.observations.writer import ObservationWriter
from gateway.read_sessions import ReadSessions
from gateway.readiness import Readiness
from gateway.resources.base import TEARDOWN_SHARE, enter_resource
from gateway.resources.database import DatabaseEngine
from gateway.resources.http import HttpClient
from gateway.resources.model import Model, ModelResource
from gateway.resources.rabbitmq import RabbitMQ, RabbitMQConnection
from gateway.resources.redis import RedisPool
from gateway.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The entered resources and the services that use them. Routes get them through `dependencies.py`."""

    http: httpx.AsyncClient
    database: AsyncEngine
    redis: Redis
    rabbitmq: RabbitMQ
    model: Model
    sessions: ReadSessions
    relay: OutboxRelay
    writer: ObservationWriter
    views: ViewPublisher
    briefs: BriefService
    readiness: Readiness
    journal: Journal


class State(TypedDict):
    """The lifespan state, which Starlette copies to `request.state`."""

    services: Services


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[State]:
    settings: Settings = app.state.settings
    async with LifecycleStack(
        startup_timeout=settings.startup_timeout,
        shutdown_timeout=settings.shutdown_timeout * TEARDOWN_SHARE,
        journal=Journal(listeners=[log_event]),
    ) as stack:
        app.state.stack = stack  # for the server, which watches it for a crash, and aborts it in a forced shutdown
        event_loop = EventLoopMonitor()  # it begins after the startup, which may hold the event loop

        http = await enter_resource(stack, HttpClient(settings.http, settings.instance))
        database = await enter_resource(stack, DatabaseEngine(settings.database, settings.instance))
        redis = await enter_resource(stack, RedisPool(settings.redis, settings.instance))
        rabbitmq = await enter_resource(
            stack, RabbitMQConnection(settings.rabbitmq, settings.instance, verify=verify_publishing)
        )
        model = await enter_resource(stack, ModelResource(settings.model))

        # Background workers use the resources, so they start after the resources and stop before them.
        relay = await enter_resource(stack, OutboxRelay(database, rabbitmq.connection))
        writer = await enter_resource(stack, ObservationWriter(database, on_stored=relay.notify, event_loop=event_loop))
        views = await enter_resource(stack, ViewPublisher(rabbitmq.connection))
        briefs = await enter_resource(
            stack,
            BriefService(
                http,
                database,
                redis,
                model,
                event_loop,
                on_viewed=views.record,
                timeout=settings.brief_timeout,
            ),
        )

        stack.enter_context(event_loop)
        readiness = Readiness(stack, grace=settings.ready_grace, event_loop=event_loop)
        stack.push_async_callback(readiness.wait_for_checks)  # a check must not use a resource that has been released
        stack.mark_started()
        yield {
            "services": Services(
                http=http,
                database=database,
                redis=redis,
                rabbitmq=rabbitmq,
                model=model,
                sessions=ReadSessions(database, event_loop=event_loop),
                relay=relay,
                writer=writer,
                views=views,
                briefs=briefs,
                readiness=readiness,
                journal=stack.journal,
            )
        }
