"""Supervision: an entry that ends on its own has crashed, and the stack reports it."""

import asyncio

import pytest

from gateway.lifecycle import LifecycleStack, StartError
from tests.lifecycle.fakes import enter, enter_worker, event_sequence, hang


async def test_crash_turns_readiness_off() -> None:
    """A crashed entry sets `failure`, ends readiness, is recorded and does not exit again."""
    crash = asyncio.Event()
    stack = LifecycleStack()
    async with stack:
        await enter(stack, "one")
        await enter_worker(stack, crash)
        stack.mark_started()
        crash.set()
        failure = await stack.failure
        ready = stack.ready
        crashed = {entry.name: entry.crashed for entry in stack.entries}

    assert not ready
    assert crashed == {"one": False, "worker": True}
    assert failure.name == "worker"
    assert isinstance(failure.__cause__, ExceptionGroup)
    assert event_sequence(stack.journal)[-6:] == [
        "started",
        "crashed worker",
        "stopping",
        "exiting one",
        "exited one",
        "stopped",
    ]


async def test_first_crash_is_the_failure() -> None:
    """If several entries crash, `failure` is the first of them."""
    crashes = [asyncio.Event(), asyncio.Event()]
    async with LifecycleStack() as stack:
        for number, crash in enumerate(crashes):
            await enter_worker(stack, crash, name=f"worker {number}")
        stack.mark_started()
        crashes[1].set()
        await stack.failure
        crashes[0].set()
        async with asyncio.timeout(5):
            while event_sequence(stack.journal)[-1] != "crashed worker 0":  # noqa: ASYNC110 - no event reports it
                await asyncio.sleep(0)

    assert (await stack.failure).name == "worker 1"


async def test_crash_while_another_entry_starts() -> None:
    """A crash during the startup ends it at once. The start error names the crashed entry."""
    crash = asyncio.Event()

    async def crash_worker_and_hang() -> None:
        crash.set()
        await hang()

    stack = LifecycleStack()
    with pytest.raises(StartError) as caught:
        async with stack:
            await enter(stack, "one")
            await enter_worker(stack, crash)
            await enter(stack, "three", on_enter=crash_worker_and_hang)

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


async def test_crash_before_mark_started() -> None:
    """`mark_started` raises the start error of an entry that has crashed."""
    crash = asyncio.Event()
    with pytest.raises(StartError, match="worker failed to start: EntryCrashedError"):
        async with LifecycleStack() as stack:
            await enter_worker(stack, crash)
            crash.set()
            await stack.failure
            stack.mark_started()


async def test_crashed_entry_is_not_listed_as_entered() -> None:
    """The `entered` of a start error lists active entries only."""
    crash = asyncio.Event()
    with pytest.raises(StartError) as caught:
        async with LifecycleStack() as stack:
            await enter(stack, "one")
            await enter_worker(stack, crash)
            crash.set()
            await stack.failure
            await enter(stack, "three")

    assert caught.value.entered == ("one",)


async def test_crash_in_the_iteration_of_entering() -> None:
    """An entry that becomes active in the loop iteration of a crash is released, and the startup fails."""
    stack = LifecycleStack()
    owners: list[asyncio.Task[object] | None] = []

    async def remember_owner() -> None:
        owners.append(asyncio.current_task())

    async def crash_the_first() -> None:
        assert owners[0] is not None
        owners[0].cancel()
        await asyncio.sleep(0)

    with pytest.raises(StartError, match="one failed to start: EntryCrashedError"):
        async with stack:
            await enter(stack, "one", on_enter=remember_owner)
            await enter(stack, "two", on_enter=crash_the_first)

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
