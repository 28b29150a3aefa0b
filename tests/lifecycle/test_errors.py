"""The errors: their messages, and what a copy of them keeps."""

import pickle

import pytest

from gateway.lifecycle import EntryCrashedError, LifecycleStack, StartError, TeardownError
from tests.lifecycle.fakes import enter, raise_error


async def test_start_error_can_be_pickled() -> None:
    """A start error keeps its name, its cause and the names of the active entries, for example in another process."""
    async with LifecycleStack() as stack:
        await enter(stack, "one")
        with pytest.raises(StartError) as caught:
            await enter(stack, "two", on_enter=raise_error)
        assert caught.value.teardown is None

    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - made by this test

    assert repr(copy) == repr(caught.value) == "StartError('two', ValueError('broken'), ['one'])"
    assert str(copy) == str(caught.value)


def test_start_error_message() -> None:
    """The message names the entry, the cause and the entries before it. It can do without the latter two."""
    error = StartError("two", ValueError("broken"), ["zero", "one"])
    first = StartError("one", ValueError("broken"), [])
    first.__cause__ = None

    assert str(error) == "two failed to start: ValueError: broken (entered before it: zero, one)"
    assert str(first) == "one failed to start: unknown (entered before it: nothing)"


def test_crash_error_message() -> None:
    """The message names the entry and the cause, if there is one."""
    error = EntryCrashedError("worker", ValueError("broken"))

    assert str(error) == "worker exited unexpectedly: ValueError: broken"
    assert str(EntryCrashedError("worker")) == "worker exited unexpectedly"
    assert repr(error) == "EntryCrashedError('worker')"


def test_teardown_error_message() -> None:
    """The message of the group is the same for all teardowns; the errors follow."""
    assert str(TeardownError.of([ValueError("broken")])) == "the teardown was not clean (1 sub-exception)"
