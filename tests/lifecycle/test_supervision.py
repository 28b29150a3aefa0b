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
