"""A forced shutdown: `LifecycleStack.abort` aborts every entry at once."""

import asyncio
from functools import partial

import pytest

from gateway.lifecycle import ForcedShutdownError, LifecycleStack, StartError, TeardownError
from tests.lifecycle.fakes import Pause, enter, event_sequence, hang, ignore_cancellations


async def test_abort_releases_all_entries_at_once() -> None:
    """All entries are aborted before `abort` returns, the last one first, and the stack is no longer ready."""
    aborted: list[str] = []
    stack = LifecycleStack()
    exiting = Pause()

    async def run() -> None:
        async with stack:
            for name in ("one", "two", "three"):
                await enter(stack, name, on_exit=exiting, abort=partial(aborted.append, name))

    task = asyncio.create_task(run())
    await exiting.reached.wait()
    stack.mark_started()
    stack.abort()
    assert aborted == ["three", "two", "one"]
    assert not stack.ready
    with pytest.raises(TeardownError) as caught:
        await task

    assert [repr(error) for error in caught.value.exceptions] == ["ForcedShutdownError('the shutdown was forced')"] * 3
    assert event_sequence(stack.journal)[-4:] == ["aborted three", "aborted two", "aborted one", "stopped"]
    assert stack.journal.now < 1


async def test_abort_skips_entries_that_have_exited() -> None:
    """Only entries that have not exited are aborted."""
    stack = LifecycleStack()
    exiting = Pause()

    async def run() -> None:
        async with stack:
            await enter(stack, "one", on_exit=exiting)
            await enter(stack, "two")

    task = asyncio.create_task(run())
    await exiting.reached.wait()
    stack.abort()
    with pytest.raises(TeardownError):
        await task

    assert event_sequence(stack.journal)[-4:] == ["exited two", "exiting one", "aborted one", "stopped"]


async def test_abort_cancels_a_hanging_exit_at_once() -> None:
    """The owner task of a hanging entry is cancelled in the next loop iteration."""
    stack = LifecycleStack()
    exiting = Pause()
    cancelled: list[str] = []

    async def hang_until_cancelled() -> None:
        try:
            await exiting()
        finally:
            cancelled.append("one")

    async def run() -> None:
        async with stack:
            await enter(stack, "one", on_exit=hang_until_cancelled)

    task = asyncio.create_task(run())
    await exiting.reached.wait()
    stack.abort()
    await asyncio.sleep(0)
    assert cancelled == ["one"]
    with pytest.raises(TeardownError):
        await task


async def test_second_abort_changes_nothing(end_of_test: asyncio.Event) -> None:
    """An entry that ignores its cancellation is abandoned after the grace time, aborted once and reported once."""
    stack = LifecycleStack()
    exiting = asyncio.Event()

    async def ignore_cancellation() -> None:
        exiting.set()
        await ignore_cancellations(until=end_of_test)

    async def run() -> None:
        async with stack:
            await enter(stack, "one", on_exit=ignore_cancellation)

    task = asyncio.create_task(run())
    await exiting.wait()
    stack.abort()
    stack.abort()
    with pytest.raises(TeardownError) as caught:
        await task

    assert [type(error) for error in caught.value.exceptions] == [ForcedShutdownError]
    assert event_sequence(stack.journal)[-3:] == ["aborted one", "abandoned one", "stopped"]
    assert stack.journal.now < 2


async def test_abort_during_the_start() -> None:
    """An entry that is entering is aborted as well. Its start error has the reason; the teardown errors are of the others."""
    aborted: list[str] = []
    entering = Pause()
    stack = LifecycleStack()

    async def start() -> None:
        async with stack:
            await enter(stack, "one")
            await enter(stack, "two", on_enter=entering, on_exit=hang, abort=partial(aborted.append, "two"))

    task = asyncio.create_task(start())
    await entering.reached.wait()
    stack.abort()
    with pytest.raises(StartError) as caught:
        await task

    assert isinstance(caught.value.__cause__, ForcedShutdownError)
    assert isinstance(caught.value.teardown, TeardownError)
    assert len(caught.value.teardown.exceptions) == 1  # of "one"
    assert stack.journal.now < 2
    assert set(aborted) == {"two"}
    assert event_sequence(stack.journal)[2:] == [
        "entering two",
        "stopping",
        "aborted two",
        "aborted one",
        "enter failed two",
        "stopped",
    ]


async def test_abort_in_the_iteration_of_entering() -> None:
    """An entry that becomes active in the loop iteration of the abort is aborted, and its start fails."""
    stack = LifecycleStack()

    async def abort_in_next_iteration() -> None:
        asyncio.get_running_loop().call_soon(stack.abort)

    with pytest.raises(StartError) as caught:
        async with stack:
            await enter(stack, "one", on_enter=abort_in_next_iteration)

    assert isinstance(caught.value.__cause__, ForcedShutdownError)
    assert event_sequence(stack.journal) == [
        "entering one",
        "entered one",
        "stopping",
        "aborted one",
        "enter failed one",
        "stopped",
    ]
