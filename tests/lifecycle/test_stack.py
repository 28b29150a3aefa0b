"""The stack, in exact journals: what is entered is exited, in reverse, whatever happens."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import pytest

from gateway.lifecycle import (
    DiedError,
    Event,
    ForcedError,
    Journal,
    Kind,
    LifecycleStack,
    Phase,
    StartError,
    StartTimeoutError,
    StopTimeoutError,
    TeardownError,
)
from gateway.lifecycle.entry import GRACE
from tests.lifecycle.specimen import enter, fail, hang, specimen, swallow_cancellation, told

NAMES = ["one", "two", "three"]


class TestACleanLife:
    async def test_what_is_entered_is_exited_in_reverse(self) -> None:
        async with LifecycleStack() as stack:
            values = [await enter(stack, name) for name in NAMES]
            stack.started()

        assert values == ["the one", "the two", "the three"]
        assert told(stack.journal) == [
            "entering one",
            "entered one",
            "entering two",
            "entered two",
            "entering three",
            "entered three",
            "started",
            "stopping",
            "exiting three",
            "exited three",
            "exiting two",
            "exited two",
            "exiting one",
            "exited one",
            "stopped",
        ]

    async def test_a_listener_is_told_of_each_event_as_it_happens(self) -> None:
        heard: list[Event] = []
        async with LifecycleStack(journal=Journal(listener=heard.append)) as stack:
            await enter(stack, "one")
            assert heard == list(stack.journal) != []

    async def test_it_is_an_exit_stack_whose_own_methods_share_the_order(self) -> None:
        order: list[str] = []

        async def note(text: str) -> None:
            order.append(text)

        async with LifecycleStack() as stack:
            assert isinstance(stack, AsyncExitStack)
            await enter(stack, "first", on_exit=lambda: note("first"))
            stack.push_async_callback(note, "second")
            await stack.enter_async_context(specimen(on_exit=lambda: note("third")))
            await enter(stack, "fourth", on_exit=lambda: note("fourth"))

        assert order == ["fourth", "third", "second", "first"]

    async def test_a_resource_is_entered_and_exited_by_one_task(self) -> None:
        tasks: list[asyncio.Task[object] | None] = []

        async def note() -> None:
            tasks.append(asyncio.current_task())

        async with LifecycleStack() as stack:
            await enter(stack, "one", on_enter=note, on_exit=note)

        assert tasks[0] is tasks[1]
        assert tasks[0] is not asyncio.current_task()

    async def test_ready_is_from_started_to_the_begin_of_the_stop(self) -> None:
        async with LifecycleStack() as stack:
            before = stack.ready
            stack.started()
            serving = stack.ready
            stack.begin_stop()
            draining = stack.ready

        assert (before, serving, draining, stack.ready) == (False, True, False, False)
        assert stack.phase is Phase.STOPPED

    async def test_a_stop_that_was_asked_for_during_the_startup_is_not_forgotten(self) -> None:
        async with LifecycleStack() as stack:
            stack.begin_stop()
            stack.started()
            ready = stack.ready

        assert not ready
        assert told(stack.journal) == ["stopping", "stopped"]

    @pytest.mark.parametrize("kind", list(Kind))
    async def test_a_listener_that_raises_keeps_nothing_from_being_released(self, kind: Kind) -> None:
        released: list[str] = []

        def listen(event: Event) -> None:
            if event.kind is kind:
                raise RuntimeError("the log is full")

        async def release() -> None:
            released.append("one")

        async with LifecycleStack(journal=Journal(listener=listen)) as stack:
            await enter(stack, "one", on_exit=release)
            stack.started()

        assert released == ["one"]

    async def test_a_name_is_entered_once_and_nothing_after_the_end(self) -> None:
        async with LifecycleStack() as stack:
            await enter(stack, "one")
            with pytest.raises(RuntimeError, match="one cannot be entered"):
                await enter(stack, "one")
        with pytest.raises(RuntimeError, match="two cannot be entered"):
            await enter(stack, "two")

    async def test_an_inherited_manager_may_suppress_what_the_body_raises(self) -> None:
        async with LifecycleStack() as stack:
            await enter(stack, "one")
            stack.enter_context(suppress(KeyError))
            raise KeyError

        assert told(stack.journal)[-2:] == ["exited one", "stopped"]

    async def test_pop_all_hands_everything_over(self) -> None:
        async with LifecycleStack() as stack:
            await enter(stack, "one")
            popped = stack.pop_all()

        assert told(popped.journal) == ["entering one", "entered one"]
        assert stack.entries == []
        await popped.aclose()
        assert told(popped.journal) == [
            "entering one",
            "entered one",
            "stopping",
            "exiting one",
            "exited one",
            "stopped",
        ]


class TestAStartThatFails:
    async def test_the_third_of_three_gives_the_first_two_back(self) -> None:
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
        assert told(stack.journal)[4:] == [
            "entering three",
            "enter failed three",
            "stopping",
            "exiting two",
            "exited two",
            "exiting one",
            "exited one",
            "stopped",
        ]

    async def test_the_start_error_leaves_whatever_closes_fail_after_it(self) -> None:
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

    async def test_a_deadline_ends_it_and_its_own_clean_up_runs(self) -> None:
        cleaned: list[str] = []

        async def clean() -> None:
            await asyncio.sleep(0)
            cleaned.append("one")

        with pytest.raises(StartError, match="one failed to start: StartTimeoutError: not entered within"):
            async with LifecycleStack() as stack:
                await enter(stack, "one", on_enter=hang, on_exit=clean, start=0.01)

        assert cleaned == ["one"]
        assert told(stack.journal) == ["entering one", "enter failed one", "stopping", "stopped"]

    async def test_the_startup_as_a_whole_has_a_deadline(self) -> None:
        with pytest.raises(StartError) as caught:
            async with LifecycleStack(startup=0.02) as stack:
                await enter(stack, "one")
                await enter(stack, "two", on_enter=hang)

        assert stack.journal.now < 2
        assert isinstance(caught.value.__cause__, StartTimeoutError)
        assert caught.value.__cause__.__notes__ == ["the startup as a whole may take 0.02 s"]
        assert told(stack.journal)[-3:] == ["exiting one", "exited one", "stopped"]

    async def test_the_deadline_of_the_startup_does_not_count_after_it(self) -> None:
        async with LifecycleStack(startup=0.01) as stack:
            stack.started()
            await asyncio.sleep(0.02)
            assert await enter(stack, "late", on_enter=lambda: asyncio.sleep(0.01)) == "the late"

    async def test_the_deadlines_error_has_what_was_in_the_way(self) -> None:
        async def refused() -> None:
            try:
                await hang()
            except asyncio.CancelledError as cancelled:
                raise cancelled from ConnectionRefusedError("nobody listens")

        with pytest.raises(StartError) as caught:
            async with LifecycleStack() as stack:
                await enter(stack, "one", on_enter=refused, start=0.01)

        assert isinstance(caught.value.__cause__, StartTimeoutError)
        assert isinstance(caught.value.__cause__.__cause__, ConnectionRefusedError)

    async def test_what_failed_is_not_among_the_entries(self) -> None:
        async with LifecycleStack() as stack:
            with pytest.raises(StartError):
                await enter(stack, "one", on_enter=fail)
            await enter(stack, "two")

        assert [entry.name for entry in stack.entries] == ["two"]

    async def test_what_it_gives_back_is_bounded_by_the_whole_stop(self) -> None:
        with pytest.raises(StartError):
            async with LifecycleStack(shutdown=0.05) as stack:
                await enter(stack, "one", on_enter=hang, on_exit=hang, start=0.01)

        assert stack.journal.now < 2

    async def test_a_resource_that_ends_without_being_entered_is_a_failure(self) -> None:
        class Suppressing:
            async def __aenter__(self) -> None:
                raise asyncio.CancelledError

            async def __aexit__(self, *_exc: object) -> None:
                pass

        with pytest.raises(StartError, match="one ended by itself"):
            async with LifecycleStack() as stack:
                await stack.enter("one", Suppressing(), start=1, stop=1)

    async def test_a_resource_that_cancels_itself_is_a_failure_and_no_cancellation(self) -> None:
        async def cancel_oneself() -> None:
            raise asyncio.CancelledError

        with pytest.raises(StartError) as caught:
            async with LifecycleStack() as stack:
                await enter(stack, "one", on_enter=cancel_oneself)

        assert isinstance(caught.value.__cause__, DiedError)

    async def test_forced_while_it_enters_it_is_aborted(self) -> None:
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

        assert isinstance(caught.value.__cause__, ForcedError)
        assert set(aborted) == {"two"}
        assert told(stack.journal)[2:] == [
            "entering two",
            "stopping",
            "aborted two",
            "aborted one",
            "enter failed two",
            "stopped",
        ]

    async def test_a_clean_up_that_hangs_is_aborted(self) -> None:
        aborted: list[str] = []
        with pytest.raises(StartError) as caught:
            async with LifecycleStack() as stack:
                await enter(
                    stack,
                    "one",
                    on_enter=hang,
                    on_exit=hang,
                    start=0.01,
                    stop=0.01,
                    abort=lambda: aborted.append("one"),
                )

        assert aborted
        assert told(stack.journal) == ["entering one", "enter failed one", "aborted one", "stopping", "stopped"]
        assert isinstance(caught.value.teardown, TeardownError)


class TestACancelledStart:
    async def test_cancelled_while_a_failed_start_is_given_back_it_is_cancelled(self) -> None:
        stack = LifecycleStack()
        giving_back, go_on = asyncio.Event(), asyncio.Event()

        async def give_back() -> None:
            giving_back.set()
            await go_on.wait()

        async def start() -> None:
            async with stack:
                await enter(stack, "one", on_enter=hang, on_exit=give_back, start=0.01)

        task = asyncio.create_task(start())
        await giving_back.wait()
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def test_a_close_of_an_inherited_callback_does_not_hide_the_cancellation(self) -> None:
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

    async def test_a_cancellation_is_delivered_once_everything_is_given_back(self) -> None:
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
        assert told(stack.journal)[2:] == [
            "entering two",
            "enter cancelled two",
            "stopping",
            "exiting one",
            "exited one",
            "stopped",
        ]

    async def test_a_resource_that_swallows_the_cancellation_is_released_all_the_same(self) -> None:
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

        assert told(stack.journal) == ["entering one", "enter cancelled one", "stopping", "stopped"]

    async def test_cancelled_in_the_tick_in_which_it_was_entered_it_exits(self) -> None:
        stack = LifecycleStack()

        async def start() -> None:
            async with stack:
                await enter(stack, "one", on_enter=cancel_the_starter)

        async def cancel_the_starter() -> None:
            task.cancel()

        task = asyncio.create_task(start())
        with pytest.raises(asyncio.CancelledError):
            await task

        assert told(stack.journal) == [
            "entering one",
            "entered one",
            "enter cancelled one",
            "exiting one",
            "exited one",
            "stopping",
            "stopped",
        ]


class TestATeardownThatFails:
    async def test_a_failing_close_does_not_stop_the_next_one(self) -> None:
        stack = LifecycleStack()
        with pytest.raises(TeardownError) as caught:
            async with stack:
                await enter(stack, "one", on_exit=fail)
                await enter(stack, "two", on_exit=fail)
                await enter(stack, "three")

        assert len(caught.value.exceptions) == 2
        assert told(stack.journal)[-8:] == [
            "stopping",
            "exiting three",
            "exited three",
            "exiting two",
            "exit failed two",
            "exiting one",
            "exit failed one",
            "stopped",
        ]

    async def test_a_hanging_close_is_cancelled_and_aborted_at_its_deadline(self) -> None:
        aborted: list[str] = []
        stack = LifecycleStack()
        with pytest.raises(TeardownError) as caught:
            async with stack:
                await enter(stack, "one")
                await enter(stack, "two", on_exit=hang, stop=0.01, abort=lambda: aborted.append("two"))

        assert set(aborted) == {"two"}
        assert [type(error) for error in caught.value.exceptions] == [StopTimeoutError]
        assert told(stack.journal)[-6:] == [
            "stopping",
            "exiting two",
            "aborted two",
            "exiting one",
            "exited one",
            "stopped",
        ]

    async def test_a_close_that_ignores_its_cancellation_is_abandoned(self) -> None:
        stack = LifecycleStack()
        with pytest.raises(TeardownError):
            async with stack:
                await enter(stack, "one")
                await enter(stack, "two", on_exit=swallow_twice, stop=0.01)

        assert told(stack.journal)[-5:] == [
            "aborted two",
            "abandoned two",
            "exiting one",
            "exited one",
            "stopped",
        ]
        released.set()
        await stack.entries[1]._owner

    async def test_left_again_it_has_nothing_more_to_say(self) -> None:
        async with LifecycleStack() as stack:
            await enter(stack, "one", on_exit=fail)
            with pytest.raises(TeardownError):
                await stack.aclose()

    async def test_an_error_of_an_inherited_callback_leaves_as_from_any_exit_stack(self) -> None:
        with pytest.raises(ValueError, match="broken"):
            async with LifecycleStack() as stack:
                await enter(stack, "one")
                stack.push_async_callback(fail)

        assert told(stack.journal)[-2:] == ["exited one", "stopped"]

    async def test_a_close_that_cancels_itself_is_reported(self) -> None:
        async def cancel_oneself() -> None:
            raise asyncio.CancelledError

        with pytest.raises(TeardownError):
            async with LifecycleStack() as stack:
                await enter(stack, "one", on_exit=cancel_oneself)

        assert told(stack.journal)[-2:] == ["exit failed one", "stopped"]

    async def test_what_it_got_hold_of_after_the_abort_is_dropped_as_well(self) -> None:
        aborts: list[bool] = []
        ended = asyncio.Event()

        async def hang_and_end() -> None:
            try:
                await hang()
            finally:
                ended.set()

        with pytest.raises(TeardownError):
            async with LifecycleStack() as stack:
                await enter(stack, "one", on_exit=hang_and_end, stop=0.01, abort=lambda: aborts.append(ended.is_set()))

        assert aborts == [False, True]

    async def test_an_abort_that_raises_is_reported_and_stops_nothing(self) -> None:
        def refuse() -> None:
            raise OSError("no such transport")

        stack = LifecycleStack()
        with pytest.raises(TeardownError) as caught:
            async with stack:
                await enter(stack, "one")
                await enter(stack, "two", on_exit=hang, stop=0.01, abort=refuse)

        assert [type(error) for error in caught.value.exceptions] == [StopTimeoutError, OSError]
        assert told(stack.journal)[-3:] == ["exiting one", "exited one", "stopped"]

    async def test_the_teardown_as_a_whole_has_a_deadline_and_still_each_has_its_turn(self) -> None:
        stack = LifecycleStack(shutdown=0.05)
        with pytest.raises(TeardownError):
            async with stack:
                for name in NAMES:
                    await enter(stack, name, on_exit=hang)

        assert told(stack.journal)[-7:-1] == [
            "exiting three",
            "aborted three",
            "exiting two",
            "aborted two",
            "exiting one",
            "aborted one",
        ]
        assert stack.journal.now < 0.05 + 3 * GRACE

    async def test_the_stops_deadline_counts_from_the_stop_signal(self) -> None:
        stack = LifecycleStack(shutdown=0.3)
        with pytest.raises(TeardownError):
            async with stack:
                await enter(stack, "one", on_exit=lambda: asyncio.sleep(0.25))
                stack.started()
                stack.begin_stop()
                await asyncio.sleep(0.15)

        assert told(stack.journal)[-2:] == ["aborted one", "stopped"]

    async def test_a_cancellation_of_the_caller_cuts_nothing_short_and_is_delivered(self) -> None:
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
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert told(stack.journal)[-5:] == ["exiting two", "exited two", "exiting one", "exited one", "stopped"]

    async def test_an_error_of_the_body_leaves_with_a_note_about_the_teardown(self) -> None:
        with pytest.raises(KeyError) as caught:
            async with LifecycleStack() as stack:
                await enter(stack, "one", on_exit=fail)
                raise KeyError

        assert caught.value.__notes__ == ["the teardown was not clean: ValueError: broken"]

    async def test_forced_it_lets_go_of_everything_at_once(self) -> None:
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
        stack.started()
        stack.abort()
        assert aborted == ["three", "two", "one"]
        assert not stack.ready
        with pytest.raises(TeardownError) as caught:
            await task

        assert [type(error) for error in caught.value.exceptions] == [ForcedError] * 3
        assert told(stack.journal)[-4:] == ["aborted three", "aborted two", "aborted one", "stopped"]
        assert stack.journal.now < 1


released = asyncio.Event()


async def swallow_twice() -> None:
    while not released.is_set():
        try:
            await released.wait()
        except asyncio.CancelledError:
            continue


class TestSupervision:
    async def test_an_entry_that_dies_turns_readiness_off_and_says_so(self) -> None:
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

    async def test_one_that_dies_during_the_startup_fails_it(self) -> None:
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

    async def test_the_first_that_dies_is_the_death(self) -> None:
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

    async def test_one_that_died_before_started_fails_the_start(self) -> None:
        die = asyncio.Event()
        with pytest.raises(StartError, match="worker failed to start: DiedError"):
            async with LifecycleStack() as stack:
                await stack.enter("worker", background(die), start=1, stop=1)
                die.set()
                await stack.death
                stack.started()


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
