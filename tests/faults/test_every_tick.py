"""A cancellation at every iteration of the event loop, in the startup and in the teardown, on real servers.

Whatever the tick: the cancellation arrives, and then nothing is held any more, neither by this process nor by a server.
"""

import asyncio
import math
import os

import pytest

from faultlab import Case, Outcome, cancel_at_every_tick
from gateway.app import create_app
from gateway.devstack.stack import Devstack
from gateway.lifespan import lifespan
from gateway.settings import Settings
from tests.end_to_end.running import held, until

FEWEST = {"startup": 80, "teardown": 40}
"""Ticks. On Python 3.11 it was 106 and 67 at first; counts differ from run to run, and less than this means that the sweep misses
something."""


def settings_of(servers: Devstack, name: str) -> Settings:
    return Settings(
        http={"weather_url": servers.weather.url},
        database={"url": servers.postgresql.url},
        redis={"url": servers.redis.url},
        rabbitmq={"url": servers.rabbitmq.url},
        instance=name,
    )


def sweep(servers: Devstack, name: str, phase: str, again: float) -> list[Outcome]:
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

    return cancel_at_every_tick(run, again=again)


@pytest.mark.parametrize("phase", ["startup", "teardown"])
@pytest.mark.parametrize(
    "again",
    [
        pytest.param(0, id="once"),
        pytest.param(1, id="twice", marks=pytest.mark.long),
        pytest.param(math.inf, id="at every later tick", marks=pytest.mark.long),
    ],
)
def test_cancelled_at_any_tick_everything_is_given_back(servers: Devstack, phase: str, again: float) -> None:
    name = f"tick-{os.getpid()}-{phase}-{again}-"
    outcomes = sweep(servers, name, phase, again)
    assert len(outcomes) > FEWEST[phase], "fewer points than ever before: explain that before you trust it"

    assert [(outcome.at, outcome.left) for outcome in outcomes if outcome.left] == []
    assert [outcome.at for outcome in outcomes if outcome.swallowed] == []

    async def nothing_is_held() -> bool:
        return not await held(servers, name)

    asyncio.run(until(nothing_is_held, "the servers hold nothing of any run"))
