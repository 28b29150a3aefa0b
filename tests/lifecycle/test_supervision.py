"""An entry that ends by itself: nothing runs on half a stack."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.lifecycle import (
    LifecycleStack,
    StartError,
)
from tests.lifecycle.specimen import enter, hang, told


@asynccontextmanager
async def background(die: asyncio.Event) -> AsyncIterator[None]:
    """A worker in a task group: when it raises, the group cancels the owner, and the error leaves the group."""

    async def work() -> None:
        await die.wait()
        raise RuntimeError("the worker broke")

    async with asyncio.TaskGroup() as group:
        task = group.create_task(work())
        yield
        task.cancel()


async def test_an_entry_that_dies_turns_readiness_off_and_says_so() -> None:
    die = asyncio.Event()
    stack = LifecycleStack()
    async with stack:
        await enter(stack, "one")
        await stack.enter("worker", background(die), start=1, stop=1)
        stack.started()
        die.set()
        death = await stack.death
        ready = stack.ready

    assert not ready
    assert death.name == "worker"
    assert isinstance(death.__cause__, ExceptionGroup)
    assert told(stack.journal)[-6:] == [
        "started",
        "died worker",
        "stopping",
        "exiting one",
        "exited one",
        "stopped",
    ]


async def test_one_that_dies_during_the_startup_fails_it() -> None:
    die = asyncio.Event()

    async def kill_the_worker() -> None:
        die.set()
        await hang()

    stack = LifecycleStack()
    with pytest.raises(StartError) as caught:
        async with stack:
            await enter(stack, "one")
            await stack.enter("worker", background(die), start=1, stop=1)
            await enter(stack, "three", on_enter=kill_the_worker)

    assert caught.value.name == "worker"
    assert stack.journal.now < 2
    assert told(stack.journal)[4:] == [
        "entering three",
        "died worker",
        "enter failed three",
        "stopping",
        "exiting one",
        "exited one",
        "stopped",
    ]


async def test_the_first_that_dies_is_the_death() -> None:
    die = [asyncio.Event(), asyncio.Event()]
    async with LifecycleStack() as stack:
        for number, event in enumerate(die):
            await stack.enter(f"worker {number}", background(event), start=1, stop=1)
        stack.started()
        die[1].set()
        await stack.death
        die[0].set()
        while told(stack.journal)[-1] != "died worker 0":  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)

    assert (await stack.death).name == "worker 1"


async def test_one_that_died_before_started_fails_the_start() -> None:
    die = asyncio.Event()
    with pytest.raises(StartError, match="worker failed to start: DiedError"):
        async with LifecycleStack() as stack:
            await stack.enter("worker", background(die), start=1, stop=1)
            die.set()
            await stack.death
            stack.started()


async def test_what_died_was_not_entered_before_what_fails_for_it() -> None:
    die = asyncio.Event()
    with pytest.raises(StartError) as caught:
        async with LifecycleStack() as stack:
            await enter(stack, "one")
            await stack.enter("worker", background(die), start=1, stop=1)
            die.set()
            await stack.death
            await enter(stack, "three")

    assert caught.value.entered == ("one",)


async def test_who_is_entered_in_the_tick_of_a_death_is_released_again() -> None:
    stack = LifecycleStack()

    async def kill_the_first() -> None:
        stack.entries[0]._owner.cancel()
        await asyncio.sleep(0)

    with pytest.raises(StartError, match="one failed to start: DiedError"):
        async with stack:
            await enter(stack, "one")
            await enter(stack, "two", on_enter=kill_the_first)

    assert told(stack.journal) == [
        "entering one",
        "entered one",
        "entering two",
        "entered two",
        "died one",
        "enter failed two",
        "exiting two",
        "exited two",
        "stopping",
        "stopped",
    ]
