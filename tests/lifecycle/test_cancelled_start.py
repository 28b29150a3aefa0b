"""A start that is cancelled: everything is given back, and the cancellation is delivered."""

import asyncio

import pytest

from gateway.lifecycle import (
    LifecycleStack,
)
from tests.lifecycle.fakes import enter, event_sequence, fail, hang, swallow_cancellation


async def test_cancelled_while_a_failed_start_is_given_back_it_is_cancelled() -> None:
    stack = LifecycleStack()
    giving_back, go_on = asyncio.Event(), asyncio.Event()

    async def give_back() -> None:
        giving_back.set()
        await go_on.wait()

    async def start() -> None:
        async with stack:
            await enter(stack, "one", on_enter=hang, on_exit=give_back, start_timeout=0.01)

    task = asyncio.create_task(start())
    await giving_back.wait()
    task.cancel()
    await asyncio.wait({task}, timeout=0.01)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert event_sequence(stack.journal) == ["entering one", "enter failed one", "stopping", "stopped"]


async def test_cancelled_again_while_the_rest_is_given_back_the_first_cancellation_leaves() -> None:
    stack = LifecycleStack()
    entering, closing, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def hang_there() -> None:
        entering.set()
        await hang()

    async def close_slowly() -> None:
        closing.set()
        await go_on.wait()

    async def start() -> None:
        async with stack:
            await enter(stack, "one", on_exit=close_slowly)
            await enter(stack, "two", on_enter=hang_there)

    task = asyncio.create_task(start())
    await entering.wait()
    task.cancel()
    await closing.wait()
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task

    assert caught.value.__notes__ == ["while entering two; entered before it: one"]
    assert event_sequence(stack.journal)[-3:] == ["exiting one", "exited one", "stopped"]


async def test_a_close_of_an_inherited_callback_does_not_hide_the_cancellation() -> None:
    entering = asyncio.Event()

    async def hang_there() -> None:
        entering.set()
        await hang()

    async def start() -> None:
        async with LifecycleStack() as stack:
            stack.push_async_callback(fail)
            await enter(stack, "one", on_enter=hang_there)

    task = asyncio.create_task(start())
    await entering.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task

    assert caught.value.__notes__[-1] == "the teardown was not clean: ValueError: broken"


async def test_a_cancellation_is_delivered_once_everything_is_given_back() -> None:
    stack = LifecycleStack()
    entering = asyncio.Event()

    async def hang_there() -> None:
        entering.set()
        await hang()

    async def start() -> None:
        async with stack:
            await enter(stack, "one")
            await enter(stack, "two", on_enter=hang_there)

    task = asyncio.create_task(start())
    await entering.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task

    assert caught.value.__notes__ == ["while entering two; entered before it: one"]
    assert event_sequence(stack.journal)[2:] == [
        "entering two",
        "enter cancelled two",
        "stopping",
        "exiting one",
        "exited one",
        "stopped",
    ]


async def test_a_resource_that_swallows_the_cancellation_is_released_all_the_same() -> None:
    stack = LifecycleStack()

    async def start() -> None:
        async with stack:
            await enter(stack, "one", on_enter=swallow_cancellation)
            pytest.fail("it was started")

    task = asyncio.create_task(start())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert event_sequence(stack.journal) == ["entering one", "enter cancelled one", "stopping", "stopped"]


async def test_cancelled_in_the_tick_in_which_it_was_entered_it_exits() -> None:
    stack = LifecycleStack()

    async def start() -> None:
        async with stack:
            await enter(stack, "one", on_enter=cancel_the_starter)

    async def cancel_the_starter() -> None:
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
