"""A start that fails: everything before it is given back, and its own error is the one that leaves."""

import asyncio
import gc
from functools import partial

import pytest

from gateway.lifecycle import (
    EntryCrashedError,
    ForcedShutdownError,
    Journal,
    LifecycleStack,
    StartError,
    StartTimeoutError,
    TeardownError,
)
from tests.lifecycle.fakes import enter, event_sequence, fail, hang


async def test_the_third_of_three_gives_the_first_two_back() -> None:
    stack = LifecycleStack()
    with pytest.raises(StartError) as caught:
        async with stack:
            await enter(stack, "one")
            await enter(stack, "two")
            await enter(stack, "three", on_enter=fail)

    assert (caught.value.name, caught.value.entered) == ("three", ("one", "two"))
    assert str(caught.value) == "three failed to start: ValueError: broken (entered before it: one, two)"
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.teardown is None
    assert event_sequence(stack.journal)[4:] == [
        "entering three",
        "enter failed three",
        "stopping",
        "exiting two",
        "exited two",
        "exiting one",
        "exited one",
        "stopped",
    ]


async def test_the_start_error_leaves_whatever_closes_fail_after_it() -> None:
    stack = LifecycleStack()
    with pytest.raises(StartError) as caught:
        async with stack:
            await enter(stack, "one", on_exit=fail)
            stack.push_async_callback(fail)
            await enter(stack, "two", on_exit=fail)
            await enter(stack, "three", on_enter=fail)

    assert caught.value.name == "three"
    assert isinstance(caught.value.teardown, TeardownError)
    assert [repr(error) for error in caught.value.teardown.exceptions] == ["ValueError('broken')"] * 3


async def test_a_deadline_ends_it_and_its_own_clean_up_runs() -> None:
    cleaned: list[str] = []

    async def clean() -> None:
        await asyncio.sleep(0)
        cleaned.append("one")

    with pytest.raises(StartError, match="one failed to start: StartTimeoutError: not entered within"):
        async with LifecycleStack() as stack:
            await enter(stack, "one", on_enter=hang, on_exit=clean, start_timeout=0.01)

    assert cleaned == ["one"]
    assert event_sequence(stack.journal) == ["entering one", "enter failed one", "stopping", "stopped"]


async def test_an_entrys_own_deadline_does_not_blame_the_whole_startup() -> None:
    with pytest.raises(StartError) as caught:
        async with LifecycleStack(startup_timeout=60) as stack:
            await enter(stack, "one", on_enter=hang, start_timeout=0.01)

    assert not hasattr(caught.value.__cause__, "__notes__")


async def test_the_startup_as_a_whole_has_a_deadline() -> None:
    with pytest.raises(StartError) as caught:
        async with LifecycleStack(startup_timeout=0.02) as stack:
            await enter(stack, "one")
            await enter(stack, "two", on_enter=hang)

    assert stack.journal.now < 2
    assert isinstance(caught.value.__cause__, StartTimeoutError)
    assert caught.value.__cause__.__notes__ == ["the timeout of the whole startup is 0.02 s"]
    assert event_sequence(stack.journal)[-3:] == ["exiting one", "exited one", "stopped"]


async def test_the_deadline_of_the_startup_counts_from_its_begin_for_all_entries_together() -> None:
    clock = [100.0]
    journal = Journal(clock=lambda: clock[0])
    clock[0] = 200
    with pytest.raises(StartError, match=r"not entered within 0 s \(entered before it: one\)"):
        async with asyncio.timeout(2), LifecycleStack(startup_timeout=60, journal=journal) as stack:
            clock[0] = 259
            await enter(stack, "one", on_enter=lambda: asyncio.sleep(0.01))
            clock[0] = 261
            await enter(stack, "two", on_enter=hang, start_timeout=60)


async def test_the_deadline_of_the_startup_does_not_count_after_it() -> None:
    clock = [0.0]
    async with LifecycleStack(startup_timeout=60, journal=Journal(clock=lambda: clock[0])) as stack:
        stack.mark_started()
        clock[0] = 61
        assert await enter(stack, "late", on_enter=lambda: asyncio.sleep(0.01)) == "the late"


async def test_the_deadlines_error_has_what_was_in_the_way() -> None:
    async def refused() -> None:
        try:
            await hang()
        except asyncio.CancelledError as cancelled:
            raise cancelled from ConnectionRefusedError("nobody listens")

    with pytest.raises(StartError) as caught:
        async with LifecycleStack() as stack:
            await enter(stack, "one", on_enter=refused, start_timeout=0.01)

    assert isinstance(caught.value.__cause__, StartTimeoutError)
    assert isinstance(caught.value.__cause__.__cause__, ConnectionRefusedError)


