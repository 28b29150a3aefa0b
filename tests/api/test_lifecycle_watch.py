"""The end of the stream of events. No test needs a server."""

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from gateway.api.lifecycle_events import LifecycleWatch, drain_times, watch_lifecycle
from gateway.lifecycle import EventType, Journal
from gateway.lifespan import Services
from gateway.settings import Settings


@pytest.mark.parametrize(("events", "drain"), [([EventType.STOPPING], 5), ([EventType.CRASHED, EventType.STOPPING], 0)])
def test_drain_times(events: list[EventType], drain: float) -> None:
    """After a crash there is no drain, because the gateway cannot serve without the entry."""
    journal = Journal()
    for event in events:
        journal.record(event)
    watch = LifecycleWatch(cast("Services", SimpleNamespace(journal=journal)))

    assert drain_times(watch, Settings(drain_seconds=5)) == {"drain_s": drain, "graceful_s": 10}


async def test_disconnect_before_the_exit_status() -> None:
    """A client that disconnects while its stream waits for the exit status leaves it to the other streams."""
    journal = Journal()
    for event in (EventType.STOPPING, EventType.STOPPED):
        journal.record(event)
    services = SimpleNamespace(
        journal=journal,
        relay=SimpleNamespace(name="relay", counts=None, dead_letters=None),
        readiness=SimpleNamespace(last_failures={}),
    )
    exit_status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    watch = LifecycleWatch(cast("Services", services))
    stream = aiter(watch_lifecycle(watch, exit_status, Settings(), dev_servers=False, until="stopped"))
    names = [(await anext(stream)).event for _ in range(4)]
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})

    assert names == ["journal", "journal", "state", "draining"]
    assert waiting.cancelled()
    assert not exit_status.done()
