"""The journal: the events of one run of a stack, in order, with times."""

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum


class EventType(StrEnum):
    """The events of an entry, and of the stack as a whole."""

    ENTERING = "entering"
    ENTERED = "entered"
    ENTER_FAILED = "enter failed"
    ENTER_CANCELLED = "enter cancelled"
    CRASHED = "crashed"  # the owner task ended while the entry was active
    EXITING = "exiting"
    EXITED = "exited"
    EXIT_FAILED = "exit failed"
    ABORTED = "aborted"  # released by force: the stop timeout expired, or the shutdown was forced
    ABANDONED = "abandoned"  # the owner task did not end after the abort

    STARTED = "started"
    STOPPING = "stopping"
    STOPPED = "stopped"


_OPENING_EVENTS = {EventType.ENTERING, EventType.EXITING}


@dataclass(frozen=True, slots=True)
class LifecycleEvent:
    """One line of the journal.

    Attributes:
        at: seconds since the start of the journal.
        type: what happened.
        name: the entry, or None for the stack as a whole.
        duration: seconds since the entry's last ENTERING or EXITING, if this event follows one.
        error: the reason, if something failed.
    """

    at: float
    type: EventType
    name: str | None = None
    duration: float | None = None
    error: BaseException | None = None

    def __str__(self) -> str:
        words = [f"{self.at:8.3f} s ", self.type.value, self.name or ""]
        if self.error is not None:
            words.append(f"({format_error(self.error)})")
        return " ".join(filter(None, words))


class Journal:
    """The ordered record of one run of a stack."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        listeners: Iterable[Callable[[LifecycleEvent], object]] = (),
    ) -> None:
        """Start the clock.

        Args:
            clock: returns seconds.
            listeners: called with each event, for example for logging. Their exceptions are printed and ignored.
        """
        self.started_at = datetime.now(UTC)
        self.listeners = list(listeners)
        self._clock = clock
        self._start = clock()
        self._opened: dict[str, float] = {}  # by entry: the time of its last opening event
        self._events: list[LifecycleEvent] = []

    def __iter__(self) -> Iterator[LifecycleEvent]:
        return iter(tuple(self._events))

    def __len__(self) -> int:
        return len(self._events)

    @property
    def now(self) -> float:
        """Seconds since the start of the journal."""
        return self._clock() - self._start

    def record(self, event_type: EventType, name: str | None = None, error: BaseException | None = None) -> None:
        at = self.now
        duration = None
        if name is not None:
            if event_type in _OPENING_EVENTS:
                self._opened[name] = at
            elif name in self._opened:
                duration = at - self._opened[name]
        event = LifecycleEvent(at, event_type, name, duration, error)
        self._events.append(event)
        for listener in tuple(self.listeners):
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - a broken logger must not prevent a release
                traceback.print_exc()


def format_error(error: BaseException) -> str:
    """Format the error in one line: its type and its message."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
