"""The lifespan's own entries at real servers, each of which can be told to go wrong while it is entered or exited."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from gateway.briefs.briefs import Briefs
from gateway.briefs.views import Views
from gateway.observations.relay import Relay
from gateway.observations.reports import Reports
from gateway.resources.database import DatabaseEngine
from gateway.resources.http import HttpClient
from gateway.resources.model import ModelResource
from gateway.resources.rabbitmq import RabbitMQConnection
from gateway.resources.redis import RedisPool

Step = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Plan:
    """What goes wrong in one life: by the names of the entries."""

    entering: Mapping[str, Step] = field(default_factory=dict)
    """Awaited when the entry holds its resource, and has not been entered yet."""
    exiting: Mapping[str, Step] = field(default_factory=dict)
    """Awaited before the entry gives its resource back."""
    serving: Mapping[str, Step] = field(default_factory=dict)
    """Run beside the entry while it is held, as a background worker is; what it raises ends the entry."""


_plan: ContextVar[Plan] = ContextVar("plan", default=Plan())  # noqa: B039 - it cannot be changed


@contextmanager
def planned(plan: Plan) -> Iterator[None]:
    """Let what is entered within the block go wrong as planned; lives beside it do not notice."""
    token = _plan.set(plan)
    try:
        yield
    finally:
        _plan.reset(token)


def make_breakable(replace: Callable[[object, str, object], object] = setattr) -> None:
    """Let each entry ask the plan. What is around it stays what it is: the real resource, at its real server.

    Args:
        replace: sets an attribute; a test gives one that is taken back in the end.
    """
    for resource in (HttpClient, DatabaseEngine, RedisPool, RabbitMQConnection, ModelResource):
        replace(resource, "open", _breakable(resource.name, resource.open))
    replace(Relay, "open", _breakable("relay", Relay.open))
    replace(Reports, "open", _breakable("reports", Reports.open))
    replace(Views, "open", _breakable("views", Views.open))
    replace(Briefs, "open", _breakable("briefs", Briefs.open))


def _breakable(name: str, open_it: Callable[[Any], AbstractAsyncContextManager[Any]]) -> Callable[[Any], Any]:
    @asynccontextmanager
    async def breakable(self: Any) -> AsyncGenerator[Any]:
        plan = _plan.get()
        async with open_it(self) as value:
            await plan.entering.get(name, nothing)()
            try:
                async with asyncio.TaskGroup() as beside:
                    worker = beside.create_task(plan.serving.get(name, nothing)())
                    yield value
                    worker.cancel()
            finally:
                await plan.exiting.get(name, nothing)()

    return breakable


async def nothing() -> None:
    pass


async def fail() -> None:
    raise ValueError("broken")


async def hang() -> None:
    await asyncio.Event().wait()


async def be_cancelled() -> None:
    """As a library does whose connection is lost: nobody has cancelled this task."""
    raise asyncio.CancelledError
