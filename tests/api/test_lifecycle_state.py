"""The state of the lifespan, from a journal, health checks and measurements. No test needs a server."""

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from gateway.api.lifecycle_state import LifecycleState, lifecycle_state
from gateway.lifecycle import CheckResult, EventType, Journal
from gateway.lifespan import Services
from gateway.observations.outbox_queries import OutboxCounts
from gateway.readiness import ReadinessStatus
from gateway.resources.base import DegradedError
from gateway.settings import Settings

Events = list[tuple[EventType, str | None]]

STARTED: Events = [(EventType.ENTERING, "one"), (EventType.ENTERED, "one"), (EventType.STARTED, None)]
STOPPING: Events = [*STARTED, (EventType.STOPPING, None), (EventType.EXITING, "one")]


@dataclass
class FakeRelay:
    counts: OutboxCounts | None = None
    dead_letters: int | None = None
    name: str = "relay"


@dataclass
class FakeReadiness:
    last_failures: dict[str, tuple[float, BaseException]] = field(default_factory=dict)


@dataclass
class FakeServices:
    """Replaces the `Services` of the lifespan. It has what the state is made of."""

    journal: Journal
    relay: FakeRelay = field(default_factory=FakeRelay)
    readiness: FakeReadiness = field(default_factory=FakeReadiness)


class Clock:
    """Advances by one second with each call."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        self._now += 1
        return self._now


def journal_of(events: Events, error: BaseException | None = None) -> Journal:
    """Return a journal with an event each second. The last one has the error."""
    journal = Journal(clock=Clock())
    for number, (event_type, name) in enumerate(events, 1):
        journal.record(event_type, name, error if number == len(events) else None)
    return journal


def state_of(services: FakeServices, *checks: CheckResult) -> LifecycleState:
    readiness = ReadinessStatus(ready=True, status="ok", checks=list(checks)) if checks else None
    return lifecycle_state(cast("Services", services), readiness, Settings(), dev_servers=False)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (STARTED[:1], "entering"),
        (STARTED, "active"),
        ([*STARTED[:1], (EventType.ENTER_FAILED, "one")], "failed"),
        ([*STARTED, (EventType.CRASHED, "one")], "crashed"),
        (STOPPING, "exiting"),
        ([*STOPPING, (EventType.EXITED, "one")], "exited"),
        ([*STOPPING, (EventType.EXIT_FAILED, "one")], "failed"),
        ([*STOPPING, (EventType.ABORTED, "one")], "aborted"),
        ([*STOPPING, (EventType.ABORTED, "one"), (EventType.ABANDONED, "one")], "aborted"),
    ],
)
def test_state_of_an_entry(events: Events, expected: str) -> None:
    """The state of an entry is that of its last event."""
    (entry,) = state_of(FakeServices(journal_of(events))).entries

    assert entry.state == expected
    assert entry.took_ms == (None if len(events) == 1 or (expected == "failed" and len(events) == 2) else 1000)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (STARTED[:2], "starting"),
        (STARTED, "started"),
        (STOPPING, "stopping"),
        ([*STOPPING, (EventType.EXITED, "one"), (EventType.STOPPED, None)], "stopped"),
    ],
)
def test_phase(events: Events, expected: str) -> None:
    """The phase is that of the last event of the stack. Without health checks, it is the status as well."""
    state = state_of(FakeServices(journal_of(events)))

    assert (state.phase, state.status) == (expected, expected)


def test_every_event_has_a_state() -> None:
    """Each type of event is one of an entry, with a state, or one of the stack, with a phase."""
    for event_type in EventType:
        name = None if event_type in {EventType.STARTED, EventType.STOPPING, EventType.STOPPED} else "one"
        state_of(FakeServices(journal_of([*STARTED[:1], (event_type, name)])))


def test_last_error() -> None:
    """The last error of an entry is that of the journal or of a health check, whichever is later."""
    services = FakeServices(journal_of([*STARTED, (EventType.CRASHED, "one")], ValueError("in the journal")))
    errors: list[Any] = []
    for at in (1.0, 60.0):
        services.readiness.last_failures = {"one": (at, ConnectionError("in a check"))}
        errors.append(state_of(services).entries[0].last_error)

    assert [error.error for error in errors] == ["ValueError: in the journal", "ConnectionError: in a check"]
    assert [error.at_ms for error in errors] == [4000, 60000]


def test_checks() -> None:
    """The entries have their health checks. During a stop there are none, because they may be older than the stop."""
    check = CheckResult("one", ok=True, duration=0.0015, detail="127.0.0.1:1")
    (running,) = state_of(FakeServices(journal_of(STARTED)), check).entries
    stopping = state_of(FakeServices(journal_of(STOPPING)), check)

    assert running.check is not None
    assert running.check.model_dump() == {"status": "ok", "took_ms": 1.5, "remark": "127.0.0.1:1"}
    assert (stopping.status, stopping.entries[0].check) == ("stopping", None)


@pytest.mark.parametrize(
    ("error", "is_known"), [(None, True), (DegradedError("1 parked"), True), (TimeoutError("no answer"), False)]
)
def test_outbox(error: Exception | None, is_known: bool) -> None:
    """The depth of the outbox is known if the health check of the relay has measured it, even if that found a problem."""
    check = CheckResult("relay", ok=error is None, duration=0.001, error=error)
    services = FakeServices(journal_of(STARTED), FakeRelay(OutboxCounts(3, 2, 1, 4.5), dead_letters=5))
    state = state_of(services, check)

    assert state_of(services).outbox is None
    assert (state.outbox is not None, state.dead_letters) == (is_known, 5 if is_known else None)
    if state.outbox is not None:
        assert state.outbox.model_dump() == {"waiting": 3, "failing": 2, "parked": 1, "oldest_age_s": 4.5}
