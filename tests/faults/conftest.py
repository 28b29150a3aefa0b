"""A gateway in front of the real servers, in this process or as one of its own, as the end-to-end tests have it."""

from collections.abc import AsyncIterator

import pytest

from gateway.devstack.stack import Devstack
from gateway.settings import Settings
from tests.end_to_end.conftest import empty_database, environment, instance, run, settings
from tests.faults.reporting import Record
from tests.faults.stage import Stage

__all__ = ["empty_database", "environment", "instance", "run", "settings"]


@pytest.fixture
def stage(servers: Devstack, settings: Settings, record: Record) -> Stage:
    return Stage(servers, settings, record)


@pytest.fixture(scope="module")
async def census(servers: Devstack) -> AsyncIterator[None]:
    """The broker's own list, once for all cases of a file: no connection, channel or consumer is left of any."""
    yield
    assert await servers.rabbitmq.census() == {"connections": [], "channels": [], "consumers": []}
