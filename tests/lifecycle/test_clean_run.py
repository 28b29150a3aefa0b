"""The stack when all goes well: what is entered is exited, in reverse. Every journal is exact."""

import asyncio
from contextlib import AsyncExitStack, suppress

import pytest

from gateway.lifecycle import (
    EventType,
    Journal,
    LifecycleEvent,
    LifecycleStack,
    Phase,
)
from tests.lifecycle.fakes import enter, event_sequence, fake_resource

NAMES = ["one", "two", "three"]


async def test_what_is_entered_is_exited_in_reverse() -> None:
    async with LifecycleStack() as stack:
        values = [await enter(stack, name) for name in NAMES]
        stack.mark_started()

    assert values == ["the one", "the two", "the three"]
    assert event_sequence(stack.journal) == [
        "entering one",
        "entered one",
        "entering two",
        "entered two",
        "entering three",
        "entered three",
        "started",
        "stopping",
        "exiting three",
        "exited three",
        "exiting two",
        "exited two",
        "exiting one",
        "exited one",
        "stopped",
    ]


async def test_a_listener_is_told_of_each_event_as_it_happens() -> None:
    heard: list[LifecycleEvent] = []
    async with LifecycleStack(journal=Journal(listener=heard.append)) as stack:
        await enter(stack, "one")
        assert heard == list(stack.journal) != []


async def test_it_is_an_exit_stack_whose_own_methods_share_the_order() -> None:
    order: list[str] = []

    async def note(text: str) -> None:
        order.append(text)

    async with LifecycleStack() as stack:
        assert isinstance(stack, AsyncExitStack)
        await enter(stack, "first", on_exit=lambda: note("first"))
        stack.push_async_callback(note, "second")
        await stack.enter_async_context(fake_resource(on_exit=lambda: note("third")))
        await enter(stack, "fourth", on_exit=lambda: note("fourth"))

    assert order == ["fourth", "third", "second", "first"]


async def test_a_resource_is_entered_and_exited_by_one_task() -> None:
    tasks: list[asyncio.Task[object] | None] = []

    async def note() -> None:
        tasks.append(asyncio.current_task())

    async with LifecycleStack() as stack:
        await enter(stack, "one", on_enter=note, on_exit=note)

    assert tasks[0] is tasks[1]
    assert tasks[0] is not asyncio.current_task()


async def test_ready_is_from_started_to_the_begin_of_the_stop() -> None:
    async with LifecycleStack() as stack:
        before = stack.ready
        stack.mark_started()
        serving = stack.ready
        stack.begin_shutdown()
        draining = stack.ready

    assert (before, serving, draining, stack.ready) == (False, True, False, False)
    assert stack.phase is Phase.STOPPED


async def test_a_stop_that_was_asked_for_during_the_startup_is_not_forgotten() -> None:
    async with LifecycleStack() as stack:
        stack.begin_shutdown()
        stack.mark_started()
        ready = stack.ready

    assert not ready
    assert event_sequence(stack.journal) == ["stopping", "stopped"]


async def test_a_clean_exit_drops_no_transports() -> None:
    aborted: list[str] = []
    async with LifecycleStack() as stack:
        await enter(stack, "one", on_exit=lambda: asyncio.sleep(0), abort=lambda: aborted.append("one"))

    assert aborted == []


async def test_the_deadline_of_the_stop_counts_from_its_begin() -> None:
    clock = [0.0]
    async with LifecycleStack(shutdown_timeout=1, journal=Journal(clock=lambda: clock[0])) as stack:
        await enter(stack, "one", on_exit=lambda: asyncio.sleep(0.1))
        stack.mark_started()
        clock[0] = 3600

    assert event_sequence(stack.journal)[-3:] == ["exiting one", "exited one", "stopped"]


@pytest.mark.parametrize("kind", list(EventType))
async def test_a_listener_that_raises_keeps_nothing_from_being_released(kind: EventType) -> None:
    released: list[str] = []

    def listen(event: LifecycleEvent) -> None:
        if event.type is kind:
            raise RuntimeError("the log is full")

    async def release() -> None:
        released.append("one")

    async with LifecycleStack(journal=Journal(listener=listen)) as stack:
        await enter(stack, "one", on_exit=release)
        stack.mark_started()

    assert released == ["one"]


async def test_that_a_listener_raised_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    def listen(_event: LifecycleEvent) -> None:
        raise RuntimeError("the log is full")

    async with LifecycleStack(journal=Journal(listener=listen)):
        pass

    assert "the log is full" in capsys.readouterr().err


async def test_who_reads_the_journal_does_not_see_it_grow() -> None:
    async with LifecycleStack() as stack:
        await enter(stack, "one")
        reading = iter(stack.journal)
        stack.mark_started()
        read = [event.type for event in reading]

    assert read == [EventType.ENTERING, EventType.ENTERED]
    assert len(stack.journal) == 7


async def test_a_name_is_entered_once_and_nothing_after_the_end() -> None:
    async with LifecycleStack() as stack:
        await enter(stack, "one")
        with pytest.raises(RuntimeError, match="one cannot be entered"):
            await enter(stack, "one")
        stack.begin_shutdown()
        with pytest.raises(RuntimeError, match="two cannot be entered"):
            await enter(stack, "two")
    with pytest.raises(RuntimeError, match="two cannot be entered"):
        await enter(stack, "two")


async def test_an_inherited_manager_may_suppress_what_the_body_raises() -> None:
    async with LifecycleStack() as stack:
        await enter(stack, "one")
        stack.enter_context(suppress(KeyError))
        raise KeyError

    assert event_sequence(stack.journal)[-2:] == ["exited one", "stopped"]


async def test_pop_all_is_not_supported() -> None:
    """Journal, deadlines and owner tasks belong to one stack: the entries cannot move to another one."""
    async with LifecycleStack() as stack:
        await enter(stack, "one")
        with pytest.raises(NotImplementedError, match="cannot transfer its entries"):
            stack.pop_all()

    assert event_sequence(stack.journal)[-2:] == ["exited one", "stopped"]
