"""Waiting for conditions in tests."""

from itertools import count
from types import SimpleNamespace

import pytest

from tests.support.waiting import wait_until, wait_until_equal


async def test_waits_for_a_function() -> None:
    """A condition that holds at the third check ends the wait."""
    checks = count(1)

    await wait_until(lambda: next(checks) == 3, "the third check")

    assert next(checks) == 4


async def test_waits_for_an_async_function() -> None:
    """The result of an async condition counts, not the coroutine, which is always true."""
    checks = count(1)

    async def third() -> bool:
        return next(checks) == 3

    await wait_until(third, "the third check")

    assert next(checks) == 4


async def test_times_out_with_the_description() -> None:
    """The error names the condition and the timeout."""
    with pytest.raises(AssertionError, match=r"timed out after 0\.01 s: the impossible"):
        await wait_until(lambda: False, "the impossible", timeout=0.01)


async def test_checks_again_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A condition that came true during the last pause does not fail, however long the pause was."""
    checks = count(1)
    clock = SimpleNamespace(monotonic=iter([0.0, 0.0, 99.0]).__next__)
    monkeypatch.setattr("tests.support.waiting.time", clock)

    await wait_until(lambda: next(checks) == 2, "the second check", timeout=1)

    assert next(checks) == 3


def test_waits_for_a_value() -> None:
    """The wait ends when the expected value is observed; the error has both values."""
    values = iter([1, 2, 3])

    wait_until_equal(lambda: next(values), 2, interval=0)

    with pytest.raises(AssertionError, match=r"after 0 s still 4 instead of 5"):
        wait_until_equal(lambda: 4, 5, timeout=0, interval=0)
