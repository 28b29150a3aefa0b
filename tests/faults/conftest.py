"""The fault lab, the proxies, and the broker's own list of connections."""

import gc
from collections.abc import AsyncIterator, Iterator

import pytest

from gateway.devstack.stack import Devstack
from gateway.settings import Settings
from tests.end_to_end.conftest import empty_database, environment, instance, run, settings
from tests.faults.harness import FaultLab
from tests.support.proxied import ProxiedServers, proxied
from tests.support.waiting import wait_until

__all__ = ["empty_database", "environment", "instance", "run", "settings"]


@pytest.fixture
async def lab(servers: Devstack, settings: Settings) -> AsyncIterator[FaultLab]:
    """The fault lab, for one test: it knows what was open before."""
    lab = FaultLab(servers, settings)
    with lab.loop_errors_collected():
        yield lab


@pytest.fixture
async def proxies(lab: FaultLab) -> AsyncIterator[ProxiedServers]:
    """A proxy in front of each server; the lab connects through them."""
    async with proxied(lab.servers) as proxies:
        lab.connect_through(proxies)
        yield proxies


@pytest.fixture(scope="module")
async def no_broker_leaks(servers: Devstack) -> AsyncIterator[None]:
    """At the end of a file, RabbitMQ lists no connection, channel or consumer. It takes half a second to list them."""
    yield

    async def lists_nothing() -> bool:
        return not any((await servers.rabbitmq.list_client_objects()).values())

    await wait_until(lists_nothing, "RabbitMQ lists no connection, channel or consumer")


@pytest.fixture(scope="module")
def frozen_objects(servers: Devstack) -> Iterator[None]:
    """Exclude what exists before the tests of a file from garbage collection: each leak check collects twice."""
    del servers  # they exist before
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
