"""The stage for one case: the real servers, and one life of the lifespan at them, all of which must be given back."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

import pytest
from fastapi import FastAPI
from stamina.instrumentation import RetryDetails, get_on_retry_hooks, set_on_retry_hooks

from gateway.app import create_app
from gateway.devstack.server import Server
from gateway.devstack.stack import Devstack
from gateway.lifecycle import Journal, StartError, format_error
from gateway.lifespan import Gateway, lifespan
from gateway.settings import Settings
from tests.end_to_end.running import ORDER, assert_nothing_is_held, until
from tests.faults.proof import assert_given_back
from tests.faults.recording import Record
from tests.faults.report import Phase


@asynccontextmanager
async def living(app: FastAPI) -> AsyncIterator[Gateway]:
    """The lifespan of an app, and what it entered."""
    async with lifespan(app) as state:
        yield state["gateway"]


async def live(app: FastAPI) -> None:
    async with lifespan(app):
        pass


def with_setting(settings: Settings, name: str, **changes: object) -> Settings:
    """The settings with some of one resource's changed, and validated again."""
    group = getattr(settings, name)
    return settings.model_copy(update={name: type(group)(**(dict(group) | changes))})


@contextmanager
def heard_retries() -> Iterator[list[str]]:
    """What the resources meet within the block, and try again after: the gateway's log says "trying again" of each."""
    met: list[str] = []

    def hear(details: RetryDetails) -> None:
        met.append(format_error(details.caused_by))

    before = get_on_retry_hooks()
    set_on_retry_hooks([hear])
    try:
        yield met
    finally:
        set_on_retry_hooks(before)


def server_of(servers: Devstack, name: str) -> Server:
    """The server of a resource."""
    return {
        "http": servers.weather,
        "database": servers.postgresql,
        "redis": servers.redis,
        "rabbitmq": servers.rabbitmq,
    }[name]


class Stage:
    """The servers, and what a start at them comes to. Whatever that is, nothing is held afterwards."""

    def __init__(self, servers: Devstack, settings: Settings, record: Record) -> None:
        self.servers = servers
        self.settings = settings
        self.record = record

    def server(self, name: str) -> Server:
        """The server of a resource."""
        return server_of(self.servers, name)

    async def refused(self, settings: Settings, name: str, fault: str, *, within: float = 5.0) -> StartError:
        """Start in vain, because of the resource `name`; return the error, once all that it must prove is proved."""
        app = create_app(settings)
        began = time.monotonic()
        with pytest.raises(StartError) as caught:
            await live(app)
        assert time.monotonic() - began < within
        assert caught.value.name == name
        assert caught.value.entered == tuple(ORDER[: ORDER.index(name)])
        assert caught.value.teardown is None
        await self.proved(app.state.stack.journal, name, "startup", fault)
        return caught.value

    async def proved(self, journal: Journal, name: str, phase: Phase, fault: str) -> None:
        """See that it was all given back, and record it."""
        assert_given_back(journal, wrong=(name,))
        await assert_nothing_is_held(self.servers, self.settings.instance)
        self.record(name, phase, fault, journal=journal)

    async def lives(self, settings: Settings, name: str, fault: str) -> None:
        """Live a whole life, whose start has to put up with a fault of the resource `name`."""
        app = create_app(settings)
        await live(app)
        await self.proved(app.state.stack.journal, name, "startup", fault)

    async def lives_through(
        self, trouble: AbstractAsyncContextManager[object], settings: Settings, name: str, fault: str, *, meets: str
    ) -> None:
        """Live a whole life, whose start has met the trouble, by its own words, before that is over."""
        app = create_app(settings)

        with heard_retries() as met:

            async def it_has_met_it() -> bool:
                return any(meets in error for error in met)

            async with asyncio.TaskGroup() as group, trouble:
                life = group.create_task(live(app))
                await until(it_has_met_it, f"the start meets {meets!r}, and not {met}", limit=15)
                assert not life.done()
        await self.proved(app.state.stack.journal, name, "startup", fault)
