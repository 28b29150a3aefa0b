"""The caller is cancelled during the startup: everything is released, and the cancellation is delivered."""

import asyncio

import pytest

from gateway.lifecycle import LifecycleStack
from tests.lifecycle.fakes import Pause, enter, event_sequence, hang, raise_error, swallow_cancellation


async def test_cancelled_start_releases_earlier_entries() -> None:
    """The cancellation reaches the caller after everything is released. It names what was entering and what was active."""
    stack = LifecycleStack()
    entering = Pause()

    async def start() -> None:
        async with stack:
            await enter(stack, "one")
            await enter(stack, "two")
            await enter(stack, "three", on_enter=entering)

    task = asyncio.create_task(start())
    await entering.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task

    assert caught.value.__notes__ == ["while entering three; entered before it: one, two"]
    assert event_sequence(stack.journal)[4:] == [
        "entering three",
        "enter cancelled three",
        "stopping",
        "exiting two",
        "exited two",
        "exiting one",
        "exited one",
        "stopped",
    ]


async def test_cancelled_again_during_the_teardown() -> None:
    """If the caller is cancelled again while earlier entries exit, their exit is finished and the first one is delivered."""
    stack = LifecycleStack()
    entering, exiting = Pause(), Pause()

    async def start() -> None:
        async with stack:
            await enter(stack, "one", on_exit=exiting)
            await enter(stack, "two", on_enter=entering)

    task = asyncio.create_task(start())
    await entering.reached.wait()
    task.cancel()
    await exiting.reached.wait()
    task.cancel()
    await asyncio.sleep(0)
    exiting.resume.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task

    assert caught.value.__notes__ == ["while entering two; entered before it: one"]
    assert event_sequence(stack.journal)[-3:] == ["exiting one", "exited one", "stopped"]


async def test_cancelled_during_rollback_of_a_failed_start() -> None:
    """If the caller is cancelled while a failed entry is rolled back, the rollback is finished first."""
    stack = LifecycleStack()
    rollback = Pause()

    async def start() -> None:
        async with stack:
            await enter(stack, "one", on_enter=hang, on_exit=rollback, start_timeout=0.01)

    task = asyncio.create_task(start())
    await rollback.reached.wait()
    task.cancel()
    await asyncio.wait({task}, timeout=0.01)
    assert not task.done()
    rollback.resume.set()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert event_sequence(stack.journal) == ["entering one", "enter failed one", "stopping", "stopped"]


async def test_failing_callback_does_not_hide_cancellation() -> None:
    """A callback that fails during the teardown does not replace the cancellation. Its error is a note on it."""
    entering = Pause()

    async def start() -> None:
        async with LifecycleStack() as stack:
            stack.push_async_callback(raise_error)
            await enter(stack, "one", on_enter=entering)

    task = asyncio.create_task(start())
    await entering.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task

    assert caught.value.__notes__[-1] == "the teardown was not clean: ValueError: broken"


async def test_swallowed_cancellation_ends_the_start() -> None:
    """A resource that swallows the cancellation is released, and the caller is cancelled."""
    stack = LifecycleStack()

    async def start() -> None:
        async with stack:
            await enter(stack, "one", on_enter=swallow_cancellation)
            pytest.fail("the startup went on")

    task = asyncio.create_task(start())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task

    assert caught.value.__notes__ == ["while entering one; entered before it: nothing"]
    assert event_sequence(stack.journal) == ["entering one", "enter cancelled one", "stopping", "stopped"]


async def test_cancelled_in_the_iteration_of_entering() -> None:
    """An entry that becomes active in the loop iteration in which the caller is cancelled exits normally."""
    stack = LifecycleStack()

    async def start() -> None:
        async with stack:
            await enter(stack, "one", on_enter=cancel_caller)

    async def cancel_caller() -> None:
        task.cancel()

    task = asyncio.create_task(start())
    with pytest.raises(asyncio.CancelledError):
        await task

    assert event_sequence(stack.journal) == [
        "entering one",
        "entered one",
        "enter cancelled one",
        "exiting one",
        "exited one",
        "stopping",
        "stopped",
    ]


async def test_rollback_of_an_active_entry_has_a_timeout() -> None:
    """An entry that becomes active in the loop iteration of the cancellation has its stop timeout to exit."""
    stack = LifecycleStack()

    async def start() -> None:
        async with stack:
            await enter(stack, "one", on_enter=cancel_caller, on_exit=hang, stop_timeout=0.01)

    async def cancel_caller() -> None:
        task.cancel()

    task = asyncio.create_task(start())
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, timeout=5)

    assert event_sequence(stack.journal)[3:5] == ["exiting one", "aborted one"]
