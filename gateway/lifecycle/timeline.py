"""A timeline: the journal drawn, one bar an entry."""

from dataclasses import dataclass

from gateway.lifecycle.journal import Event, Journal, Kind, describe

_ENTER_FAILURES = {Kind.ENTER_FAILED, Kind.ENTER_CANCELLED}
_EXIT_ENDS = {Kind.EXITED, Kind.EXIT_FAILED, Kind.ABORTED, Kind.DIED}


@dataclass(slots=True)
class Span:
    """The life of one entry: when it began to enter, was entered, began to exit, was released. Seconds, or None."""

    name: str
    entering: float
    entered: float | None = None
    exiting: float | None = None
    exited: float | None = None
    outcome: str = ""
    """The last that happened to it, with the error if there was one."""

    def note(self, event: Event) -> None:
        if event.kind is Kind.ENTERED:
            self.entered = event.at
        elif event.kind in _ENTER_FAILURES:
            self.entered = self.exited = event.at
        elif event.kind is Kind.EXITING:
            self.exiting = event.at
        elif event.kind in _EXIT_ENDS:
            self.exited = event.at
        self.outcome = event.kind.value + (f": {describe(event.error)}" if event.error else "")

    def bar(self, end: float, width: int) -> str:
        """Draw `width` characters for the seconds from 0 to `end`: `░` entering, `█` held, `▒` exiting."""
        scale = width / end if end > 0 else 0
        exited = end if self.exited is None else self.exited
        exiting = exited if self.exiting is None else self.exiting
        entered = exited if self.entered is None else self.entered
        first = min(int(self.entering * scale), width - 1)
        held = max(int(entered * scale), first + 1)  # whatever was begun has a mark, however quick it was
        released = max(int(exiting * scale), held)
        gone = max(int(exited * scale), released)
        return (" " * first + "░" * (held - first) + "█" * (released - held) + "▒" * (gone - released)).ljust(width)


def spans(journal: Journal) -> list[Span]:
    """The lives of the entries, in the order in which they began."""
    lives: list[Span] = []
    current: dict[str, Span] = {}
    for event in journal:
        if event.name is None:
            continue
        if event.kind is Kind.ENTERING:
            current[event.name] = Span(event.name, event.at, outcome=event.kind.value)
            lives.append(current[event.name])
        else:
            current[event.name].note(event)
    return lives
