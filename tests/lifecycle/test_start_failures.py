"""An entry fails to start: every entry before it is released, and the caller sees the error of the start."""

import asyncio
import gc

import pytest

from gateway.lifecycle import EntryCrashedError, LifecycleStack, StartError, StartTimeoutError, TeardownError
from tests.lifecycle.fakes import cancel_self, enter, event_sequence, hang, raise_error


async def test_failed_start_releases_earlier_entries() -> None:
    """If the third entry fails to start, the second and the first exit. The error names all three."""
    stack = LifecycleStack()
    with pytest.raises(StartError) as caught:
        async with stack:
            await enter(stack, "one")
            await enter(stack, "two")
            await enter(stack, "three", on_enter=raise_error)

    assert (caught.value.name, caught.value.entered) == ("three", ("one", "two"))
    assert str(caught.value) == "three failed to start: ValueError: broken (entered before it: one, two)"
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.__cause__.__cause__ is None
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


async def test_start_error_outranks_teardown_errors() -> None:
    """Errors of the teardown do not replace the start error. They are its `teardown`."""
    stack = LifecycleStack()
    with pytest.raises(StartError) as caught:
        async with stack:
            await enter(stack, "one", on_exit=raise_error)
            stack.push_async_callback(raise_error)
            await enter(stack, "two", on_exit=raise_error)
            await enter(stack, "three", on_enter=raise_error)

    assert caught.value.name == "three"
    assert isinstance(caught.value.teardown, TeardownError)
    assert [repr(error) for error in caught.value.teardown.exceptions] == ["ValueError('broken')"] * 3


async def test_start_error_does_not_hide_a_cancellation() -> None:
    """A `CancelledError` from an inherited callback replaces the start error."""
    with pytest.raises(asyncio.CancelledError):
        async with LifecycleStack() as stack:
            stack.push_async_callback(cancel_self)
            await enter(stack, "one", on_enter=raise_error)


async def test_failed_entry_is_not_listed() -> None:
    """An entry that failed to start is not among the stack's entries, and the stack can enter others."""
    async with LifecycleStack() as stack:
        with pytest.raises(StartError):
            await enter(stack, "one", on_enter=raise_error)
        await enter(stack, "two")

    assert [entry.name for entry in stack.entries] == ["two"]


async def test_start_timeout_runs_the_clean_up() -> None:
    """An entry that exceeds its start timeout is cancelled, and its own clean-up runs to the end."""
    cleaned_up: list[str] = []

    async def clean_up() -> None:
        await asyncio.sleep(0)
        cleaned_up.append("one")

    with pytest.raises(StartError, match="one failed to start: StartTimeoutError: not entered within"):
        async with LifecycleStack() as stack:
            await enter(stack, "one", on_enter=hang, on_exit=clean_up, start_timeout=0.01)

    assert cleaned_up == ["one"]
    assert event_sequence(stack.journal) == ["entering one", "enter failed one", "stopping", "stopped"]


async def test_start_timeout_names_the_last_failure() -> None:
    """The cause of a start timeout is the failure that the retry loop of the resource reports when it is cancelled."""

    async def retry_refused_connection() -> None:
        try:
            await hang()
        except asyncio.CancelledError as cancelled:
            raise cancelled from ConnectionRefusedError("connection refused")

    with pytest.raises(StartError) as caught:
        async with LifecycleStack() as stack:
            await enter(stack, "one", on_enter=retry_refused_connection, start_timeout=0.01)

    assert isinstance(caught.value.__cause__, StartTimeoutError)
    assert isinstance(caught.value.__cause__.__cause__, ConnectionRefusedError)


async def test_start_timeout_names_a_failed_clean_up() -> None:
    """The cause of a start timeout is the error of the clean-up, if that failed."""
    with pytest.raises(StartError) as caught:
        async with LifecycleStack() as stack:
            await enter(stack, "one", on_enter=hang, on_exit=raise_error, start_timeout=0.01)

    assert isinstance(caught.value.__cause__, StartTimeoutError)
    assert isinstance(caught.value.__cause__.__cause__, ValueError)


async def test_hanging_clean_up_is_aborted() -> None:
    """The clean-up of a failed start has the stop timeout. After that the entry is aborted."""
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


async def test_rollback_errors_of_several_starts_add_up() -> None:
    """If several starts fail and their rollbacks as well, the teardown error has the errors of all rollbacks."""
    with pytest.raises(TeardownError) as caught:
        async with LifecycleStack() as stack:
            for name in ("one", "two"):
                with pytest.raises(StartError):
                    await enter(stack, name, on_enter=hang, on_exit=hang, start_timeout=0.01, stop_timeout=0.01)

    assert [str(error) for error in caught.value.exceptions] == [
        "one was not released within 0.01 s",
        "two was not released within 0.01 s",
    ]


async def test_cancelled_enter_is_a_start_error() -> None:
    """A `CancelledError` from `__aenter__` is a failed start if the caller was not cancelled."""

    class CancelsItself:
        async def __aenter__(self) -> None:
            raise asyncio.CancelledError

        async def __aexit__(self, *_exc: object) -> None:
            pass

    with pytest.raises(
        StartError, match=r"^one failed to start: EntryCrashedError: one exited unexpectedly: CancelledError"
    ):
        async with LifecycleStack() as stack:
            await stack.enter("one", CancelsItself(), start_timeout=1, stop_timeout=1)


async def test_cancelled_generator_is_a_start_error() -> None:
    """A `CancelledError` from a generator-based context manager is a failed start, too."""
    with pytest.raises(StartError) as caught:
        async with LifecycleStack() as stack:
            await enter(stack, "one", on_enter=cancel_self)

    assert isinstance(caught.value.__cause__, EntryCrashedError)


async def test_start_error_is_marked_as_retrieved(caplog: pytest.LogCaptureFixture) -> None:
    """The event loop does not log the owner task's exception as never retrieved."""
    with pytest.raises(StartError):
        async with LifecycleStack() as stack:
            await enter(stack, "one", on_enter=raise_error)
    del stack
    gc.collect()

    assert caplog.messages == []