async def test_the_deadlines_error_has_what_its_own_clean_up_raised() -> None:
    with pytest.raises(StartError) as caught:
        async with LifecycleStack() as stack:
            await enter(stack, "one", on_enter=hang, on_exit=fail, start_timeout=0.01)

    assert isinstance(caught.value.__cause__, StartTimeoutError)
    assert isinstance(caught.value.__cause__.__cause__, ValueError)


async def test_what_failed_is_not_among_the_entries() -> None:
    async with LifecycleStack() as stack:
        with pytest.raises(StartError):
            await enter(stack, "one", on_enter=fail)
        await enter(stack, "two")

    assert [entry.name for entry in stack.entries] == ["two"]


async def test_what_it_gives_back_is_bounded_by_the_whole_stop() -> None:
    with pytest.raises(StartError):
        async with LifecycleStack(shutdown_timeout=0.05) as stack:
            await enter(stack, "one", on_enter=hang, on_exit=hang, start_timeout=0.01)

    assert stack.journal.now < 2


async def test_a_resource_that_ends_without_being_entered_is_a_failure() -> None:
    class Suppressing:
        async def __aenter__(self) -> None:
            raise asyncio.CancelledError

        async def __aexit__(self, *_exc: object) -> None:
            pass

    with pytest.raises(StartError, match="one exited unexpectedly"):
        async with LifecycleStack() as stack:
            await stack.enter("one", Suppressing(), start_timeout=1, stop_timeout=1)


async def test_a_resource_that_cancels_itself_is_a_failure_and_no_cancellation() -> None:
    async def cancel_oneself() -> None:
        raise asyncio.CancelledError

    with pytest.raises(StartError) as caught:
        async with LifecycleStack() as stack:
            await enter(stack, "one", on_enter=cancel_oneself)

    assert isinstance(caught.value.__cause__, EntryCrashedError)


async def test_forced_while_it_enters_it_is_aborted() -> None:
    aborted: list[str] = []
    entering = asyncio.Event()
    stack = LifecycleStack()

    async def hang_there() -> None:
        entering.set()
        await hang()

    async def start() -> None:
        async with stack:
            await enter(stack, "one")
            await enter(stack, "two", on_enter=hang_there, on_exit=hang, abort=partial(aborted.append, "two"))

    task = asyncio.create_task(start())
    await entering.wait()
    stack.abort()
    with pytest.raises(StartError) as caught:
        await task

    assert isinstance(caught.value.__cause__, ForcedShutdownError)
    assert isinstance(caught.value.teardown, TeardownError)
    assert len(caught.value.teardown.exceptions) == 1  # of "one": what "two" says is the start error
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


async def test_a_clean_up_that_hangs_is_aborted() -> None:
    aborted: list[str] = []
    with pytest.raises(StartError) as caught:
        async with LifecycleStack() as stack:
            await enter(
                stack,
                "one",
                on_enter=hang,
                on_exit=hang,
                start_timeout=0.01,
                stop_timeout=0.01,
                abort=lambda: aborted.append("one"),
            )

    assert aborted
    assert event_sequence(stack.journal) == ["entering one", "enter failed one", "aborted one", "stopping", "stopped"]
    assert isinstance(caught.value.teardown, TeardownError)


async def test_forced_in_the_tick_in_which_it_was_entered_it_is_aborted() -> None:
    stack = LifecycleStack()

    async def force_in_the_next_tick() -> None:
        asyncio.get_running_loop().call_soon(stack.abort)

    with pytest.raises(StartError) as caught:
        async with stack:
            await enter(stack, "one", on_enter=force_in_the_next_tick)

    assert isinstance(caught.value.__cause__, ForcedShutdownError)
    assert event_sequence(stack.journal) == [
        "entering one",
        "entered one",
        "stopping",
        "aborted one",
        "enter failed one",
        "stopped",
    ]


async def test_a_cancelled_inherited_callback_is_not_hidden_by_the_start_error() -> None:
    async def cancel_oneself() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        async with LifecycleStack() as stack:
            stack.push_async_callback(cancel_oneself)
            await enter(stack, "one", on_enter=fail)


async def test_what_failed_is_not_called_lost(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(StartError):
        async with LifecycleStack() as stack:
            await enter(stack, "one", on_enter=fail)
    del stack
    gc.collect()

    assert caplog.messages == []
