"""What routes ask for: what the lifespan entered, typed, and what belongs to one request."""

from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.lifecycle import Journal
from gateway.lifespan import Gateway
from gateway.observations.reports import Reports
from gateway.readiness import Readiness
from gateway.resources.database import is_away
from gateway.resources.model import Model
from gateway.settings import Settings

# Dependencies are coroutines because FastAPI calls plain functions in a thread, which takes longer than all that they do.


class NotStartedError(Exception):
    """A request has come before the lifespan was entered, or the server does not enter it at all."""


class DatabaseUnavailableError(Exception):
    """The database is away, or takes too long."""


def gateway_of(request: Request) -> Gateway:
    """What the lifespan entered, for the routes that are asked so often that a dependency would cost too much.

    Raises:
        NotStartedError: it has entered nothing yet.
    """
    try:
        gateway: Gateway = request.state.gateway
    except AttributeError:
        raise NotStartedError from None
    return gateway


async def get_model(request: Request) -> Model:
    return gateway_of(request).model


async def get_readiness(request: Request) -> Readiness:
    return gateway_of(request).readiness


async def get_journal(request: Request) -> Journal:
    return gateway_of(request).journal


async def get_reports(request: Request) -> Reports:
    return gateway_of(request).reports


async def get_session(request: Request) -> AsyncGenerator[AsyncSession]:
    """A database session for this request: its connection is taken at the first statement, and given back at the end.

    It is for reading: each statement stands for itself, so there is no transaction to begin and to roll back.

    Raises:
        DatabaseUnavailableError: while the session was used the database was away, or took too long.
    """
    engine = gateway_of(request).database.execution_options(isolation_level="AUTOCOMMIT")
    try:
        async with AsyncSession(engine) as session:
            yield session
    except Exception as error:
        if is_away(error):
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
ReportsDependency = Annotated[Reports, Depends(get_reports)]
OnLoopback = Annotated[bool, Depends(is_on_loopback)]
SettingsDependency = Annotated[Settings, Depends(get_settings)]
RequestId = Annotated[str, Depends(get_request_id)]
Session = Annotated[AsyncSession, Depends(get_session)]
