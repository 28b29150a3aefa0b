"""The timeline: the journal as bars."""

import pytest

from gateway.lifecycle import EventType, Journal, Span, format_error, spans
from tests.lifecycle.fakes import event_sequence


@pytest.fixture
def journal() -> Journal:
    times = iter([0.0, 0.0, 2.0, 2.0, 4.0, 6.0, 8.0])
    journal = Journal(clock=lambda: next(times))
    journal.record(EventType.ENTERING, "redis")
    journal.record(EventType.ENTERED, "redis")
    journal.record(EventType.ENTERING, "model")
    journal.record(EventType.ENTER_FAILED, "model", ValueError("corrupt"))
    journal.record(EventType.EXITING, "redis")
    journal.record(EventType.EXITED, "redis")
    return journal


def test_each_life_has_a_bar_of_what_it_did_when(journal: Journal) -> None:
    assert [(span.name, span.bar(8.0, 8), span.outcome) for span in spans(journal)] == [
        ("redis", "░░████▒▒", "exited"),
        ("model", "  ░░    ", "enter failed: ValueError: corrupt"),
    ]


def test_the_journal_says_how_long_each_step_took(journal: Journal) -> None:
    assert [(str(event.type), event.duration) for event in journal if event.duration is not None] == [
        ("entered", 2.0),
        ("enter failed", 2.0),
        ("exited", 2.0),
    ]
    assert event_sequence(journal)[0] == "entering redis"


@pytest.mark.parametrize("end", [EventType.EXITED, EventType.EXIT_FAILED, EventType.ABORTED, EventType.CRASHED])
def test_a_life_ends_with_whatever_released_it(end: EventType) -> None:
    assert bar(EventType.ENTERED, end) == "░█      "


@pytest.mark.parametrize("end", [EventType.ENTER_FAILED, EventType.ENTER_CANCELLED])
def test_a_life_that_did_not_begin_is_all_start(end: EventType) -> None:
    assert bar(None, None, end) == "░░░     "


def test_whatever_began_has_a_mark_however_late_and_quick_it_was() -> None:
    late, quick, hardly_held = Span("late", 8, 8, 8, 8), Span("quick", 0, 0, 0, 0), Span("hardly held", 0, 0, 0, 4)

    assert [span.bar(8, 8) for span in (late, quick, hardly_held)] == ["       ░", "░       ", "░▒▒▒    "]


def bar(*kinds: EventType | None) -> str:
    """The bar, 8 characters for 8 seconds, of an entry to which each second one of these happens; None is something else."""
    clock = iter([0.0, *(float(second) for second in range(9))])
    journal = Journal(clock=lambda: next(clock))
    journal.record(EventType.ENTERING, "one")
    for kind in kinds:
        if kind is None:
            journal.record(EventType.STARTED)
        else:
            journal.record(kind, "one")
    (span,) = spans(journal)
    return span.bar(8, 8)


def test_an_error_of_several_lines_is_told_in_one() -> None:
    assert format_error(ValueError("this\n  and that")) == "ValueError: this and that"
