"""The journal: what happened to each entry, in order, with times."""

import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum


class Kind(StrEnum):
    """What can happen to an entry, and to the stack as a whole."""

    ENTERING = "entering"
    ENTERED = "entered"
    ENTER_FAILED = "enter failed"
    ENTER_CANCELLED = "enter cancelled"
    DIED = "died"
    """Its owner ended by itself, while it should have been held."""
    EXITING = "exiting"
    EXITED = "exited"
    EXIT_FAILED = "exit failed"
    ABORTED = "aborted"
    """Let go by force: its deadline had passed, or the stop was forced."""
    ABANDONED = "abandoned"
    """Aborted, and still its task did not end."""

    STARTED = "started"
    STOPPING = "stopping"
    STOPPED = "stopped"


_BEGINNINGS = {Kind.ENTERING, Kind.EXITING}


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the journal."""

    at: float
    """Seconds since the journal began."""
    kind: Kind
    name: str | None = None
    """The entry; None where it happened to the stack as a whole."""
    took: float | None = None
    """Seconds since the entry began to enter or to exit, where this ends it."""
    error: BaseException | None = None

    def __str__(self) -> str:
        words = [f"{self.at:8.3f} s ", self.kind.value, self.name or ""]
        if self.error is not None:
            words.append(f"({describe(self.error)})")
        return " ".join(filter(None, words))


class Journal:
    """The ordered record of one life of a stack."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        listener: Callable[[Event], None] | None = None,
    ) -> None:
        """Begin now. `listener` is told of each event as it is recorded, for logs; if it raises, that is printed and no more."""
        self.began_at = datetime.now(UTC)
        self.listener = listener
        self._clock = clock
        self._began = clock()
        self._begun: dict[str, float] = {}
        self._events: list[Event] = []

    def __iter__(self) -> Iterator[Event]:
        return iter(tuple(self._events))

    def __len__(self) -> int:
        return len(self._events)

    @property
    def now(self) -> float:
        """Seconds since the journal began."""
        return self._clock() - self._began

    def record(self, kind: Kind, name: str | None = None, error: BaseException | None = None) -> None:
        at = self.now
        took = None
        if name is not None:
            if kind in _BEGINNINGS:
                self._begun[name] = at
            elif name in self._begun:
                took = at - self._begun[name]
        event = Event(at, kind, name, took, error)
        self._events.append(event)
        if self.listener is not None:
            try:
                self.listener(event)
            except Exception:  # noqa: BLE001 - what is told to a log must not keep anything from being released
                traceback.print_exc()


def describe(error: BaseException) -> str:
    """The error in one line: its message, behind its type where that says more."""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
