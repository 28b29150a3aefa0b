"""A teardown that fails or hangs: the rest is released all the same, in order and in time."""

import asyncio
from contextlib import suppress
from functools import partial

import pytest

from gateway.lifecycle import (
    EntryCrashedError,
    ForcedShutdownError,
    Journal,
    LifecycleStack,
    StopTimeoutError,
    TeardownError,
)
from gateway.lifecycle.cancellation import finish_despite_cancellation
from gateway.lifecycle.entry import ABORT_GRACE
from tests.lifecycle.fakes import enter, event_sequence, fail, hang, ignore_cancellations

NAMES = ["one", "two", "three"]


async def test_a_failing_close_does_not_stop_the_next_one() -> None:
    stack = LifecycleStack()
    with pytest.raises(TeardownError) as caught:
        async with stack:
            await enter(stack, "one", on_exit=fail)
            await enter(stack, "two", on_exit=fail)
            await enter(stack, "three")

    assert len(caught.value.exceptions) == 2
    assert event_sequence(stack.journal)[-8:] == [
        "stopping",
        "exiting three",
        "exited three",
        "exiting two",
        "exit failed two",
        "exiting one",
        "exit failed one",
        "stopped",
    ]


async def test_a_hanging_close_is_cancelled_and_aborted_at_its_deadline() -> None:
    aborted: list[str] = []
    stack = LifecycleStack()
    with pytest.raises(TeardownError) as caught:
        async with stack:
            await enter(stack, "one")
            await enter(stack, "two", on_exit=hang, stop_timeout=0.01, abort=lambda: aborted.append("two"))

    assert set(aborted) == {"two"}
    assert [type(error) for error in caught.value.exceptions] == [StopTimeoutError]
    assert event_sequence(stack.journal)[-6:] == [
        "stopping",
        "exiting two",
        "aborted two",
        "exiting one",
        "exited one",
        "stopped",
    ]


async def test_a_close_that_ignores_its_cancellation_is_abandoned(end: asyncio.Event) -> None:
    stack = LifecycleStack()
    with pytest.raises(TeardownError):
        async with stack:
            await enter(stack, "one")
            await enter(stack, "two", on_exit=lambda: ignore_cancellations(end), stop_timeout=0.01)

    assert event_sequence(stack.journal)[-5:] == [
        "aborted two",
        "abandoned two",
        "exiting one",
        "exited one",
        "stopped",
    ]
    assert stack.journal.now < 3 * ABORT_GRACE
    end.set()
    await stack.entries[1]._owner


async def test_a_clean_up_of_several_awaits_ends_within_the_grace() -> None:
    async def hang_three_times() -> None:
        try:
            await hang()
        finally:
            try:
                await hang()
            finally:
                await hang()

    with pytest.raises(TeardownError):
        async with LifecycleStack() as stack:
            await enter(stack, "one", on_exit=hang_three_times, stop_timeout=0.01)

    assert event_sequence(stack.journal)[-3:] == ["exiting one", "aborted one", "stopped"]


async def test_left_again_it_has_nothing_more_to_say() -> None:
    async with LifecycleStack() as stack:
        await enter(stack, "one", on_exit=fail)
        with pytest.raises(TeardownError):
            await stack.aclose()


async def test_left_again_it_does_not_cancel_again() -> None:
    closing, go_on = asyncio.Event(), asyncio.Event()

    async def close_slowly() -> None:
        closing.set()
        await go_on.wait()

    async with LifecycleStack() as stack:
        await enter(stack, "one", on_exit=close_slowly)
        task = asyncio.create_task(stack.aclose())
        await closing.wait()
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_an_error_of_an_inherited_callback_leaves_as_from_any_exit_stack() -> None:
    with pytest.raises(ValueError, match="broken"):
        async with LifecycleStack() as stack:
            await enter(stack, "one")
            stack.push_async_callback(fail)

    assert event_sequence(stack.journal)[-2:] == ["exited one", "stopped"]


async def test_a_close_that_cancels_itself_is_reported() -> None:
    async def cancel_oneself() -> None:
        raise asyncio.CancelledError

    with pytest.raises(TeardownError):
        async with LifecycleStack() as stack:
            await enter(stack, "one", on_exit=cancel_oneself)

    assert event_sequence(stack.journal)[-2:] == ["exit failed one", "stopped"]


