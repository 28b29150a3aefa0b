"""The caller is cancelled during the teardown: the teardown is finished first, then the cancellation is delivered."""

import asyncio

import pytest

from gateway.lifecycle import LifecycleStack, TeardownError
from gateway.lifecycle.cancellation import finish_despite_cancellation
from tests.lifecycle.fakes import Pause, enter, event_sequence, raise_error


async def test_cancelled_teardown_is_finished_first() -> None:
    """However often the caller is cancelled, every entry exits normally. The first cancellation is delivered."""
    stack = LifecycleStack()
    exiting = Pause()

    async def run() -> None:
        async with stack:
            await enter(stack, "one")
            await enter(stack, "two", on_exit=exiting)

    task = asyncio.create_task(run())
    await exiting.reached.wait()
    for number in range(3):
        task.cancel(number)
        await asyncio.wait({task}, timeout=0.01)
    assert not task.done()
    exiting.resume.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task

    assert caught.value.args == (0,)
    assert event_sequence(stack.journal)[-5:] == ["exiting two", "exited two", "exiting one", "exited one", "stopped"]


async def test_cancellation_carries_teardown_errors() -> None:
    """The `TeardownError` is the cause of the cancellation that the caller sees."""
    exiting = Pause()

    async def fail_after_the_pause() -> None:
        await exiting()
        await raise_error()

    async def run() -> None:
        async with LifecycleStack() as stack:
            await enter(stack, "one", on_exit=fail_after_the_pause)

    task = asyncio.create_task(run())
    await exiting.reached.wait()
    task.cancel()
    await asyncio.sleep(0)
    exiting.resume.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task

    assert isinstance(caught.value.__cause__, TeardownError)


async def test_cancellation_is_delivered_once() -> None:
    """A stack that is exited again does not deliver the cancellation again."""
    exiting = Pause()

    async with LifecycleStack() as stack:
        await enter(stack, "one", on_exit=exiting)
        task = asyncio.create_task(stack.aclose())
        await exiting.reached.wait()
        task.cancel()
        await asyncio.sleep(0)
        exiting.resume.set()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_finish_despite_cancellation_raises_errors() -> None:
    """An error of the coroutine reaches the caller of `finish_despite_cancellation`."""
    with pytest.raises(ValueError, match="broken"):
        await finish_despite_cancellation(raise_error())
