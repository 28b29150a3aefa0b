"""The state of the lifespan at one moment: its entries with their health, and the work that waits for the broker."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from importlib.metadata import version
from typing import Literal, Self

from pydantic import BaseModel, Field

from gateway.api.health import Check, milliseconds
from gateway.lifecycle import CheckResult, EventType, LifecycleEvent, Phase, format_error
from gateway.lifespan import Services
from gateway.observations.outbox_queries import OutboxCounts
from gateway.readiness import ReadinessStatus
from gateway.resources.base import DegradedError
from gateway.settings import Settings

EntryPhase = Literal["entering", "active", "exiting", "exited", "failed", "crashed", "aborted"]

_PHASES: dict[EventType, EntryPhase] = {
    EventType.ENTERING: "entering",
    EventType.ENTERED: "active",
    EventType.ENTER_FAILED: "failed",
    EventType.ENTER_CANCELLED: "failed",
    EventType.CRASHED: "crashed",
    EventType.EXITING: "exiting",
    EventType.EXITED: "exited",
    EventType.EXIT_FAILED: "failed",
    EventType.ABORTED: "aborted",
    EventType.ABANDONED: "aborted",
}


class EntryError(BaseModel):
    at_ms: float = Field(description="Milliseconds since the start of the journal")
    error: str


class EntryState(BaseModel):
    """One entry of the lifespan."""

    name: str
    state: EntryPhase = "entering"
    took_ms: float | None = Field(None, description="The time to enter it, in milliseconds")
    check: Check | None = Field(None, description="The latest health check, or null if it is unknown")
    last_error: EntryError | None = Field(None, description="The latest failed step or health check since the start")

    def apply(self, event: LifecycleEvent) -> None:
        self.state = _PHASES[event.type]
        if event.type is EventType.ENTERED:
            self.took_ms = None if event.duration is None else milliseconds(event.duration)
        if event.error is not None:
            self.record_error(event.at, event.error)

    def record_error(self, at: float, error: BaseException) -> None:
        """Record an error and its time in seconds of the journal, unless there is a later one."""
        if self.last_error is None or self.last_error.at_ms < milliseconds(at):
            self.last_error = EntryError(at_ms=milliseconds(at), error=format_error(error))


class OutboxState(BaseModel):
    """The events that are not published yet."""

    waiting: int
    failing: int
    parked: int
    oldest_age_s: float | None

    @classmethod
    def of(cls, counts: OutboxCounts) -> Self:
        age = None if counts.oldest_age is None else round(counts.oldest_age, 3)
        return cls(waiting=counts.waiting, failing=counts.failing, parked=counts.parked, oldest_age_s=age)


class StopSettings(BaseModel):
    """The times of a stop."""

    drain_s: float
    graceful_s: float
    shutdown_timeout_s: float


class LifecycleState(BaseModel):
    """The state of the lifespan at one moment. A value is null if it is unknown."""

    instance: str
    version: str
    began_at: datetime = Field(description="The start of the journal")
    now_ms: float = Field(description="Milliseconds since then")
    phase: str
    status: str = Field(description="As that of `/readyz`")
    entries: list[EntryState] = Field(description="In the order in which they were entered")
    outbox: OutboxState | None
    dead_letters: int | None
    stop: StopSettings
    brief_timeout_s: float = Field(description="The time for a brief")
    dev_servers: bool = Field(description="True in `gateway dev`, which has private servers at `/dev/servers`")


def lifecycle_state(
    services: Services, readiness: ReadinessStatus | None, settings: Settings, *, dev_servers: bool
) -> LifecycleState:
    """Return the state now.

    Args:
        services: the journal, and the latest measurements of the outbox.
        readiness: the latest health checks, or None if there are none.
        settings: the instance, the times of a stop, and the timeout of a brief.
        dev_servers: whether the app controls private servers.
    """
    journal, relay = services.journal, services.relay
    phase = _phase(journal)
    if phase is not Phase.STARTED:
        readiness = None  # it may be older than the stop
    checks = {check.name: check for check in readiness.checks} if readiness else {}
    is_measured = relay.name in checks and isinstance(checks[relay.name].error, DegradedError | None)
    return LifecycleState(
        instance=settings.instance,
        version=_version(),
        began_at=journal.started_at,
        now_ms=milliseconds(journal.now),
        phase=phase,
        status=phase if readiness is None else readiness.status,
        entries=_entries(services, checks),
        outbox=OutboxState.of(relay.counts) if is_measured and relay.counts else None,
        dead_letters=relay.dead_letters if is_measured else None,
        stop=StopSettings(
            drain_s=settings.drain_seconds,
            graceful_s=settings.graceful_seconds,
            shutdown_timeout_s=settings.shutdown_timeout,
        ),
        brief_timeout_s=settings.brief_timeout,
        dev_servers=dev_servers,
    )


@cache
def _version() -> str:
    return version("gateway")  # reads a file


def _phase(journal: Iterable[LifecycleEvent]) -> Phase:
    phase = Phase.STARTING
    for event in journal:
        if event.name is None:  # an event of the stack, which has the name of the phase that it begins
            phase = Phase(event.type)
    return phase


def _entries(services: Services, checks: Mapping[str, CheckResult]) -> list[EntryState]:
    entries: dict[str, EntryState] = {}
    for event in services.journal:
        if event.name is not None:
            entries.setdefault(event.name, EntryState(name=event.name)).apply(event)
    for name, entry in entries.items():
        if name in checks:
            entry.check = Check.of(checks[name])
        if failure := services.readiness.last_failures.get(name):
            entry.record_error(*failure)
    return list(entries.values())
