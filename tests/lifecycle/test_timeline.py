"""The timeline: the journal as bars."""

import pytest

from gateway.lifecycle import Journal, Kind, spans
from tests.lifecycle.specimen import told


@pytest.fixture
def journal() -> Journal:
    times = iter([0.0, 0.0, 2.0, 2.0, 4.0, 6.0, 8.0])
    journal = Journal(clock=lambda: next(times))
    journal.record(Kind.ENTERING, "redis")
    journal.record(Kind.ENTERED, "redis")
    journal.record(Kind.ENTERING, "model")
    journal.record(Kind.ENTER_FAILED, "model", ValueError("corrupt"))
    journal.record(Kind.EXITING, "redis")
    journal.record(Kind.EXITED, "redis")
    return journal


def test_each_life_has_a_bar_of_what_it_did_when(journal: Journal) -> None:
    assert [(span.name, span.bar(8.0, 8), span.outcome) for span in spans(journal)] == [
        ("redis", "░░████▒▒", "exited"),
        ("model", "  ░░    ", "enter failed: ValueError: corrupt"),
    ]


def test_the_journal_says_how_long_each_step_took(journal: Journal) -> None:
    assert [(str(event.kind), event.took) for event in journal if event.took is not None] == [
        ("entered", 2.0),
        ("enter failed", 2.0),
        ("exited", 2.0),
    ]
    assert told(journal)[0] == "entering redis"
