"""The timeline: the journal as one bar for each entry."""

import pytest

from gateway.lifecycle import EventType, Journal, Span, spans


def test_span_is_a_bar_with_an_outcome() -> None:
    """Each entry is one bar of entering, active and exiting time, with its last event and error."""
    times = iter([0.0, 0.0, 2.0, 2.0, 4.0, 6.0, 8.0])
    journal = Journal(clock=lambda: next(times))
    journal.record(EventType.ENTERING, "redis")
    journal.record(EventType.ENTERED, "redis")
    journal.record(EventType.ENTERING, "model")
    journal.record(EventType.ENTER_FAILED, "model", ValueError("corrupt"))
    journal.record(EventType.EXITING, "redis")
    journal.record(EventType.EXITED, "redis")

    assert [(span.name, span.bar(8.0, 16), span.outcome) for span in spans(journal)] == [
        ("redis", "░░░░████████▒▒▒▒", "exited"),
        ("model", "    ░░░░        ", "enter failed: ValueError: corrupt"),
    ]


@pytest.mark.parametrize("end", [EventType.EXITED, EventType.EXIT_FAILED, EventType.ABORTED, EventType.CRASHED])
def test_bar_ends_with_the_release(end: EventType) -> None:
    """The bar ends when the entry exits, fails to exit, is aborted or crashes."""
    assert bar(EventType.ENTERED, end) == "░█      "


@pytest.mark.parametrize("end", [EventType.ENTER_FAILED, EventType.ENTER_CANCELLED])
def test_bar_of_a_failed_start_is_all_entering(end: EventType) -> None:
    """The bar of an entry that never became active has entering time only."""
    assert bar(None, None, end) == "░░░     "


def test_short_steps_are_visible() -> None:
    """An entry has at least one character, at the very end of the run too, and however short it was active."""
    late, quick, short = Span("late", 8, 8, 8, 8), Span("quick", 0, 0, 0, 0), Span("short", 0, 0, 0, 4)

    assert [span.bar(8, 8) for span in (late, quick, short)] == ["       ░", "░       ", "░▒▒▒    "]


def test_unfinished_entries_have_bars_to_the_end() -> None:
    """The bar of an entry that is still entering, or still active, goes on to the end of the timeline."""
    times = iter([0.0, 0.0, 1.0, 2.0])
    journal = Journal(clock=lambda: next(times))
    journal.record(EventType.ENTERING, "redis")
    journal.record(EventType.ENTERED, "redis")
    journal.record(EventType.ENTERING, "model")

    assert [(span.bar(4, 4), span.outcome) for span in spans(journal)] == [("░███", "entered"), ("  ░░", "entering")]


@pytest.mark.parametrize("end", [0, 0.5])
def test_bar_of_a_very_short_run(end: float) -> None:
    """A run of no time, or of less than a second, can be drawn."""
    assert Span("one", 0, 0, 0, end).bar(end, 4) == ("░▒▒▒" if end else "░   ")


def bar(*event_types: EventType | None) -> str:
    """The bar, 8 characters for 8 seconds, of an entry with one event a second. None is an event of the stack."""
    clock = iter([0.0, *(float(second) for second in range(9))])
    journal = Journal(clock=lambda: next(clock))
    journal.record(EventType.ENTERING, "one")
    for event_type in event_types:
        if event_type is None:
            journal.record(EventType.STARTED)
        else:
            journal.record(event_type, "one")
    (span,) = spans(journal)
    return span.bar(8, 8)
