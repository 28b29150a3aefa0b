"""contextlib.AsyncExitStack: one timeout around it ends the first close that hangs, and the second hangs forever."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from gateway.lifecycle import LifecycleStack, TeardownError


@asynccontextmanager
async def hanging() -> AsyncGenerator[None]:
    try:
        yield
    finally:
        await asyncio.Event().wait()


async def broken() -> None:
    async with asyncio.timeout(0.2):
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(hanging())
            await stack.enter_async_context(hanging())


async def fixed() -> None:
    async with LifecycleStack() as stack:
        await stack.enter("first", hanging(), start_timeout=1, stop_timeout=0.1)
        await stack.enter("second", hanging(), start_timeout=1, stop_timeout=0.1)


async def test_second_hanging_close_outlasts_timeout() -> None:
    """The timeout cancels once: after a second the stack still waits for its second close."""
    running = asyncio.create_task(broken())

    await asyncio.wait({running}, timeout=1)

    assert not running.done(), "fixed upstream: a timeout cancels more than once"
    running.cancel()
    await asyncio.wait({running}, timeout=2)
    assert running.done()


async def test_timeout_per_entry_ends_both() -> None:
    """With a timeout for each entry both are aborted, and both are reported."""
    started = time.monotonic()
    with pytest.raises(TeardownError) as raised:
        await fixed()
    assert [str(error) for error in raised.value.exceptions] == [
        "second was not released within 0.1 s",
        "first was not released within 0.1 s",
    ]
    assert time.monotonic() - started < 1
