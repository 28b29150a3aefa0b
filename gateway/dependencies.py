"""What routes ask for: what the lifespan entered, typed, and what belongs to one request."""

from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.lifecycle import Journal
from gateway.lifespan import Services
from gateway.observations.writer import ObservationWriter
from gateway.readiness import Readiness
from gateway.resources.database import is_unavailable
from gateway.resources.model import Model
from gateway.settings import Settings

# Dependencies are coroutines because FastAPI calls plain functions in a thread, which takes longer than all that they do.


class NotStartedError(Exception):
    """A request has come before the lifespan was entered, or the server does not enter it at all."""


class DatabaseUnavailableError(Exception):
    """The database is away, or takes too long."""


def get_services(request: Request) -> Services:
    """What the lifespan entered, for the routes that are asked so often that a dependency would cost too much.

    Raises:
        NotStartedError: it has entered nothing yet.
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


async def get_observation_writer(request: Request) -> ObservationWriter:
    return get_services(request).writer


async def get_session(request: Request) -> AsyncGenerator[AsyncSession]:
    """A database session for this request: its connection is taken at the first statement, and given back at the end.

    It is for reading: each statement stands for itself, so there is no transaction to begin and to roll back.

    Raises:
        DatabaseUnavailableError: while the session was used the database was away, or took too long.
    """
    engine = get_services(request).database.execution_options(isolation_level="AUTOCOMMIT")
    try:
        async with AsyncSession(engine) as session:
            yield session
    except Exception as error:
        if is_unavailable(error):
            raise DatabaseUnavailableError from error
        raise


async def get_settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def is_on_loopback(request: Request) -> bool:
    """Whether nobody but this machine can connect. Which server listens where, only our own says."""
    return bool(getattr(request.app.state, "on_loopback", False))


async def get_request_id(request: Request) -> str:
    """The id of this request: the caller's, or ours (see `api/request_id.py`)."""
    request_id: str = request.scope["request_id"]
    return request_id


JournalDependency = Annotated[Journal, Depends(get_journal)]
ModelDependency = Annotated[Model, Depends(get_model)]
ReadinessDependency = Annotated[Readiness, Depends(get_readiness)]
ObservationWriterDependency = Annotated[ObservationWriter, Depends(get_observation_writer)]
OnLoopback = Annotated[bool, Depends(is_on_loopback)]
SettingsDependency = Annotated[Settings, Depends(get_settings)]
RequestId = Annotated[str, Depends(get_request_id)]
Session = Annotated[AsyncSession, Depends(get_session)]
