"""An entry fails to exit, or hangs: all other entries are released, in order and in time."""

import asyncio
from contextlib import suppress

import pytest

from gateway.lifecycle import EntryCrashedError, LifecycleStack, StopTimeoutError, TeardownError
from gateway.lifecycle.entry import ABORT_GRACE
from tests.lifecycle.fakes import cancel_self, enter, event_sequence, hang, ignore_cancellations, raise_error


async def test_failed_exit_does_not_stop_the_next_one() -> None:
    """Every entry exits although others fail. The `TeardownError` has all errors."""
    stack = LifecycleStack()
    with pytest.raises(TeardownError) as caught:
        async with stack:
            await enter(stack, "one", on_exit=raise_error)
            await enter(stack, "two", on_exit=raise_error)
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


async def test_self_cancelled_exit_is_a_failed_exit() -> None:
    """A `CancelledError` from an exit is a teardown error, not a cancellation of the caller."""
    with pytest.raises(TeardownError) as caught:
        async with LifecycleStack() as stack:
            await enter(stack, "one", on_exit=cancel_self)

    assert [str(error) for error in caught.value.exceptions] == ["one exited unexpectedly: CancelledError"]
    assert event_sequence(stack.journal)[-2:] == ["exit failed one", "stopped"]


async def test_hanging_exit_is_aborted() -> None:
    """An exit that exceeds its stop timeout is cancelled and aborted. The next entry exits normally."""
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


async def test_exit_that_ignores_cancellation_is_abandoned(end_of_test: asyncio.Event) -> None:
    """An exit that ignores its cancellations is abandoned after the grace time. The next entry exits normally."""
    stack = LifecycleStack()
    with pytest.raises(TeardownError):
        async with stack:
            await enter(stack, "one")
            await enter(stack, "two", on_exit=lambda: ignore_cancellations(until=end_of_test), stop_timeout=0.01)

    assert event_sequence(stack.journal)[-5:] == [
        "aborted two",
        "abandoned two",
        "exiting one",
        "exited one",
        "stopped",
    ]
    assert stack.journal.now < 4 * ABORT_GRACE


async def test_exit_with_several_awaits_ends_in_the_grace() -> None:
    """An aborted exit is cancelled repeatedly, so that a clean-up with several awaits ends."""

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


async def test_abort_is_called_again_after_the_owner_ends() -> None:
    """`abort` is called at the timeout and after the owner task has ended, which may have opened more until then."""
    owner_ended: list[bool] = []
    ended = asyncio.Event()

    async def hang_until_cancelled() -> None:
        try:
            await hang()
        finally:
            ended.set()

    with pytest.raises(TeardownError):
        async with LifecycleStack() as stack:
            await enter(
                stack,
                "one",
                on_exit=hang_until_cancelled,
                stop_timeout=0.01,
                abort=lambda: owner_ended.append(ended.is_set()),
            )

    assert owner_ended == [False, True]


async def test_failing_abort_does_not_stop_the_teardown() -> None:
    """An `abort` that raises is reported once and not called again. The next entry exits normally."""

    def fail_to_abort() -> None:
        raise OSError("no such transport")

    stack = LifecycleStack()
    with pytest.raises(TeardownError) as caught:
        async with stack:
            await enter(stack, "one")
            await enter(stack, "two", on_exit=hang, stop_timeout=0.01, abort=fail_to_abort)

    assert [type(error) for error in caught.value.exceptions] == [StopTimeoutError, OSError]
    assert event_sequence(stack.journal)[-5:-3] == ["aborted two", "exit failed two"]
    assert event_sequence(stack.journal)[-3:] == ["exiting one", "exited one", "stopped"]


async def test_self_cancelled_abort_is_a_teardown_error() -> None:
    """A `CancelledError` from `abort` is reported as a teardown error. The next entry exits normally."""

    def cancel_itself() -> None:
        raise asyncio.CancelledError

    stack = LifecycleStack()
    with pytest.raises(TeardownError) as caught:
        async with stack:
            await enter(stack, "one")
            await enter(stack, "two", on_exit=hang, stop_timeout=0.01, abort=cancel_itself)

    assert [type(error) for error in caught.value.exceptions] == [StopTimeoutError, EntryCrashedError]
    assert event_sequence(stack.journal)[-3:] == ["exiting one", "exited one", "stopped"]


async def test_teardown_errors_are_reported_once() -> None:
    """A stack that is exited again does not report its teardown errors again."""
    async with LifecycleStack() as stack:
        await enter(stack, "one", on_exit=raise_error)
        with pytest.raises(TeardownError):
            await stack.aclose()


async def test_subgroup_of_teardown_error_keeps_its_type() -> None:
    """`subgroup` returns a `TeardownError`, so that `except* TeardownError` works on a part of it, too."""
    with pytest.raises(TeardownError) as caught:
        async with LifecycleStack() as stack:
            await enter(stack, "one", on_exit=raise_error)
            await enter(stack, "two", on_exit=hang, stop_timeout=0.01)

    assert isinstance(caught.value.subgroup(ValueError), TeardownError)


async def test_error_of_inherited_callback_is_raised() -> None:
    """An error of an inherited callback is raised unchanged, as by any `AsyncExitStack`."""
    with pytest.raises(ValueError, match="broken"):
        async with LifecycleStack() as stack:
            await enter(stack, "one")
            stack.push_async_callback(raise_error)

    assert event_sequence(stack.journal)[-2:] == ["exited one", "stopped"]


async def test_body_error_has_a_note_on_the_teardown() -> None:
    """An error of the body takes precedence over teardown errors, which become a note on it."""
    with pytest.raises(KeyError) as caught:
        async with LifecycleStack() as stack:
            await enter(stack, "one", on_exit=raise_error)
            await enter(stack, "two", on_exit=raise_error)
            raise KeyError

    assert caught.value.__notes__ == ["the teardown was not clean: ValueError: broken; ValueError: broken"]


async def test_suppressed_body_error_hides_no_teardown_error() -> None:
    """If an inherited context manager suppresses the error of the body, the teardown errors are raised."""
    with pytest.raises(TeardownError):
        async with LifecycleStack() as stack:
            await enter(stack, "one", on_exit=raise_error)
            stack.enter_context(suppress(KeyError))
            raise KeyError