async def test_what_it_got_hold_of_after_the_abort_is_dropped_as_well() -> None:
    aborts: list[bool] = []
    ended = asyncio.Event()

    async def hang_and_end() -> None:
        try:
            await hang()
        finally:
            ended.set()

    with pytest.raises(TeardownError):
        async with LifecycleStack() as stack:
            await enter(
                stack, "one", on_exit=hang_and_end, stop_timeout=0.01, abort=lambda: aborts.append(ended.is_set())
            )

    assert aborts == [False, True]


async def test_an_abort_that_raises_is_reported_and_stops_nothing() -> None:
    def refuse() -> None:
        raise OSError("no such transport")

    stack = LifecycleStack()
    with pytest.raises(TeardownError) as caught:
        async with stack:
            await enter(stack, "one")
            await enter(stack, "two", on_exit=hang, stop_timeout=0.01, abort=refuse)

    assert [type(error) for error in caught.value.exceptions] == [StopTimeoutError, OSError]
    assert event_sequence(stack.journal)[-5:-3] == ["aborted two", "exit failed two"]
    assert event_sequence(stack.journal)[-3:] == ["exiting one", "exited one", "stopped"]


async def test_an_abort_that_cancels_itself_is_reported_and_stops_nothing() -> None:
    def cancel_oneself() -> None:
        raise asyncio.CancelledError

    stack = LifecycleStack()
    with pytest.raises(TeardownError) as caught:
        async with stack:
            await enter(stack, "one")
            await enter(stack, "two", on_exit=hang, stop_timeout=0.01, abort=cancel_oneself)

    assert [type(error) for error in caught.value.exceptions] == [StopTimeoutError, EntryCrashedError]
    assert event_sequence(stack.journal)[-3:] == ["exiting one", "exited one", "stopped"]


async def test_a_part_of_a_teardown_error_is_one_too() -> None:
    with pytest.raises(TeardownError) as caught:
        async with LifecycleStack() as stack:
            await enter(stack, "one", on_exit=fail)
            await enter(stack, "two", on_exit=hang, stop_timeout=0.01)

    assert isinstance(caught.value.subgroup(ValueError), TeardownError)


async def test_once_the_whole_has_passed_what_exits_at_once_still_exits() -> None:
    async def take_a_few_ticks() -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    clock = [0.0]
    stack = LifecycleStack(shutdown_timeout=60, journal=Journal(clock=lambda: clock[0]))
    async with stack:
        await enter(stack, "one", on_exit=take_a_few_ticks)
        stack.begin_shutdown()
        clock[0] = 61

    assert event_sequence(stack.journal)[-3:] == ["exiting one", "exited one", "stopped"]


async def test_the_teardown_as_a_whole_has_a_deadline_and_still_each_has_its_turn() -> None:
    stack = LifecycleStack(shutdown_timeout=0.05)
    with pytest.raises(TeardownError):
        async with stack:
            for name in NAMES:
                await enter(stack, name, on_exit=hang)

    assert event_sequence(stack.journal)[-7:-1] == [
        "exiting three",
        "aborted three",
        "exiting two",
        "aborted two",
        "exiting one",
        "aborted one",
    ]
    assert stack.journal.now < 0.05 + 3 * ABORT_GRACE


async def test_the_stops_deadline_counts_from_the_stop_signal() -> None:
    clock = [0.0]
    stack = LifecycleStack(shutdown_timeout=60, journal=Journal(clock=lambda: clock[0]))
    with pytest.raises(TeardownError):
        async with asyncio.timeout(10), stack:
            await enter(stack, "one", on_exit=hang, stop_timeout=60)
            stack.mark_started()
            stack.begin_shutdown()
            clock[0] = 60  # the drain has taken it all

    assert event_sequence(stack.journal)[-2:] == ["aborted one", "stopped"]


async def test_a_cancellation_of_the_caller_cuts_nothing_short_and_is_delivered() -> None:
    stack = LifecycleStack()
    closing, go_on = asyncio.Event(), asyncio.Event()

    async def close_slowly() -> None:
        closing.set()
        await go_on.wait()

    async def life() -> None:
        async with stack:
            await enter(stack, "one")
            await enter(stack, "two", on_exit=close_slowly)

    task = asyncio.create_task(life())
    await closing.wait()
    for number in range(3):
        task.cancel(number)
        await asyncio.wait({task}, timeout=0.01)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task

    assert caught.value.args == (0,)
    assert event_sequence(stack.journal)[-5:] == ["exiting two", "exited two", "exiting one", "exited one", "stopped"]


