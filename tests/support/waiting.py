"""Waiting until a condition holds.

A timeout here is no claim about speed. It only ends a test that would otherwise wait forever, and it is generous, so that
a busy machine does not fail the test. A test that claims a duration measures it.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

TIMEOUT = 30.0
INTERVAL = 0.02


async def wait_until(
    condition: Callable[[], Awaitable[object] | bool], description: str, *, timeout: float = TIMEOUT
) -> None:
    """Return as soon as the condition holds. It is checked once more after the deadline.

    Args:
        condition: a function, async or not; the condition holds when its result is true.
        description: the condition in words, for the error.
        timeout: seconds after which the test fails.

    Raises:
        AssertionError: the condition still does not hold.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() <= deadline:
        if await _result(condition()):
            return
        await asyncio.sleep(INTERVAL)
    if not await _result(condition()):
        raise AssertionError(f"timed out after {timeout:g} s: {description}")


def wait_until_equal(
    observe: Callable[[], object], expected: object, *, timeout: float = TIMEOUT, interval: float = 0.2
) -> None:
    """Return as soon as `observe()` returns the expected value. For tests that are not async.

    Raises:
        AssertionError: `observe()` still returns another value; the message has both.
    """
    deadline = time.monotonic() + timeout
    while (observed := observe()) != expected:
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout:g} s still {observed!r} instead of {expected!r}")
        time.sleep(interval)


async def _result(value: Awaitable[object] | bool) -> object:
    return await value if inspect.isawaitable(value) else value
