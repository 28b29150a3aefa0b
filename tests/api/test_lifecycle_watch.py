"""The times of a stop in the stream of events. No test needs a server."""

from types import SimpleNamespace
from typing import cast

import pytest

from gateway.api.lifecycle_events import LifecycleWatch, drain_times
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
