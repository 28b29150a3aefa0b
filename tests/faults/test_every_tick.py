"""A cancellation at every iteration of the event loop, in the startup and in the teardown, on real servers.

Whatever the tick: the cancellation arrives, and then nothing is held any more, neither by this process nor by a server.
"""

import asyncio
import os

import pytest

from faultlab import Case, Outcome, cancel_at_every_tick
from gateway.app import create_app
from gateway.devstack.stack import Devstack
from gateway.lifespan import lifespan
from gateway.settings import Settings
from tests.end_to_end.running import held, until


def settings_of(servers: Devstack, name: str) -> Settings:
    return Settings(
        http={"weather_url": servers.weather.url},
        database={"url": servers.postgresql.url},
        redis={"url": servers.redis.url},
        rabbitmq={"url": servers.rabbitmq.url},
        instance=name,
    )


def sweep(servers: Devstack, name: str, phase: str) -> list[Outcome]:
    """Cancel the lifespan at each tick of one phase; every run bears a name of its own, `name` and a number."""

    async def run(case: Case) -> None:
        one = lifespan(create_app(settings_of(servers, f"{name}{case.at}")))
        if phase == "startup":
            with case.armed():
                await one.__aenter__()
            await one.__aexit__(None, None, None)
        else:
            await one.__aenter__()
            with case.armed():
                await one.__aexit__(None, None, None)

    return cancel_at_every_tick(run)


@pytest.mark.parametrize("phase", ["startup", "teardown"])
def test_cancelled_at_any_tick_everything_is_given_back(servers: Devstack, phase: str) -> None:
    name = f"tick-{os.getpid()}-{phase}-"
    outcomes = sweep(servers, name, phase)

    assert [(outcome.at, outcome.left) for outcome in outcomes if outcome.left] == []
    assert [outcome.at for outcome in outcomes if outcome.swallowed] == []

    async def nothing_is_held() -> bool:
        return not await held(servers, name)

    asyncio.run(until(nothing_is_held, "the servers hold nothing of any run"))
