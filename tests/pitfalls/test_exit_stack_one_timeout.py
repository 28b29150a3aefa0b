"""contextlib.AsyncExitStack: one timeout around it frees the first close that hangs, and waits for the second for ever."""

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


async def naive() -> None:
    async with asyncio.timeout(0.2):
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(hanging())
            await stack.enter_async_context(hanging())


async def cure() -> None:
    async with LifecycleStack() as stack:
        await stack.enter("first", hanging(), start_timeout=1, stop_timeout=0.1)
        await stack.enter("second", hanging(), start_timeout=1, stop_timeout=0.1)


async def test_the_second_is_waited_for() -> None:
    living = asyncio.create_task(naive())

    await asyncio.wait({living}, timeout=1)

    assert not living.done(), "a timeout cancels more than once by now"
    living.cancel()
    await asyncio.wait({living}, timeout=2)
    assert living.done()


async def test_a_limit_for_each_frees_both() -> None:
    began = time.monotonic()
    with pytest.raises(TeardownError) as raised:
        await cure()
    assert [str(error) for error in raised.value.exceptions] == [
        "second was not released within 0.1 s",
        "first was not released within 0.1 s",
    ]
    assert time.monotonic() - began < 1
