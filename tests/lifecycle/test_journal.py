"""The journal: its listeners, its iterator, its durations and the format of errors."""

import asyncio
from datetime import UTC, datetime

import pytest

from gateway.lifecycle import (
    EventType,
    Journal,
    LifecycleEvent,
    LifecycleStack,
    StartError,
    StopTimeoutError,
    TeardownError,
    format_error,
)
from tests.lifecycle.fakes import enter, enter_worker, hang, raise_error


async def test_listener_receives_each_event() -> None:
    """The listener is called with each event as it is recorded."""
    received: list[LifecycleEvent] = []
    async with LifecycleStack(journal=Journal(listeners=[received.append])) as stack:
        await enter(stack, "one")
        assert received == list(stack.journal) != []


@pytest.mark.parametrize("event_type", list(EventType))
async def test_failing_listener_prevents_no_release(event_type: EventType) -> None:
    """A listener that raises at any event does not prevent the release of an entry."""
    released: list[str] = []

    def listener(event: LifecycleEvent) -> None:
        if event.type is event_type:
            raise RuntimeError("the log is full")

    async def release() -> None:
        released.append("one")

    async with LifecycleStack(journal=Journal(listeners=[listener])) as stack:
        await enter(stack, "one", on_exit=release)
        stack.mark_started()

    assert released == ["one"]


async def test_failing_listener_precedes_another() -> None:
    """A listener that raises does not hide the event from the listeners after it. One may remove itself."""
    received: list[EventType] = []

    def fail(_event: LifecycleEvent) -> None:
        journal.listeners.remove(fail)
        raise RuntimeError("the log is full")

    journal = Journal(listeners=[fail, lambda event: received.append(event.type)])
    journal.record(EventType.STARTED)
    journal.record(EventType.STOPPING)

    assert received == [EventType.STARTED, EventType.STOPPING]


async def test_error_of_listener_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """The traceback of a listener's error goes to standard error."""

    def listener(_event: LifecycleEvent) -> None:
        raise RuntimeError("the log is full")

    async with LifecycleStack(journal=Journal(listeners=[listener])):
        pass

    assert "the log is full" in capsys.readouterr().err


async def test_failures_are_recorded_with_their_error() -> None:
    """The events of a failed start, a crash, a failed exit and an abort have the error as their reason."""
    crash = asyncio.Event()
    stack = LifecycleStack()
    with pytest.raises(TeardownError):
        async with stack:
            await enter(stack, "one", on_exit=raise_error)
            await enter(stack, "two", on_exit=hang, stop_timeout=0.01)
            with pytest.raises(StartError):
                await enter(stack, "three", on_enter=raise_error)
            await enter_worker(stack, crash)
            crash.set()
            await stack.failure

    assert [(event.type, event.name, type(event.error)) for event in stack.journal if event.error is not None] == [
        (EventType.ENTER_FAILED, "three", ValueError),
        (EventType.CRASHED, "worker", ExceptionGroup),
        (EventType.ABORTED, "two", StopTimeoutError),
        (EventType.EXIT_FAILED, "one", ValueError),
    ]


def test_event_is_one_line_of_text() -> None:
    """The text of an event has its time, its type, and its name and error if there are any."""
    error = ValueError("broken")

    assert str(LifecycleEvent(1.25, EventType.STARTED)) == "   1.250 s  started"
    assert str(LifecycleEvent(0.5, EventType.ABORTED, "one", error=error)) == (
        "   0.500 s  aborted one (ValueError: broken)"
    )


def test_journal_knows_when_it_started() -> None:
    """`started_at` is the date and time of the start, in UTC."""
    before = datetime.now(UTC)
    journal = Journal()

    assert before <= journal.started_at <= datetime.now(UTC)


async def test_iterator_is_a_snapshot() -> None:
    """An iterator over the journal does not return events that are recorded after it was created."""
    async with LifecycleStack() as stack:
        await enter(stack, "one")
        iterator = iter(stack.journal)
        stack.mark_started()
        types = [event.type for event in iterator]

    assert types == [EventType.ENTERING, EventType.ENTERED]
    assert len(stack.journal) == 7


def test_event_has_the_duration_of_its_step() -> None:
    """An event that ends a step has the time since the step began. Times count from the start of the journal."""
    journal = recorded(
        (100.0, EventType.ENTERING, "redis"),
        (102.0, EventType.ENTERED, "redis"),
        (102.0, EventType.ENTERING, "model"),
        (104.0, EventType.ENTER_FAILED, "model"),
        (106.0, EventType.EXITING, "redis"),
        (108.0, EventType.EXITED, "redis"),
    )

    assert [(event.type, event.at, event.duration) for event in journal] == [
        (EventType.ENTERING, 0.0, None),
        (EventType.ENTERED, 2.0, 2.0),
        (EventType.ENTERING, 2.0, None),
        (EventType.ENTER_FAILED, 4.0, 2.0),
        (EventType.EXITING, 6.0, None),
        (EventType.EXITED, 8.0, 2.0),
    ]


def recorded(*events: tuple[float, EventType, str]) -> Journal:
    """A journal that starts at 100 s and has the given events, each as (clock, type, name)."""
    clock = [100.0]
    journal = Journal(clock=lambda: clock[0])
    for clock[0], event_type, name in events:
        journal.record(event_type, name)
    return journal


def test_format_error_is_one_line() -> None:
    """Line breaks and indentation in a message become single spaces. An error without a message is its type."""
    assert format_error(ValueError("this\n  and that")) == "ValueError: this and that"
    assert format_error(ValueError()) == "ValueError"
