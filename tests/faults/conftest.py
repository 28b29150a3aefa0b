"""A gateway in front of the real servers, in this process or as one of its own, as the end-to-end tests have it."""

from collections.abc import AsyncIterator

import pytest

from faultlab import ResourceSnapshot
from gateway.devstack.stack import Devstack
from gateway.settings import Settings
from tests.end_to_end.conftest import empty_database, environment, instance, run, settings
from tests.end_to_end.running import assert_nothing_is_left, until
from tests.faults.recording import Record
from tests.faults.stage import Stage

__all__ = ["empty_database", "environment", "instance", "run", "settings"]


@pytest.fixture
async def stage(servers: Devstack, settings: Settings, record: Record) -> AsyncIterator[Stage]:
    """The servers, and a ledger: in the end this process holds what it held before."""
    before = ResourceSnapshot.take()
    yield Stage(servers, settings, record)
    await assert_nothing_is_left(before)


@pytest.fixture(scope="module")
async def census(servers: Devstack) -> AsyncIterator[None]:
    """The broker's own list, once for all cases of a file: no connection, channel or consumer is left of any."""
    yield

    async def nobody() -> bool:
        return not any((await servers.rabbitmq.census()).values())

    await until(nobody, "the broker lists nothing")
