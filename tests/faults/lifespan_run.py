"""One run of the lifespan: what it entered, what it released, how it ended and what it left open."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

import httpx
from fastapi import FastAPI

from faultlab import Outcome
from faultlab.wire import Closed
from gateway.lifecycle import EventType, LifecycleEvent, LifecycleStack, StartError, TeardownError, format_error
from gateway.lifespan import Services, lifespan
from tests.faults.entry_faults import lifespan_task
from tests.support.entries import ENTRIES

_RELEASE_EVENTS = {EventType.EXITED, EventType.EXIT_FAILED, EventType.ABORTED}
_INACTIVE_EVENTS = {*_RELEASE_EVENTS, EventType.CRASHED}


@dataclass
class LifespanRun:
    """One run of the lifespan.

    As a context manager, it adds the injection point and the timeline to the error of a claim that fails in its block.

    Attributes:
        journal: the events of each entry until the end of the run, in order.
        outcome: `finished`, `failed` (see `error`) or `cancelled`.
        error: what the startup or the teardown raised.
        startup_duration: seconds.
        teardown_duration: seconds.
        point: the number of the injection point, from 1, with file, line and function.
        active_entry: the entry that was being entered or released at that point; "all" if there was none.
        injected_at: in a sweep: seconds from the start of the journal to the first injection, or None.
        open_at_injection: the entries that were being entered, active or being released then, the latest first.
        wire: the connections that were closed, in order, if there are proxies.
        duration: after `run()` and in a sweep: seconds from the injection, if there is one, to the end of the run.
        leaks: after `run()` and in a sweep: what the process had open afterwards and not before, and errors that no task
            awaited. An async test calls `lab.leaks()` instead.
        restart: after `run()` and in a sweep: the run that followed at once, without a fault.
        stack: of the app, while the lifespan is active.
        services: what the lifespan yields to the requests.
        client: of the app.
    """

    journal: list[LifecycleEvent] = field(default_factory=list)
    outcome: Literal["finished", "failed", "cancelled"] = "finished"
    error: BaseException | None = None
    startup_duration: float = 0.0
    teardown_duration: float = 0.0
    point: str = ""
    active_entry: str = "all"
    injected_at: float | None = None
    open_at_injection: list[str] = field(default_factory=list)
    wire: list[Closed] = field(default_factory=list)
    duration: float = field(init=False, repr=False)
    leaks: list[str] = field(init=False, repr=False)
    restart: "LifespanRun" = field(init=False, repr=False)
    stack: LifecycleStack = field(init=False, repr=False)
    services: Services = field(init=False, repr=False)
    client: httpx.AsyncClient = field(init=False, repr=False)

    @property
    def started(self) -> bool:
        """Whether the startup was complete."""
        return any(event.type is EventType.STARTED for event in self.journal)

    @property
    def entered(self) -> list[str]:
        """The entries that became active, in order."""
        return self._names(EventType.ENTERED)

    @property
    def released(self) -> list[str]:
        """The active entries that were released, in the order in which that ended. A crashed entry is not among them."""
        entered = self.entered
        return list(dict.fromkeys(name for name in self._names(*_RELEASE_EVENTS) if name in entered))

    @property
    def exited(self) -> list[str]:
        """The entries that exited on their own and without an error, in order."""
        return self._names(EventType.EXITED)

    @property
    def aborted(self) -> list[str]:
        """The entries that were aborted, in order."""
        return self._names(EventType.ABORTED)

    @property
    def unclean(self) -> set[str]:
        """The active entries that were aborted, or whose exit failed."""
        return {*self._names(EventType.ABORTED, EventType.EXIT_FAILED)} & {*self.entered}

    @property
    def start_error(self) -> StartError:
        """The error of the startup, which has to have failed."""
        assert isinstance(self.error, StartError), f"the startup did not fail: {self.error!r}"
        return self.error

    @property
    def teardown_errors(self) -> list[Exception]:
        """The errors of the teardown or of the rollback."""
        group = self.error.teardown if isinstance(self.error, StartError) else self.error
        return list(group.exceptions) if isinstance(group, TeardownError) else []

    @property
    def is_clean(self) -> bool:
        """Whether every entry was entered, and exited without an error in reverse order."""
        return self.outcome == "finished" and self.entered == ENTRIES and self.exited == [*reversed(ENTRIES)]

    def outcome_of(self, entry: str) -> str:
        """Return the last event of an entry: `exited`, `aborted`, `exit failed`, `enter failed`, ..."""
        return [event.type.value for event in self.journal if event.name == entry][-1]

    def outcomes_except(self, entry: str) -> set[str]:
        """Return the last events of all other entries that became active."""
        return {self.outcome_of(name) for name in self.entered if name != entry}

    def timeline(self) -> Iterator[str]:
        """Yield a line for each event of the journal, with the entries that are active after it, and for the wire."""
        active: list[str] = []
        for event in self.journal:
            if event.name is not None and event.type is EventType.ENTERED:
                active.append(event.name)
            elif event.name in active and event.type in _INACTIVE_EVENTS:
                active.remove(event.name)
            error = f"  {format_error(event.error)}" if event.error is not None else ""
            step = f"{event.at * 1000:8.1f} ms  {event.type.value:<15} {event.name or ''}"
            yield f"{step:<40}  active: {' '.join(active) or 'none'}{error}"
        yield from (f"on the wire: {closed}" for closed in self.wire)

    def add(self, outcome: Outcome) -> None:
        """Add what the lab found out about a run in an event loop of its own."""
        self.error, self.leaks, self.duration = outcome.error, outcome.leaked, outcome.duration
        if outcome.error is not None:
            self.outcome = "failed"
        elif outcome.cancelled:
            self.outcome = "cancelled"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note("\n".join([f"injected at {self.point or 'no point'}; {self.error!r}", *self.timeline()]))

    def _names(self, *types: EventType) -> list[str]:
        return [event.name for event in self.journal if event.name and event.type in types]


async def enter_and_exit(app: FastAPI) -> None:
    """Enter and exit the lifespan of the app in the current task, which the hooks of the entries can cancel."""
    task = asyncio.current_task()
    assert task is not None
    lifespan_task.set(task)
    async with lifespan(app):
        pass


def journal_of(app: FastAPI) -> list[LifecycleEvent]:
    """Return the events of a run that has just ended. In each, entries start in order, and `stopped` is the last event.

    It is a copy: an entry that is released later than `stopped` does not count as released.
    """
    if not hasattr(app.state, "stack"):
        return []  # cancelled before the lifespan began
    journal: list[LifecycleEvent] = [*app.state.stack.journal]
    entered = [event.name for event in journal if event.type is EventType.ENTERED]
    assert entered == ENTRIES[: len(entered)]
    assert journal[-1].type is EventType.STOPPED
    return journal


def recorded_event(at: float, event_type: str, name: str | None, error: str | None) -> LifecycleEvent:
    """Return the event of another process or of an earlier run. Its error has the recorded text, and not the original type."""
    type_name, _, message = (error or "").partition(": ")
    exception = type(type_name, (Exception,), {})(message) if error else None
    return LifecycleEvent(at, EventType(event_type), name, error=exception)