async def test_a_cancellation_of_the_caller_has_the_teardown_errors_as_its_cause() -> None:
    closing, go_on = asyncio.Event(), asyncio.Event()

    async def fail_slowly() -> None:
        closing.set()
        await go_on.wait()
        await fail()

    async def life() -> None:
        async with LifecycleStack() as stack:
            await enter(stack, "one", on_exit=fail_slowly)

    task = asyncio.create_task(life())
    await closing.wait()
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task

    assert isinstance(caught.value.__cause__, TeardownError)


async def test_a_suppressed_error_of_the_body_does_not_hide_the_teardown_errors() -> None:
    with pytest.raises(TeardownError):
        async with LifecycleStack() as stack:
            await enter(stack, "one", on_exit=fail)
            stack.enter_context(suppress(KeyError))
            raise KeyError


async def test_an_error_of_the_body_leaves_with_a_note_about_the_teardown() -> None:
    with pytest.raises(KeyError) as caught:
        async with LifecycleStack() as stack:
            await enter(stack, "one", on_exit=fail)
            raise KeyError

    assert caught.value.__notes__ == ["the teardown was not clean: ValueError: broken"]


async def test_forced_it_lets_go_of_everything_at_once() -> None:
    aborted: list[str] = []
    stack = LifecycleStack()
    closing = asyncio.Event()

    async def hang_there() -> None:
        closing.set()
        await hang()

    async def life() -> None:
        async with stack:
            for name in NAMES:
                await enter(stack, name, on_exit=hang_there, abort=partial(aborted.append, name))

    task = asyncio.create_task(life())
    await closing.wait()
    stack.mark_started()
    stack.abort()
    assert aborted == ["three", "two", "one"]
    assert not stack.ready
    with pytest.raises(TeardownError) as caught:
        await task

    assert [type(error) for error in caught.value.exceptions] == [ForcedShutdownError] * 3
    assert event_sequence(stack.journal)[-4:] == ["aborted three", "aborted two", "aborted one", "stopped"]
    assert stack.journal.now < 1


async def test_forced_it_leaves_alone_what_has_exited() -> None:
    stack = LifecycleStack()
    closing = asyncio.Event()

    async def hang_there() -> None:
        closing.set()
        await hang()

    async def life() -> None:
        async with stack:
            await enter(stack, "one", on_exit=hang_there)
            await enter(stack, "two")

    task = asyncio.create_task(life())
    await closing.wait()
    stack.abort()
    with pytest.raises(TeardownError):
        await task

    assert event_sequence(stack.journal)[-4:] == ["exited two", "exiting one", "aborted one", "stopped"]


async def test_forced_twice_it_waits_for_nobody_who_ignores_that(end: asyncio.Event) -> None:
    stack = LifecycleStack()
    closing = asyncio.Event()

    async def ignore_that() -> None:
        closing.set()
        await ignore_cancellations(end)

    async def life() -> None:
        async with stack:
            await enter(stack, "one", on_exit=ignore_that)

    task = asyncio.create_task(life())
    await closing.wait()
    stack.abort()
    stack.abort()
    with pytest.raises(TeardownError) as caught:
        await task

    assert [type(error) for error in caught.value.exceptions] == [ForcedShutdownError]
    assert event_sequence(stack.journal)[-3:] == ["aborted one", "abandoned one", "stopped"]
    assert stack.journal.now < 2
    end.set()
    await stack.entries[0]._owner


async def test_who_outlasts_a_cancellation_learns_what_failed() -> None:
    with pytest.raises(ValueError, match="broken"):
        await finish_despite_cancellation(fail())


async def test_forced_it_cancels_at_once_what_hangs() -> None:
    stack = LifecycleStack()
    closing = asyncio.Event()
    cancelled: list[str] = []

    async def hang_there() -> None:
        closing.set()
        try:
            await hang()
        finally:
            cancelled.append("one")

    async def life() -> None:
        async with stack:
            await enter(stack, "one", on_exit=hang_there)

    task = asyncio.create_task(life())
    await closing.wait()
    stack.abort()
    await asyncio.sleep(0)
    assert cancelled == ["one"]
    with pytest.raises(TeardownError):
        await task
