"""The deadlines of the startup and of the shutdown as a whole. Most tests move the journal's clock and wait for nothing."""

import asyncio

import pytest

from gateway.lifecycle import Journal, LifecycleStack, StartError, StartTimeoutError, TeardownError
from tests.lifecycle.fakes import enter, event_sequence, hang


async def test_startup_deadline_fails_the_start() -> None:
    """An entry has no more time than is left of the startup. The error names the timeout of the whole startup."""
    clock = [0.0]
    with pytest.raises(StartError) as caught:
        async with (
            asyncio.timeout(2),
            LifecycleStack(startup_timeout=60, journal=Journal(clock=lambda: clock[0])) as stack,
        ):
            await enter(stack, "one")
            clock[0] = 59.99
            await enter(stack, "two", on_enter=hang, start_timeout=60)

    assert isinstance(caught.value.__cause__, StartTimeoutError)
    assert caught.value.__cause__.__notes__ == ["the timeout of the whole startup is 60 s"]
    assert event_sequence(stack.journal)[-3:] == ["exiting one", "exited one", "stopped"]


async def test_start_timeout_does_not_mention_the_startup() -> None:
    """The error of an entry that exceeds its own timeout does not name the timeout of the whole startup."""
    with pytest.raises(StartError) as caught:
        async with LifecycleStack(startup_timeout=60) as stack:
            await enter(stack, "one", on_enter=hang, start_timeout=0.01)

    assert not hasattr(caught.value.__cause__, "__notes__")


async def test_startup_deadline_is_shared_by_all_entries() -> None:
    """The startup timeout counts from the creation of the stack, not of the journal, and for all entries together."""
    clock = [100.0]
    journal = Journal(clock=lambda: clock[0])
    clock[0] = 200
    with pytest.raises(StartError, match=r"not entered within 0 s \(entered before it: one\)"):
        async with asyncio.timeout(2), LifecycleStack(startup_timeout=60, journal=journal) as stack:
            clock[0] = 259
            await enter(stack, "one", on_enter=lambda: asyncio.sleep(0.01))
            clock[0] = 261
            await enter(stack, "two", on_enter=hang, start_timeout=60)


async def test_startup_deadline_ends_with_the_startup() -> None:
    """An entry that is entered after `mark_started` has its own timeout only."""
    clock = [0.0]
    async with LifecycleStack(startup_timeout=60, journal=Journal(clock=lambda: clock[0])) as stack:
        stack.mark_started()
        clock[0] = 61
        assert await enter(stack, "late", on_enter=lambda: asyncio.sleep(0.01)) == "the late"


async def test_rollback_is_bounded_by_the_shutdown_timeout() -> None:
    """The rollback of a failed start takes no longer than the timeout of the whole shutdown."""
    with pytest.raises(StartError):
        async with LifecycleStack(shutdown_timeout=0.05) as stack:
            await enter(stack, "one", on_enter=hang, on_exit=hang, start_timeout=0.01)

    assert stack.journal.now < 2


async def test_shutdown_deadline_aborts_entry_after_entry() -> None:
    """After the shutdown deadline each remaining entry still begins to exit, and is aborted soon after."""
    stack = LifecycleStack(shutdown_timeout=0.05)
    with pytest.raises(TeardownError):
        async with stack:
            for name in ("one", "two", "three"):
                await enter(stack, name, on_exit=hang)

    assert event_sequence(stack.journal)[-7:-1] == [
        "exiting three",
        "aborted three",
        "exiting two",
        "aborted two",
        "exiting one",
        "aborted one",
    ]
    assert stack.journal.now < 1.5


async def test_quick_exit_succeeds_after_the_deadline() -> None:
    """After the shutdown deadline an entry has a moment to exit: one that needs a few loop iterations is not aborted."""

    async def take_a_few_iterations() -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    clock = [0.0]
    stack = LifecycleStack(shutdown_timeout=60, journal=Journal(clock=lambda: clock[0]))
    async with stack:
        await enter(stack, "one", on_exit=take_a_few_iterations)
        stack.begin_shutdown()
        clock[0] = 61

    assert event_sequence(stack.journal)[-3:] == ["exiting one", "exited one", "stopped"]


async def test_shutdown_timeout_counts_from_begin_shutdown() -> None:
    """Time between `begin_shutdown` and the exit of the stack, such as the drain, counts."""
    clock = [0.0]
    stack = LifecycleStack(shutdown_timeout=60, journal=Journal(clock=lambda: clock[0]))
    with pytest.raises(TeardownError):
        async with asyncio.timeout(10), stack:
            await enter(stack, "one", on_exit=hang, stop_timeout=60)
            stack.mark_started()
            stack.begin_shutdown()
            clock[0] = 60

    assert event_sequence(stack.journal)[-2:] == ["aborted one", "stopped"]


async def test_shutdown_timeout_does_not_count_the_run() -> None:
    """Without `begin_shutdown` the timeout counts from the exit of the stack, however long the run was."""
    clock = [0.0]
    async with LifecycleStack(shutdown_timeout=10, journal=Journal(clock=lambda: clock[0])) as stack:
        await enter(stack, "one", on_exit=lambda: asyncio.sleep(0.1))
        stack.mark_started()
        clock[0] = 3600

    assert event_sequence(stack.journal)[-3:] == ["exiting one", "exited one", "stopped"]
