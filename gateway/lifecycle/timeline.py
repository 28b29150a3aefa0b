"""A timeline: the journal drawn with one bar for each entry."""

from collections.abc import Iterable
from dataclasses import dataclass

from .journal import EventType, LifecycleEvent, format_error

_ENTER_FAILURES = {EventType.ENTER_FAILED, EventType.ENTER_CANCELLED}
_EXIT_EVENTS = {EventType.EXITED, EventType.EXIT_FAILED, EventType.ABORTED, EventType.CRASHED}


@dataclass(slots=True)
class Span:
    """One entry in time: when it began to enter, was entered (or failed to), began to exit and had exited.

    Times are seconds since the start of the journal, or None. `outcome` is the entry's last event, with its error.
    """

    name: str
    entering: float
    entered: float | None = None
    exiting: float | None = None
    exited: float | None = None
    outcome: str = ""

    def apply(self, event: LifecycleEvent) -> None:
        if event.type is EventType.ENTERED:
            self.entered = event.at
        elif event.type in _ENTER_FAILURES:
            self.entered = self.exited = event.at
        elif event.type is EventType.EXITING:
            self.exiting = event.at
        elif event.type in _EXIT_EVENTS:
            self.exited = event.at
        self.outcome = event.type.value + (f": {format_error(event.error)}" if event.error else "")

    def bar(self, end: float, width: int) -> str:
        """Draw `width` characters for the seconds from 0 to `end`: `░` entering, `█` active, `▒` exiting."""
        scale = width / end if end > 0 else 0
        exited = end if self.exited is None else self.exited
        exiting = exited if self.exiting is None else self.exiting
        entered = exited if self.entered is None else self.entered
        first = min(int(self.entering * scale), width - 1)
        active = max(int(entered * scale), first + 1)  # at least one character, however short the step was
        closing = max(int(exiting * scale), active)
        closed = max(int(exited * scale), closing)
        return (" " * first + "░" * (active - first) + "█" * (closing - active) + "▒" * (closed - closing)).ljust(width)


def spans(journal: Iterable[LifecycleEvent]) -> list[Span]:
    """Return a span for each entry, in the order in which they began to enter."""
    found: list[Span] = []
    current: dict[str, Span] = {}
    for event in journal:
        if event.name is None:
            continue
        if event.type is EventType.ENTERING:
            current[event.name] = Span(event.name, event.at, outcome=event.type.value)
            found.append(current[event.name])
        else:
            current[event.name].apply(event)
    return found
