"""An entry that ends by itself: nothing runs on half a stack."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.lifecycle import (
    LifecycleStack,
    StartError,
)
from tests.lifecycle.fakes import enter, event_sequence, hang


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
        await stack.enter("worker", background(die), start_timeout=1, stop_timeout=1)
        stack.mark_started()
        die.set()
        death = await stack.failure
        ready = stack.ready

    assert not ready
    assert death.name == "worker"
    assert isinstance(death.__cause__, ExceptionGroup)
    assert event_sequence(stack.journal)[-6:] == [
        "started",
        "crashed worker",
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
            await stack.enter("worker", background(die), start_timeout=1, stop_timeout=1)
            await enter(stack, "three", on_enter=kill_the_worker)

    assert caught.value.name == "worker"
    assert stack.journal.now < 2
    assert event_sequence(stack.journal)[4:] == [
        "entering three",
        "crashed worker",
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
            await stack.enter(f"worker {number}", background(event), start_timeout=1, stop_timeout=1)
        stack.mark_started()
        die[1].set()
        await stack.failure
        die[0].set()
        while event_sequence(stack.journal)[-1] != "crashed worker 0":  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)

    assert (await stack.failure).name == "worker 1"


async def test_one_that_died_before_started_fails_the_start() -> None:
    die = asyncio.Event()
    with pytest.raises(StartError, match="worker failed to start: EntryCrashedError"):
        async with LifecycleStack() as stack:
            await stack.enter("worker", background(die), start_timeout=1, stop_timeout=1)
            die.set()
            await stack.failure
            stack.mark_started()


async def test_what_died_was_not_entered_before_what_fails_for_it() -> None:
    die = asyncio.Event()
    with pytest.raises(StartError) as caught:
        async with LifecycleStack() as stack:
            await enter(stack, "one")
            await stack.enter("worker", background(die), start_timeout=1, stop_timeout=1)
            die.set()
            await stack.failure
            await enter(stack, "three")

    assert caught.value.entered == ("one",)


async def test_who_is_entered_in_the_tick_of_a_death_is_released_again() -> None:
    stack = LifecycleStack()

    async def kill_the_first() -> None:
        stack.entries[0]._owner.cancel()
        await asyncio.sleep(0)

    with pytest.raises(StartError, match="one failed to start: EntryCrashedError"):
        async with stack:
            await enter(stack, "one")
            await enter(stack, "two", on_enter=kill_the_first)

    assert event_sequence(stack.journal) == [
        "entering one",
        "entered one",
        "entering two",
        "entered two",
        "crashed one",
        "enter failed two",
        "exiting two",
        "exited two",
        "stopping",
        "stopped",
    ]
