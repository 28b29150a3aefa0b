"""The dependencies of the routes, typed: the services of the lifespan, and objects that belong to one request."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.lifecycle import Journal
from gateway.lifespan import Services
from gateway.readiness import Readiness
from gateway.resources.database_errors import is_unavailable
from gateway.resources.model import Model
from gateway.settings import Settings
from gateway.telemetry.configuration import Scrape

# All dependencies are coroutines: FastAPI runs plain functions in a thread, which costs more than their work.


class NotStartedError(Exception):
    """A request arrived before the lifespan was entered, or the server does not support the lifespan protocol."""


class DatabaseUnavailableError(Exception):
    """The database is unavailable or too slow, or too many requests use it. Its cause is the reason."""


def get_services(request: Request) -> Services:
    """Return the services of the lifespan.

    The routes of the briefs and of a report call it directly, because a dependency costs 15 µs per request.

    Raises:
        NotStartedError: the lifespan has not yielded yet.
    """
    try:
        services: Services = request.state.services
    except AttributeError:
        raise NotStartedError from None
    return services


async def get_model(request: Request) -> Model:
    return get_services(request).model


async def get_readiness(request: Request) -> Readiness:
    return get_services(request).readiness


async def get_journal(request: Request) -> Journal:
    return get_services(request).journal


async def get_session(request: Request) -> AsyncGenerator[AsyncSession]:
    """Yield a database session for reading, until the route returns.

    Raises:
        DatabaseUnavailableError: the database was unavailable or too slow while the session was used.
    """
    try:
        async with get_services(request).sessions.open() as session:
            yield session
    except Exception as error:
        if is_unavailable(error):
            raise DatabaseUnavailableError from error
        raise


async def get_settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def is_on_loopback(request: Request) -> bool:
    """Return whether only this machine can connect. Only `gateway serve` sets this, so it is false under other servers."""
    return bool(getattr(request.app.state, "on_loopback", False))


async def get_exit_status(request: Request) -> "asyncio.Future[int] | None":
    """Return the future exit status of the process, which only `gateway serve` knows."""
    exit_status: asyncio.Future[int] | None = request.app.state.exit_status
    return exit_status


async def has_dev_servers(request: Request) -> bool:
    """Return whether the app controls private servers, as only that of `gateway dev` does."""
    dev_servers: bool = request.app.state.dev_servers
    return dev_servers


async def get_stream_slots(request: Request) -> asyncio.Semaphore:
    """Return the semaphore that limits the streams of the lifespan's events."""
    slots: asyncio.Semaphore = request.app.state.stream_slots
    return slots


async def get_scrape(request: Request) -> Scrape | None:
    """Return the function that returns the metrics for Prometheus, or None if they are off."""
    scrape: Scrape | None = request.app.state.scrape
    return scrape


async def get_request_id(request: Request) -> str:
    """Return the client's request id or a generated one (see `api/request_id.py`)."""
    request_id: str = request.scope["request_id"]
    return request_id


DevServers = Annotated[bool, Depends(has_dev_servers)]
ExitStatusDependency = Annotated[asyncio.Future[int] | None, Depends(get_exit_status)]
JournalDependency = Annotated[Journal, Depends(get_journal)]
ModelDependency = Annotated[Model, Depends(get_model)]
ReadinessDependency = Annotated[Readiness, Depends(get_readiness)]
OnLoopback = Annotated[bool, Depends(is_on_loopback)]
ScrapeDependency = Annotated[Scrape | None, Depends(get_scrape)]
SettingsDependency = Annotated[Settings, Depends(get_settings)]
StreamSlots = Annotated[asyncio.Semaphore, Depends(get_stream_slots)]
RequestId = Annotated[str, Depends(get_request_id)]
# With the scope of the function, a client that reads its response slowly holds no connection.
Session = Annotated[AsyncSession, Depends(get_session, scope="function")]
